use std::net::IpAddr;

use super::Invalid;

/// `10.0.0.0/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u32,
}

impl Network {
    /// One address is a network of its own, and bits beyond the prefix are a slip.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let shown: String = text.chars().take(80).collect();
        let wrong = || Invalid(format!("{shown:?} is not a network: write \"10.0.0.0/8\", \"fd00::/8\" or one address"));
        let (address, prefix) = match text.split_once('/') {
            None => (text, None),
            Some((address, prefix)) => (address, Some(prefix)),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = width(address);
        let prefix = match prefix {
            None => longest,
            Some(digits) if digits.len() <= 3 && digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().map_err(|_| wrong())?,
            Some(_) => return Err(wrong()),
        };
        if prefix > longest {
            return Err(wrong());
        }
        let network = Self { address, prefix };
        if bits(address) & !network.mask() != 0 {
            return Err(Invalid(format!("{shown:?} has bits set beyond its prefix: the first {prefix} bits alone may be")));
        }
        Ok(network)
    }

    /// An IPv4 address inside of IPv6 (`::ffff:192.0.2.1`) is the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        width(address) == width(self.address) && bits(address) & self.mask() == bits(self.address)
    }

    pub fn is_ipv6(&self) -> bool {
        self.address.is_ipv6()
    }

    fn mask(&self) -> u128 {
        u128::MAX.checked_shl(128 - self.prefix).unwrap_or(0)
    }
}

fn width(address: IpAddr) -> u32 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The address's bits, the first one uppermost.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_own_and_nothing_else() {
        for (network, address, contained) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.0", false),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("10.0.0.0/8", "a00::", false),
            ("0.0.0.0/0", "203.0.113.1", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::/0", "2001:db8::1", true),
            ("192.0.2.7", "192.0.2.7", true),
            ("192.0.2.7", "192.0.2.6", false),
            ("fd00::/9", "fd7f::1", true),
            ("fd00::/9", "fd80::1", false),
        ] {
            assert_eq!(Network::parse(network).unwrap().contains(address.parse().unwrap()), contained, "{network} {address}");
        }
        for bad in
            ["", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.1.0.0/8", "::1/0", "host/8", "10.0.0/8", "fd00::/129", "10.0.0.0/8/8"]
        {
            assert!(Network::parse(bad).is_err(), "{bad}");
        }
        assert!(Network::parse("10.1.0.0/8").unwrap_err().to_string().contains("first 8 bits"));
    }
}
