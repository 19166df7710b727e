//! Which addresses count as one: a source is an IPv4 address or an IPv6 /64, a netblock a /24 or a /48.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub(super) fn source(address: IpAddr) -> IpAddr {
    masked(address.to_canonical(), 32, 64)
}

pub(super) fn netblock(address: IpAddr) -> IpAddr {
    masked(address.to_canonical(), 24, 48)
}

/// The network of an address, by the length of its prefix.
fn masked(address: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from(u32::from(address) & u32::MAX.checked_shl(32 - v4).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & u128::MAX.checked_shl(128 - v6).unwrap_or(u128::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_peer_can_choose_freely_is_one_source() {
        for (address, of_source, of_netblock) in [
            ("192.0.2.77", "192.0.2.77", "192.0.2.0"),
            ("::ffff:192.0.2.77", "192.0.2.77", "192.0.2.0"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::", "2001:db8:1::"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!((source(address).to_string(), netblock(address).to_string()), (of_source.to_owned(), of_netblock.to_owned()));
        }
    }
}
