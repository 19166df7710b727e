use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Metadata services that answer outside the link-local ranges: Alibaba's; AWS's over IPv6.
const METADATA: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254))];

/// Whether an address that the cloud API gave may be dialled. With no networks configured: any but loopback, link-local (the cloud's
/// metadata service is there), multicast, broadcast, unspecified and known metadata addresses. With some: those and no others.
pub(super) fn may_dial(address: IpAddr, allowed: &[IpNet]) -> bool {
    let address = address.to_canonical();
    if !allowed.is_empty() {
        return allowed.iter().any(|network| network.contains(&address));
    }
    let special = match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast() || v4.octets().first() == Some(&0),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    !(special || address.is_loopback() || address.is_multicast() || address.is_unspecified() || METADATA.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_an_instance_is_not_dialled() {
        let may = |address: &str, allowed: &[&str]| {
            let allowed: Vec<IpNet> = allowed.iter().map(|network| network.parse().unwrap()).collect();
            may_dial(address.parse().unwrap(), &allowed)
        };
        for bad in [
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "169.254.0.23",
            "169.254.169.254",
            "fe80::1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "100.100.100.200",
        ] {
            assert!(!may(bad, &[]), "{bad}");
        }
        for good in ["10.0.0.1", "192.168.1.1", "203.0.113.9", "2001:db8::1", "::ffff:10.0.0.1"] {
            assert!(may(good, &[]), "{good}");
        }
        assert!(may("127.0.0.1", &["127.0.0.0/8"]));
        assert!(may("::ffff:10.1.2.3", &["10.0.0.0/8"]));
        assert!(!may("11.0.0.1", &["10.0.0.0/8", "2001:db8::/32"]));
    }
}
