//! Entry points of the fuzz targets in `fuzz/`: one function for everything that reads a peer's bytes.
//!
//! Compiled for fuzzing and for the tests, where [`tests`] runs each over its seeds and mutations of them. Each returns on any input, or
//! panics with what it found.

#[cfg(test)]
mod tests;

pub use crate::commands::fuzzing::command_words;
pub use crate::door::fuzzing::{authorized_keys, certificate, door_channels, login_request, proxy_header};
pub use crate::gse::fuzzing::api_answer;
pub use crate::pins::fuzzing::pins;
pub use crate::recording::fuzzing::file_operations;
pub use crate::splice::fuzzing::splice;
pub use crate::transport::fuzzing::{auth_client, auth_server, kex_messages, kexinit, leg_client, leg_server, packet_reader};
pub use crate::upstream::fuzzing::instance_secret;

use crate::access::{FleetAliases, FleetId, TargetName};

/// Property tests that build sessions or wait for paused clocks are few in every run; `PROPTEST_CASES` says how many else.
#[cfg(test)]
pub(crate) fn few_cases(cases: u32) -> proptest::test_runner::Config {
    let config = proptest::test_runner::Config { failure_persistence: None, ..Default::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() { config } else { proptest::test_runner::Config { cases, ..config } }
}

/// A fuzzer's bytes, read as decisions. At their end every decision is zero and [`Script::is_over`].
pub(crate) struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    pub(crate) fn u16(&mut self) -> usize {
        usize::from(self.u8()) << 8 | usize::from(self.u8())
    }

    /// Below `n`, which is at least 1.
    pub(crate) fn below(&mut self, n: usize) -> usize {
        usize::from(self.u8()) % n
    }

    pub(crate) fn choose<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let at = self.below(from.len().max(1));
        from.get(at).copied()
    }

    /// `n` bytes, or what is left.
    pub(crate) fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// As many bytes as the next one says.
    pub(crate) fn short(&mut self) -> &'a [u8] {
        let n = self.u8();
        self.take(usize::from(n))
    }

    /// As many bytes as the next two say.
    pub(crate) fn long(&mut self) -> &'a [u8] {
        let n = self.u16();
        self.take(n)
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// [`TargetName::parse`]: what it takes has one of the three forms, in lower case, and reads the same again.
pub fn target_name(data: &[u8]) {
    let mut aliases = FleetAliases::default();
    let fleet = FleetId::parse("fleet-qp3g3caa-iectl8nb");
    assert!(fleet.is_ok_and(|fleet| aliases.insert("prod", fleet).is_ok()));
    let text = String::from_utf8_lossy(data);
    let Ok(name) = TargetName::parse(&text, &aliases) else { return };
    assert!(name.typed.eq_ignore_ascii_case(&text) && name.typed.len() <= TargetName::MAX_LEN);
    assert!(name.typed.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.')));
    assert!(name.typed.starts_with(name.instance.as_str()) && name.instance.as_str().starts_with("ins-"));
    assert!(name.fleet.as_ref().is_none_or(|fleet| fleet.as_str().starts_with("fleet-")));
    assert!(TargetName::parse(&name.typed, &aliases) == Ok(name));
}
