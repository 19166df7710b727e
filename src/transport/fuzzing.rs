//! Fuzz targets of the transport; see [`crate::fuzzing`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a fuzz target tells what it found by a panic")]

mod auth;
mod leg;

use std::cell::RefCell;
use std::collections::HashMap;

pub(crate) use auth::{arrived, with_pair};
pub use auth::{auth_client, auth_server};
pub use leg::{leg_client, leg_server};

use super::cipher::{CipherName, Keys, LEN, Opener, Sealer};
use super::group_exchange;
use super::host_key::{HostKey, SignatureAlgorithm};
use super::kex::{self, Ephemeral, Method};
use super::mac::{Mac, MacName};
use super::packet::{HEADER, Inbound, Outbound};
use super::wire::Reader;
use super::{Buffer, KexInit, MAX_PACKET, Negotiated, Preferences, Role};
use crate::fuzzing::Script;

/// Cipher and MAC of everything that is negotiable.
const SUITES: [(&str, &str); 9] = [
    ("aes128-gcm@openssh.com", ""),
    ("aes256-gcm@openssh.com", ""),
    ("chacha20-poly1305@openssh.com", ""),
    ("aes128-ctr", "hmac-sha2-256"),
    ("aes192-ctr", "hmac-sha2-512"),
    ("aes256-ctr", "hmac-sha2-256"),
    ("aes128-ctr", "hmac-sha2-256-etm@openssh.com"),
    ("aes192-ctr", "hmac-sha2-512-etm@openssh.com"),
    ("aes256-ctr", "hmac-sha2-512-etm@openssh.com"),
];

/// The same of what only old instances are offered.
const LEGACY_SUITES: [(&str, &str); 6] = [
    ("aes128-cbc", "hmac-sha1"),
    ("aes192-cbc", "hmac-md5"),
    ("aes256-cbc", "hmac-sha1-etm@openssh.com"),
    ("3des-cbc", "hmac-md5"),
    ("3des-cbc", "hmac-sha2-256-etm@openssh.com"),
    ("aes256-ctr", "hmac-sha1"),
];

fn keys<'a>((cipher, mac): (&str, &str), material: &'a [u8; 64]) -> Keys<'a> {
    let cipher = CipherName::find(cipher).unwrap();
    let mac = MacName::find(mac).map(|name| Mac::new(name, &material[..name.key_len]));
    Keys { cipher, key: &material[..cipher.key_len], iv: &material[..cipher.iv_len], mac }
}

/// Packets, honest ones and others, in any portions: what was sealed comes out as it was until something was changed, nothing is opened
/// that is not whole, and a failure leaves nothing behind.
pub fn packet_reader(data: &[u8]) {
    let mut script = Script::new(data);
    let (mut out, mut inbound) = (Outbound::new(), Inbound::new());
    let material = [0x42; 64];
    // 0 stays without keys.
    let suites = [&SUITES[..], &LEGACY_SUITES].concat();
    let suite = script.below(suites.len() + 1);
    let is_clear = suite == 0;
    if !is_clear {
        let suite = suites[suite - 1];
        out.rekey(Sealer::new(keys(suite, &material)).unwrap(), true);
        inbound.rekey(Opener::new(keys(suite, &material)).unwrap(), true);
    }
    let (mut wire, mut sent, mut got): (Vec<u8>, Vec<Vec<u8>>, usize) = Default::default();
    let mut is_honest = true;
    let mut into = Buffer::default();
    while !script.is_over() {
        match script.below(6) {
            0 => {
                let mut payload = script.short().to_vec();
                payload.push(1);
                out.put(&payload).unwrap();
                sent.push(payload);
            }
            1 => {
                let payload = vec![7; 1 + script.u16() % 34_000];
                out.put(&payload).unwrap();
                sent.push(payload);
            }
            2 => {
                wire.extend_from_slice(script.long());
                is_honest = false;
            }
            3 => {
                let (at, with) = (script.u16(), script.u8());
                if let Some(byte) = wire.get_mut(at) {
                    *byte ^= with;
                    is_honest &= with == 0;
                }
            }
            4 => {
                wire.truncate(script.u16());
                is_honest = false;
            }
            _ => {
                let n = script.u16();
                wire.extend_from_slice(out.buffer.unsent());
                out.buffer.sent(usize::MAX / 2);
                inbound.received.put(&wire.drain(..n.min(wire.len())).collect::<Vec<_>>());
                loop {
                    let start = into.tail();
                    match inbound.open_next(&mut into) {
                        Ok(Some(len)) => {
                            assert!(len > 0 && len <= MAX_PACKET && into.since(start).len() >= HEADER + len + 4);
                            let payload = &into.since(start)[HEADER..HEADER + len];
                            assert!(!is_honest || sent[got] == payload);
                            got += 1;
                            into.truncate(start);
                        }
                        Ok(None) => {
                            assert!(into.tail() == start && inbound.received.len() < LEN + MAX_PACKET + 64);
                            break;
                        }
                        Err(error) => {
                            assert!(!is_honest, "{error}");
                            assert!(into.is_empty());
                            return;
                        }
                    }
                }
            }
        }
    }
    // Without the keys nobody makes a packet that opens: at most what was sealed came out, and a change ended it.
    assert!(is_clear || got <= sent.len());
}

/// A KEXINIT: what both roles choose from it is on both lists.
pub fn kexinit(data: &[u8]) {
    let Ok(theirs) = KexInit::parse(data) else { return };
    let (modern, all) = (Preferences::modern(), Preferences::with_legacy());
    let mut needed = all.clone();
    needed.keep_needed_legacy(&theirs);
    // What a server does not need changes nothing.
    let choose = |ours: &Preferences| Negotiated::choose(ours, Role::Client, &theirs).ok().map(|chosen| (chosen.describe(), chosen.weak()));
    assert!(choose(&needed) == choose(&all));
    for (ours, role) in [(&modern, Role::Client), (&modern, Role::Server), (&needed, Role::Client)] {
        match Negotiated::choose(ours, role, &theirs) {
            Ok(chosen) => {
                let both = |ours: &[&str], theirs: &[String], name: &str| ours.contains(&name) && theirs.iter().any(|their| their == name);
                assert!(both(&ours.kex, &theirs.kex, chosen.method.name()));
                assert!(both(&ours.host_key, &theirs.host_key, chosen.host_key.name()));
                assert!(both(&ours.ciphers, &theirs.ciphers_c2s, chosen.cipher_c2s.name));
                assert!(both(&ours.ciphers, &theirs.ciphers_s2c, chosen.cipher_s2c.name));
                assert!(chosen.cipher_c2s.is_aead() == chosen.mac_c2s.is_none() && chosen.cipher_s2c.is_aead() == chosen.mac_s2c.is_none());
                assert!(chosen.mac_c2s.is_none_or(|mac| both(&ours.macs, &theirs.macs_c2s, mac.name)));
                assert!(chosen.mac_s2c.is_none_or(|mac| both(&ours.macs, &theirs.macs_s2c, mac.name)));
                assert!(theirs.first_kex_packet_follows || !chosen.skip_guess);
                assert!(chosen.describe().len() < 256 && (ours.has_legacy() || chosen.weak().is_empty()));
            }
            // The operator reads it, and a log.
            Err(error) => assert!(error.to_string().len() < 8 * 1024),
        }
        let _ = (theirs.offers_strict(role), theirs.offers_ext_info(role), theirs.offers_gcm());
    }
}

thread_local! {
    static EPHEMERALS: RefCell<HashMap<&'static str, Ephemeral>> = RefCell::default();
}

/// The public values, host keys and signatures of the messages 30 and 31.
pub fn kex_messages(data: &[u8]) {
    const METHODS: [&str; 7] = [
        "curve25519-sha256",
        "mlkem768x25519-sha256",
        "ecdh-sha2-nistp256",
        "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp521",
        "diffie-hellman-group14-sha256",
        "diffie-hellman-group16-sha512",
    ];
    const ALGORITHMS: [SignatureAlgorithm; 8] = [
        SignatureAlgorithm::Ed25519,
        SignatureAlgorithm::Ed25519Certificate,
        SignatureAlgorithm::EcdsaP256,
        SignatureAlgorithm::EcdsaP384,
        SignatureAlgorithm::EcdsaP521,
        SignatureAlgorithm::RsaSha256,
        SignatureAlgorithm::RsaSha512,
        SignatureAlgorithm::RsaSha1,
    ];
    let mut script = Script::new(data);
    match script.below(4) {
        0 => {
            let method = Method::find(METHODS[script.below(METHODS.len())]).unwrap();
            if let Ok((public, secret)) = kex::respond(method, script.rest()) {
                assert!(!public.is_empty() && secret.len() > 4 && secret.len() <= 4 + 1 + 512);
            }
        }
        1 => {
            let method = Method::find(METHODS[script.below(METHODS.len())]).unwrap();
            EPHEMERALS.with_borrow_mut(|all| {
                let ours = all.entry(method.name()).or_insert_with(|| Ephemeral::generate(method).unwrap());
                if let Ok(secret) = ours.agree(script.rest()) {
                    assert!(secret.len() > 4 && secret.len() <= 4 + 1 + 512);
                }
            });
        }
        2 => {
            let algorithm = ALGORITHMS[script.below(ALGORITHMS.len())];
            let mut reader = Reader::new(script.rest());
            let (Ok(blob), Ok(signature)) = (reader.string(), reader.string()) else { return };
            if let Ok(key) = HostKey::verify(algorithm, blob, signature, b"the exchange hash") {
                assert!(key.fingerprint().starts_with("SHA256:") && key.public_key().to_openssh().is_ok() && key.is_same(&key));
            }
        }
        _ => {
            // A server's group, and its public value in it.
            let mut value = [0; 32];
            value.copy_from_slice(&script.take(32).iter().copied().chain([7; 32]).take(32).collect::<Vec<_>>());
            if let Ok(ours) = group_exchange::take_group(script.rest()) {
                assert!(ours.public.len() >= 256 && ours.public.len() <= 1024);
                assert!(ours.agree(&value).is_ok_and(|secret| secret.len() == ours.public.len()) || value[..31] == [0; 31]);
            }
        }
    }
}
