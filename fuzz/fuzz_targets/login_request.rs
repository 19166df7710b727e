#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ssh_broker::fuzzing::login_request(data));
