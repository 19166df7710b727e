use std::net::IpAddr;

use super::{Invalid, Network, Ports, wildcard_matches};

/// Where a forward may go, as in `forward_to`: `10.0.0.0/8:*`, `[fd00::/8]:443`, `db.internal:5432`, `*.internal:8000-8100`, `/run/*.sock`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// Addresses as such: a name is never looked up, so a name that stands for one of them does not match.
    Network(Network, Option<Ports>),
    /// A host name with wildcards, in lower case.
    Host(String, Option<Ports>),
    /// An absolute path; wildcards stay between two slashes.
    Path(String),
}

impl Destination {
    pub const RIGHT: &'static str = "write \"10.0.0.0/8:*\", \"[fd00::/8]:443\", \"db.internal:5432\", \"localhost:8000-8100\" or the path of a socket, \"/run/*.sock\"";

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let shown: String = text.chars().take(80).collect();
        let wrong = |what: &str| Invalid(format!("{shown:?} {what}: {}", Self::RIGHT));
        if text.starts_with('/') {
            return match is_plain_path(text) {
                true => Ok(Self::Path(text.to_owned())),
                false => Err(wrong("is not a plain absolute path, without //, /./ and /../")),
            };
        }
        let (host, ports) = text.rsplit_once(':').ok_or_else(|| wrong("has no port"))?;
        let ports = match ports {
            "*" => None,
            ports => Some(Ports::parse(ports).map_err(|_| wrong("has no port, range of ports or * at its end"))?),
        };
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if let Some(network) = bracketed.or((host.contains('/') || host.parse::<IpAddr>().is_ok()).then_some(host)) {
            let network = Network::parse(network).map_err(|invalid| wrong(&format!("holds no network ({invalid})")))?;
            if network.is_ipv6() && bracketed.is_none() {
                return Err(wrong("needs brackets around its IPv6 network"));
            }
            return Ok(Self::Network(network, ports));
        }
        let host = host.to_ascii_lowercase();
        let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'*' | b'?');
        if host.is_empty() || host.len() > 253 || !host.bytes().all(is_host) {
            return Err(wrong("names no host"));
        }
        // `10.*` would also match the name `10.example.com`.
        if host != "*" && !host.bytes().any(|b| b.is_ascii_lowercase()) {
            return Err(wrong("has wildcards in an address; a network says it"));
        }
        Ok(Self::Host(host, ports))
    }

    /// Whether it covers the host and port of a direct-tcpip open, which are the operator's text.
    pub fn covers(&self, host: &str, port: u32) -> bool {
        let port_fits = |ports: &Option<Ports>| match ports {
            None => true,
            Some(ports) => u16::try_from(port).is_ok_and(|port| ports.contains(port)),
        };
        match self {
            Self::Network(network, ports) => host.parse().is_ok_and(|address| network.contains(address)) && port_fits(ports),
            Self::Host(pattern, ports) => {
                host.len() <= 253 && wildcard_matches(pattern.as_bytes(), host.to_ascii_lowercase().as_bytes()) && port_fits(ports)
            }
            Self::Path(_) => false,
        }
    }

    /// Whether it covers the path of a direct-streamlocal open.
    pub fn covers_path(&self, path: &str) -> bool {
        let Self::Path(pattern) = self else { return false };
        is_plain_path(path)
            && pattern.split('/').count() == path.split('/').count()
            && pattern.split('/').zip(path.split('/')).all(|(pattern, part)| wildcard_matches(pattern.as_bytes(), part.as_bytes()))
    }
}

/// Absolute, and every part of it a name.
fn is_plain_path(path: &str) -> bool {
    path.len() <= 256
        && path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_covers_its_own_and_nothing_else() {
        for (pattern, host, port, covered) in [
            ("10.0.0.0/8:*", "10.1.2.3", 1, true),
            ("10.0.0.0/8:*", "::ffff:10.1.2.3", 1, true),
            ("10.0.0.0/8:*", "11.1.2.3", 1, false),
            ("10.0.0.0/8:*", "10.1.2.3.example.com", 1, false),
            ("10.0.0.0/8:*", "10.1", 1, false),
            ("10.0.0.0/8:*", "0x0a010203", 1, false),
            ("192.0.2.1:22", "192.0.2.1", 22, true),
            ("192.0.2.1:22", "192.0.2.1", 23, false),
            ("[fd00::/8]:443", "fd12::1", 443, true),
            ("[fd00::/8]:443", "fd12::1%eth0", 443, false),
            ("db.internal:5432", "DB.internal", 5432, true),
            ("db.internal:5432", "db.internal", 65536 + 5432, false),
            ("db.internal:5432", "db.internal.", 5432, false),
            ("localhost:8000-8100", "localhost", 8100, true),
            ("localhost:8000-8100", "localhost", 8101, false),
            ("localhost:8000-8100", "127.0.0.1", 8000, false),
            ("*.internal:*", "a.b.internal", 1, true),
            ("*.internal:*", "internal", 1, false),
            ("*:80", "anything", 80, true),
            ("/run/*.sock", "/run/x.sock", 80, false),
        ] {
            assert_eq!(Destination::parse(pattern).unwrap().covers(host, port), covered, "{pattern} {host} {port}");
        }
    }

    #[test]
    fn a_paths_wildcards_stay_between_two_slashes() {
        let run = Destination::parse("/run/*.sock").unwrap();
        for (path, covered) in [
            ("/run/x.sock", true),
            ("/run/a/x.sock", false),
            ("/run/../etc/x.sock", false),
            ("/run/..sock", true),
            ("//run/x.sock", false),
            ("run/x.sock", false),
            ("/run/x.sock/", false),
            ("/run/x\0.sock", false),
        ] {
            assert_eq!(run.covers_path(path), covered, "{path:?}");
        }
        let one = Destination::parse("/run/*/docker.sock").unwrap();
        assert!(one.covers_path("/run/a/docker.sock") && !one.covers_path("/run/../docker.sock"));
        assert!(!Destination::parse("*:*").unwrap().covers_path("/run/x.sock"));
    }

    #[test]
    fn nonsense_is_refused_with_what_was_wrong() {
        for (text, what) in [
            ("", "has no port"),
            ("db.internal", "has no port"),
            ("db.internal:", "has no port"),
            ("db.internal:0", "range of ports"),
            (":80", "names no host"),
            ("a b:80", "names no host"),
            ("10.1.0.0/8:*", "first 8 bits"),
            ("10.0.0.0/40:*", "not a network"),
            ("fd00::/8:443", "brackets"),
            ("[fd00::/8:443", "holds no network"),
            ("[host]:443", "not a network"),
            ("10.*:80", "a network says it"),
            ("/run/../x", "plain absolute path"),
            ("/", "plain absolute path"),
            ("run/x.sock", "has no port"),
        ] {
            let error = Destination::parse(text).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("db.internal:5432"), "{text}: {error}");
        }
    }
}
