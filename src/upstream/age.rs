//! How old an instance is by what it and the cloud say of it. Asked only where its own offer of algorithms does not come.

/// The first OpenSSH with Curve25519 and nothing missing that a modern leg needs.
const OPENSSH: (u32, u32) = (6, 5);
/// The same of Dropbear, which counts in years.
const DROPBEAR: u32 = 2014;
/// Distributions as the cloud API names them (`centos6.7`, `Ubuntu Server 14.04.1 LTS 64bit`) and their first release with that OpenSSH.
const SYSTEMS: [(&str, u32); 10] = [
    ("centos", 7),
    ("redhat", 7),
    ("rhel", 7),
    ("oracle", 7),
    ("debian", 8),
    ("ubuntu", 14),
    ("opensuse", 42),
    ("suse", 12),
    ("fedora", 21),
    ("freebsd", 11),
];

/// Whether an instance is likely to need legacy algorithms. Its version line counts more than the name of its system.
pub(super) fn is_old(version: &str, operating_system: Option<&str>) -> bool {
    let software = version.strip_prefix("SSH-2.0-").or_else(|| version.strip_prefix("SSH-1.99-")).unwrap_or_default();
    if let Some(release) = software.strip_prefix("OpenSSH_") {
        let mut numbers = numbers(release);
        return (numbers.next().unwrap_or(u32::MAX), numbers.next().unwrap_or(0)) < OPENSSH;
    }
    if let Some(release) = software.strip_prefix("dropbear_") {
        return numbers(release).next().is_some_and(|year| year < DROPBEAR);
    }
    let system = operating_system.unwrap_or_default().to_ascii_lowercase();
    let of = |(name, first): &(&str, u32)| {
        let (_, release) = system.split_once(name)?;
        Some(numbers(release).next()? < *first)
    };
    SYSTEMS.iter().find_map(of).unwrap_or(false)
}

/// The numbers of a text in order; one that is too large for any release is left out.
fn numbers(text: &str) -> impl Iterator<Item = u32> + '_ {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_line_decides_and_then_the_systems_name() {
        for (version, system, expected) in [
            ("SSH-2.0-OpenSSH_5.3", None, true),
            ("SSH-2.0-OpenSSH_6.4p1 Debian-1", None, true),
            ("SSH-1.99-OpenSSH_3.9p1", None, true),
            ("SSH-2.0-OpenSSH_6.5", None, false),
            ("SSH-2.0-OpenSSH_6.6.1p1 Ubuntu-2ubuntu2", Some("centos6.7"), false),
            ("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3", None, false),
            ("SSH-2.0-OpenSSH_10.0", None, false),
            ("SSH-2.0-OpenSSH_", Some("centos6.7"), false),
            ("SSH-2.0-dropbear_2012.55", None, true),
            ("SSH-2.0-dropbear_2022.83", None, false),
            ("SSH-2.0-Something", None, false),
            ("SSH-2.0-Something", Some("centos6.7"), true),
            ("SSH-2.0-Something", Some("CentOS Linux 7.9 64bit"), false),
            ("SSH-2.0-Something", Some("Ubuntu Server 12.04.1 LTS 64bit"), true),
            ("SSH-2.0-Something", Some("Ubuntu Server 22.04"), false),
            ("SSH-2.0-Something", Some("Debian"), false),
            ("SSH-2.0-Something", Some("openSUSE 13.2"), true),
            ("SSH-2.0-Something", Some("Windows Server 2012"), false),
            ("", Some("debian 99999999999999999999 7"), true),
        ] {
            assert_eq!(is_old(version, system), expected, "{version:?} {system:?}");
        }
    }
}
