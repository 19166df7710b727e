/// Whether a client of this name has AES-GCM for certain. OpenSSH since 6.2; asyncssh in every 2.x.
///
/// Those are offered nothing else: the client's order decides among what is offered, and OpenSSH before 10 prefers ciphers of twice the cost.
pub(super) fn has_aes_gcm(version: &str) -> bool {
    let Some(software) = version.strip_prefix("SSH-2.0-") else { return false };
    if let Some(release) = software.strip_prefix("OpenSSH_") {
        let number = |text: &str| {
            text.bytes().take_while(u8::is_ascii_digit).fold(0u32, |n, digit| n.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
        };
        let (major, minor) = release.split_once('.').unwrap_or((release, ""));
        return (number(major), number(minor)) >= (6, 2);
    }
    software.starts_with("AsyncSSH_2.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_known_to_have_it_are_offered_gcm_alone() {
        for (version, expected) in [
            ("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u6", true),
            ("SSH-2.0-OpenSSH_10.0", true),
            ("SSH-2.0-OpenSSH_for_Windows_9.5", false),
            ("SSH-2.0-OpenSSH_6.2", true),
            ("SSH-2.0-OpenSSH_6.1p1", false),
            ("SSH-2.0-OpenSSH_5.3", false),
            ("SSH-2.0-AsyncSSH_2.21.0", true),
            ("SSH-2.0-dropbear_2022.83", false),
            ("SSH-2.0-paramiko_3.4.0", false),
            ("SSH-2.0-PuTTY_Release_0.78", false),
            ("", false),
        ] {
            assert_eq!(has_aes_gcm(version), expected, "{version}");
        }
    }
}
