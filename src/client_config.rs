//! What an operator pastes to reach instances through the broker: two blocks of `~/.ssh/config`, two lines of `~/.ssh/known_hosts`.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::Serialize;

use crate::access::Invalid;
use crate::keys::{KeysError, PublicKeys};

/// Where operators reach the broker: a host name or an address. In lower case, as ssh looks it up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerHost(String);

impl BrokerHost {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let right = "write a host name such as bastion.example.com, or an address such as 192.0.2.7 or 2001:db8::7";
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            return match address.is_unspecified() {
                true => Err(Invalid(format!("{text:?} is where a server listens, not what a client can reach: {right}"))),
                false => Ok(Self(address.to_string())),
            };
        }
        let is_label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let looks_numeric = text.split('.').next_back().is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
        if text.len() <= 253 && text.split('.').all(is_label) && !looks_numeric {
            return Ok(Self(text.to_ascii_lowercase()));
        }
        let shown: String = text.chars().take(80).collect();
        Err(Invalid(format!("{shown:?} is neither a host name nor an address: {right} (the port goes to --port)")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As known_hosts names it (sshd(8), SSH_KNOWN_HOSTS FILE FORMAT): with a port other than 22 in brackets.
    fn in_known_hosts(&self, port: NonZeroU16) -> String {
        match port.get() {
            22 => self.0.clone(),
            port => format!("[{}]:{port}", self.0),
        }
    }
}

/// The text to paste, by the file it belongs to; shown, it is one text with a heading for each.
///
/// The broker's own key is pinned, so that no first connection has to be trusted; whatever key an inner leg presents is vouched for by the
/// CA, and only for names of instances: a pattern's `*` matches dots too, so `ins-*` covers `ins-….prod` and `ins-….fleet-…`.
/// `StrictHostKeyChecking yes` makes everything else an error where ssh would ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Paste {
    pub ssh_config: String,
    pub known_hosts: String,
}

impl Paste {
    pub fn new(host: &BrokerHost, port: NonZeroU16, keys: &PublicKeys) -> Result<Self, KeysError> {
        let known_as = host.in_known_hosts(port);
        let host = host.as_str();
        let (host_key, ca_key) = (bare(&keys.host)?, bare(&keys.ca)?);
        let ssh_config = format!(
            "\
# The broker. If your operator name is not your local user name, take the # off User.

Host broker
    HostName {host}
    Port {port}
    # User alice
    StrictHostKeyChecking yes
    UpdateHostKeys no

# Instances: ssh ins-gi2lxw, scp, rsync, ansible. The user name is of no consequence here: the broker knows the login.

Host ins-*
    ProxyJump broker
    Port 22
    StrictHostKeyChecking yes
    UpdateHostKeys no
"
        );
        let known_hosts = format!(
            "\
# The broker's own key, then the authority that vouches for instances (and for nothing else).

{known_as} {host_key}
@cert-authority ins-* {ca_key}
"
        );
        Ok(Self { ssh_config, known_hosts })
    }
}

impl fmt::Display for Paste {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ssh_config, known_hosts } = self;
        write!(f, "# ==== ~/.ssh/config ====\n{ssh_config}\n# ==== ~/.ssh/known_hosts ====\n{known_hosts}")
    }
}

/// Type and key, without the comment.
fn bare(key: &ssh_key::PublicKey) -> Result<String, KeysError> {
    Ok(ssh_key::PublicKey::from(key.key_data().clone()).to_openssh()?)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::keys::Keys;

    fn port(port: u16) -> NonZeroU16 {
        NonZeroU16::new(port).unwrap()
    }

    fn output(host: &str, number: u16) -> (String, String) {
        let dir = tempfile::tempdir().unwrap();
        Keys::load_or_create(dir.path()).unwrap();
        let keys = PublicKeys::load(dir.path()).unwrap();
        let paste = Paste::new(&BrokerHost::parse(host).unwrap(), port(number), &keys).unwrap();
        assert_eq!(paste.to_string().lines().filter(|line| line.starts_with("# ==== ~/.ssh/")).count(), 2);
        (paste.ssh_config, paste.known_hosts)
    }

    /// What ssh makes of the configuration for one destination, `None` where there is no ssh.
    fn effective(config: &str, destination: &str) -> Option<Vec<String>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), config).unwrap();
        let output = Command::new("ssh").arg("-G").arg("-F").arg(file.path()).arg(destination).output().ok()?;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect())
    }

    #[test]
    fn ssh_reads_the_blocks_as_they_are_meant() {
        let (config, _) = output("Bastion.Example.com", 2222);
        for instance in ["ins-gi2lxw", "ins-gi2lxw.prod", "root@ins-gi2lxw.fleet-qp3g3caa-iectl8nb"] {
            let Some(lines) = effective(&config, instance) else { return };
            for expected in ["proxyjump broker", "port 22", "stricthostkeychecking true", "updatehostkeys false"] {
                assert!(lines.iter().any(|line| line == expected), "{instance}: {expected} in {lines:?}");
            }
        }
        let broker = effective(&config, "broker").unwrap();
        for expected in ["hostname bastion.example.com", "port 2222", "stricthostkeychecking true"] {
            assert!(broker.iter().any(|line| line == expected), "{expected} in {broker:?}");
        }
        let other = effective(&config, "www.example.com").unwrap();
        assert!(!other.iter().any(|line| line.starts_with("proxyjump")), "{other:?}");
    }

    #[test]
    fn known_hosts_is_found_under_the_names_that_ssh_looks_for() {
        for (host, number, name) in [
            ("bastion.example.com", 22, "bastion.example.com"),
            ("bastion.example.com", 2222, "[bastion.example.com]:2222"),
            ("192.0.2.7", 2222, "[192.0.2.7]:2222"),
            ("[2001:DB8::7]", 22, "2001:db8::7"),
            ("2001:db8::7", 2222, "[2001:db8::7]:2222"),
        ] {
            let (_, known_hosts) = output(host, number);
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &known_hosts).unwrap();
            for (name, marker) in [(name, ""), ("ins-gi2lxw", "CA"), ("ins-gi2lxw.prod", "CA"), ("ins-a.fleet-a-b", "CA")] {
                let Ok(found) = Command::new("ssh-keygen").args(["-F", name, "-f"]).arg(file.path()).output() else { return };
                let text = String::from_utf8(found.stdout).unwrap();
                assert!(found.status.success(), "{name} in {known_hosts}");
                assert_eq!(text.lines().next().unwrap().ends_with("CA"), marker == "CA", "{text}");
            }
            let other = Command::new("ssh-keygen").args(["-F", "www.example.com", "-f"]).arg(file.path()).output().unwrap();
            assert!(!other.status.success());
        }
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_nothing_that_could_add_a_line() {
        let long = "a".repeat(64);
        for bad in [
            "",
            "a b",
            "a\nProxyCommand x",
            "-oProxyCommand=x",
            "host:22",
            "user@host",
            "a..b",
            "host.",
            "*",
            "!a",
            "[::]",
            "0.0.0.0",
            "1.2.3",
            "300.1.1.1",
            &long,
            "%h",
            "ä.example",
        ] {
            let error = BrokerHost::parse(bad).unwrap_err().to_string();
            assert!(error.contains("bastion.example.com"), "{error}");
        }
    }
}
