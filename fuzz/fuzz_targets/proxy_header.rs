#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ssh_broker::fuzzing::proxy_header(data));
