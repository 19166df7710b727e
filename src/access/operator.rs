use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use super::Invalid;

/// The name an operator is known by: the outer SSH user name, the file in `authorized_keys_dir`, a certificate principal.
///
/// **Invariant**: 1 to 64 of `[A-Za-z0-9._@-]`, the first a letter, digit or underscore; so it is safe as a file name and in a log line.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OperatorName(Arc<str>);

impl OperatorName {
    pub const MAX_LEN: usize = 64;

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '@' | '-');
        if starts_well && text.len() <= Self::MAX_LEN && text.chars().all(is_name) {
            return Ok(Self(text.into()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(Invalid(format!(
            "{shown:?} is not an operator name: 1 to {} letters, digits, '.', '_', '@', '-', beginning with a letter, digit or '_'",
            Self::MAX_LEN
        )))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperatorName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the operator's own key or certificate takes away, whatever the grants say (`restrict`, `no-pty`, … of authorized_keys; the
/// `permit-*` extensions that a certificate lacks).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Restrictions {
    pub no_pty: bool,
    pub no_port_forwarding: bool,
    pub no_agent_forwarding: bool,
    pub no_x11_forwarding: bool,
}

impl Restrictions {
    /// `restrict` in authorized_keys.
    pub const ALL: Self = Self { no_pty: true, no_port_forwarding: true, no_agent_forwarding: true, no_x11_forwarding: true };
}

/// A person, proven: made by the door only after a signature was verified.
#[derive(Debug, Clone)]
pub struct Operator {
    pub name: OperatorName,
    /// The fingerprint of the key that was proven (`SHA256:…`), for a certificate with its key id and serial behind it.
    pub key: Arc<str>,
    /// Where the operator's connection comes from.
    pub source: SocketAddr,
    pub restrictions: Restrictions,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_file_names() {
        for good in ["alice", "a.b-c_d@example.com", "_svc", "0day", &"a".repeat(64)] {
            assert!(OperatorName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "-x", "@all", "a/b", "a b", "é", "a\n", "a\0", &"a".repeat(65)] {
            assert!(OperatorName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
