use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use russh::keys::{Algorithm, EcdsaCurve, HashAlg};
use russh::server::Config;
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};
use ssh_key::PrivateKey;

use super::Limits;
use super::gauge;
use super::prelude::IDENTIFICATION;

const KEX: &[kex::Name] = &[
    kex::MLKEM768X25519_SHA256,
    kex::CURVE25519,
    kex::CURVE25519_PRE_RFC_8731,
    kex::ECDH_SHA2_NISTP256,
    kex::ECDH_SHA2_NISTP384,
    kex::ECDH_SHA2_NISTP521,
    kex::DH_G16_SHA512,
    kex::DH_G14_SHA256,
    kex::EXTENSION_SUPPORT_AS_SERVER,
    kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
];

/// The host key is the first; the others are what `server-sig-algs` tells the client that its own key may sign with (RFC 8308, 3.1).
const KEYS: &[Algorithm] = &[
    Algorithm::Ed25519,
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
    Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
    Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
    Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
];

const GCM: &[cipher::Name] = &[cipher::AES_128_GCM, cipher::AES_256_GCM];
const WIDE: &[cipher::Name] =
    &[cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_128_CTR, cipher::AES_192_CTR, cipher::AES_256_CTR];
const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];

/// A rejected key is answered after this long, whatever it took to look for it: so an unknown operator's answer tells nothing.
const REJECTION: Duration = Duration::from_millis(30);
/// Keys that an honest client may offer in vain beside `limits.attempts`: its opening `none` and an agent full of keys for elsewhere.
const VAIN_OFFERS: usize = 16;

/// The library's configuration, by which ciphers it offers.
#[derive(Debug)]
pub(super) struct Algorithms {
    gcm: Arc<Config>,
    wide: Arc<Config>,
}

impl Algorithms {
    pub(super) fn new(host_key: &PrivateKey, limits: &Limits) -> Self {
        let config = |ciphers: &'static [cipher::Name]| Arc::new(config(host_key, limits, ciphers));
        Self { gcm: config(GCM), wide: config(WIDE) }
    }

    /// A client's own order decides between what both have, and stock OpenSSH before 10 puts the slower ciphers first: so a client that is
    /// known to have AES-GCM is offered nothing else, unless it has just failed at that.
    pub(super) fn for_client(&self, client_version: &str, failed_at_gcm: bool) -> Arc<Config> {
        if has_gcm(client_version) && !failed_at_gcm { self.gcm.clone() } else { self.wide.clone() }
    }
}

/// Every field is set, so that no default of the library is taken unseen.
fn config(host_key: &PrivateKey, limits: &Limits, ciphers: &'static [cipher::Name]) -> Config {
    Config {
        server_id: SshId::Standard(Cow::Borrowed(IDENTIFICATION)),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REJECTION,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key.clone()],
        certificates: Vec::new(),
        // RFC 4253, 9. The library takes no more than 1 GiB.
        limits: russh::Limits::new(1 << 30, 1 << 30, Duration::from_secs(3600)),
        window_size: gauge::window(limits.pipe),
        maximum_packet_size: 32 << 10,
        channel_buffer_size: gauge::queue_len(limits.pipe),
        event_buffer_size: 16,
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Borrowed(KEYS),
            host_key_certificates: Cow::Borrowed(&[]),
            cipher: Cow::Borrowed(ciphers),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(&[compression::NONE]),
        },
        max_auth_attempts: limits.attempts.saturating_add(VAIN_OFFERS),
        inactivity_timeout: None,
        // A host that is gone is TCP's to notice; this is for a client that is stuck.
        keepalive_interval: Some(Duration::from_secs(60)),
        keepalive_max: 15,
        // Set on the socket before the library sees it.
        nodelay: false,
    }
}

/// Whether a client of this version has AES-GCM: OpenSSH since 6.2, `PuTTY` since 0.81, `AsyncSSH`, and `libssh` since 0.9.
fn has_gcm(client_version: &str) -> bool {
    let software = client_version.split_once('-').and_then(|(_, rest)| rest.split_once('-')).map_or("", |(_, software)| software);
    let at_least = |prefix: &str, major: u32, minor: u32| {
        software.strip_prefix(prefix).and_then(version).is_some_and(|version| version >= (major, minor))
    };
    at_least("OpenSSH_", 6, 2)
        || at_least("OpenSSH_for_Windows_", 6, 2)
        || at_least("PuTTY_Release_", 0, 81)
        || at_least("libssh_", 0, 9)
        || software.starts_with("AsyncSSH_")
}

/// The two first numbers of `9.2p1 Debian`.
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, rest) = text.split_once('.')?;
    let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clients_known_to_have_gcm_are_held_to_it() {
        for (version, gcm) in [
            ("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u10", true),
            ("SSH-2.0-OpenSSH_10.0", true),
            ("SSH-2.0-OpenSSH_for_Windows_9.5", true),
            ("SSH-2.0-OpenSSH_6.1", false),
            ("SSH-2.0-OpenSSH_", false),
            ("SSH-2.0-PuTTY_Release_0.81", true),
            ("SSH-2.0-PuTTY_Release_0.78", false),
            ("SSH-2.0-dropbear_2022.83", false),
            ("SSH-2.0-paramiko_2.7.2", false),
            ("SSH-2.0-AsyncSSH_2.14.2", true),
            ("SSH-2.0-Go", false),
            ("", false),
        ] {
            assert_eq!(has_gcm(version), gcm, "{version}");
        }
    }
}
