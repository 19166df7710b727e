use std::net::IpAddr;

use crate::access::Invalid;

/// Reads a host text as a loopback address: `localhost`, `127.0.0.0/8` or `::1`. The simulated servers know no other network.
pub fn loopback(host: &str) -> Result<IpAddr, Invalid> {
    if host.eq_ignore_ascii_case("localhost") {
        return Ok(IpAddr::from([127, 0, 0, 1]));
    }
    match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) if address.is_loopback() => Ok(address),
        _ => {
            let shown: String = host.chars().take(80).collect();
            Err(Invalid(format!("{shown:?} is not a loopback address: it must be localhost, 127.x.x.x or ::1")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_reachable() {
        assert_eq!(loopback("LocalHost").unwrap(), IpAddr::from([127, 0, 0, 1]));
        assert!(loopback("127.0.0.9").is_ok() && loopback("::1").is_ok() && loopback("[::1]").is_ok());
        for refused in ["", "0.0.0.0", "10.0.0.1", "169.254.0.23", "::", "::ffff:127.0.0.1", "localhost.example", "2130706433"] {
            assert!(loopback(refused).is_err(), "{refused:?}");
        }
    }
}
