use std::net::IpAddr;

use ipnet::IpNet;

use crate::access::{Invalid, wildcard_matches};

/// Where a key may be used from: `from=` of authorized_keys, `source-address` of a certificate.
///
/// Addresses, networks and wildcards over an address's text, each perhaps negated with `!`. Host names are refused: nothing here asks DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SourceList(Vec<(bool, Pattern)>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Network(IpNet),
    Wildcard(String),
}

impl SourceList {
    /// Reads the value of `from=` (sshd(8), ssh_config(5) PATTERNS).
    pub(super) fn parse(text: &str) -> Result<Self, Invalid> {
        let items = text.split(',').map(|item| {
            let (negated, item) = item.strip_prefix('!').map_or((false, item), |rest| (true, rest));
            Ok((negated, Pattern::parse(item.trim())?))
        });
        Ok(Self(items.collect::<Result<_, Invalid>>()?))
    }

    /// Reads the value of `source-address` (PROTOCOL.certkeys): addresses and networks, nothing else.
    pub(super) fn parse_networks(text: &str) -> Result<Self, Invalid> {
        Ok(Self(text.split(',').map(|item| Ok((false, Pattern::Network(network(item)?)))).collect::<Result<_, Invalid>>()?))
    }

    /// A negated match wins over every other, as in OpenSSH.
    pub(super) fn admits(&self, source: IpAddr) -> bool {
        let source = source.to_canonical();
        let text = source.to_string();
        let mut matching = self.0.iter().filter(|(_, pattern)| pattern.matches(source, &text)).peekable();
        matching.peek().is_some() && matching.all(|(negated, _)| !negated)
    }
}

impl Pattern {
    fn parse(item: &str) -> Result<Self, Invalid> {
        if !item.contains(['*', '?']) {
            return network(item).map(Self::Network);
        }
        let is_address_part = |c: char| c.is_ascii_hexdigit() || matches!(c, '.' | ':' | '*' | '?');
        if item.chars().all(is_address_part) && item.len() <= 64 {
            return Ok(Self::Wildcard(item.to_ascii_lowercase()));
        }
        Err(not_an_address(item))
    }

    fn matches(&self, source: IpAddr, text: &str) -> bool {
        match self {
            Self::Network(network) => network.contains(&source),
            Self::Wildcard(pattern) => wildcard_matches(pattern.as_bytes(), text.as_bytes()),
        }
    }
}

/// An address or a network. Bits behind the prefix must be zero, as OpenSSH wants them.
fn network(item: &str) -> Result<IpNet, Invalid> {
    if let Ok(address) = item.parse::<IpAddr>() {
        return Ok(address.to_canonical().into());
    }
    let network: IpNet = item.parse().map_err(|_| not_an_address(item))?;
    if network.network() != network.addr() {
        return Err(Invalid(format!("{network} has bits set behind its prefix: write {}", network.trunc())));
    }
    Ok(network)
}

fn not_an_address(item: &str) -> Invalid {
    let shown: String = item.chars().take(80).collect();
    Invalid(format!(
        "{shown:?} is not an address: it must be an IP address, a network (192.0.2.0/24) or a wildcard over an address (192.0.2.*); host names are not looked up"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_match_as_in_openssh() {
        for (list, source, admitted) in [
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("192.0.2.0/24,2001:db8::/32", "2001:db8::1", true),
            ("192.0.2.*", "192.0.2.77", true),
            ("192.0.2.*", "192.0.20.77", false),
            ("*,!192.0.2.7", "192.0.2.7", false),
            ("!192.0.2.7,*", "192.0.2.7", false),
            ("*,!192.0.2.7", "192.0.2.8", true),
            ("!192.0.2.7", "192.0.2.8", false),
            ("127.0.0.1", "::ffff:127.0.0.1", true),
            ("2001:DB8:*", "2001:db8::5", true),
        ] {
            assert_eq!(SourceList::parse(list).unwrap().admits(source.parse().unwrap()), admitted, "{list} {source}");
        }
        for bad in ["", "host.example", "*.example", "192.0.2.1/24", "192.0.2.0/33", "a,b", "192.0.2.1,"] {
            assert!(SourceList::parse(bad).is_err(), "{bad}");
        }
        assert!(SourceList::parse_networks("192.0.2.*").is_err());
        assert!(SourceList::parse_networks("!192.0.2.1").is_err());
    }
}
