use ::hmac::{Hmac, KeyInit as _, Mac as _};
use aws_lc_rs::{constant_time, hmac};
use hmac::Algorithm;
use md5::Md5;

/// A MAC algorithm by name (RFC 4253, 6.4; RFC 6668; OpenSSH's `-etm@openssh.com`: encrypt, then MAC).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MacName {
    pub(super) name: &'static str,
    hash: Hash,
    pub(super) key_len: usize,
    pub(super) etm: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hash {
    Sha(&'static Algorithm),
    Md5,
}

const SHA1: Hash = Hash::Sha(&hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY);
const SHA256: Hash = Hash::Sha(&hmac::HMAC_SHA256);
const SHA512: Hash = Hash::Sha(&hmac::HMAC_SHA512);

const MACS: [MacName; 7] = [
    MacName { name: "hmac-sha2-256-etm@openssh.com", hash: SHA256, key_len: 32, etm: true },
    MacName { name: "hmac-sha2-512-etm@openssh.com", hash: SHA512, key_len: 64, etm: true },
    MacName { name: "hmac-sha2-256", hash: SHA256, key_len: 32, etm: false },
    MacName { name: "hmac-sha2-512", hash: SHA512, key_len: 64, etm: false },
    MacName { name: "hmac-sha1-etm@openssh.com", hash: SHA1, key_len: 20, etm: true },
    MacName { name: "hmac-sha1", hash: SHA1, key_len: 20, etm: false },
    MacName { name: "hmac-md5", hash: Hash::Md5, key_len: 16, etm: false },
];

impl MacName {
    pub(super) fn find(name: &str) -> Option<Self> {
        MACS.into_iter().find(|mac| mac.name == name)
    }
}

/// A keyed MAC over the sequence number and a packet (RFC 4253, 6.4).
pub(super) struct Mac {
    key: Key,
    pub(super) etm: bool,
}

enum Key {
    Sha(Box<hmac::Key>),
    /// Keyed already: a clone of it starts a MAC.
    Md5(Hmac<Md5>),
}

enum Tag {
    Sha(hmac::Tag),
    Md5([u8; MD5_LEN]),
}

const MD5_LEN: usize = 16;

impl AsRef<[u8]> for Tag {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Sha(tag) => tag.as_ref(),
            Self::Md5(tag) => tag,
        }
    }
}

impl Mac {
    pub(super) fn new(name: MacName, key: &[u8]) -> Self {
        let key = match name.hash {
            Hash::Sha(algorithm) => Key::Sha(Box::new(hmac::Key::new(*algorithm, key))),
            Hash::Md5 => {
                // HMAC pads a key that is shorter than a block of its hash with zeros (RFC 2104, 2), and ours are.
                let mut block = zeroize::Zeroizing::new([0; 64]);
                block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
                Key::Md5(Hmac::new((&*block).into()))
            }
        };
        Self { key, etm: name.etm }
    }

    pub(super) fn len(&self) -> usize {
        match &self.key {
            Key::Sha(key) => key.algorithm().digest_algorithm().output_len(),
            Key::Md5(_) => MD5_LEN,
        }
    }

    fn compute(&self, seq: u32, bytes: &[u8]) -> Tag {
        match &self.key {
            Key::Sha(key) => {
                let mut context = hmac::Context::with_key(key);
                context.update(&seq.to_be_bytes());
                context.update(bytes);
                Tag::Sha(context.sign())
            }
            Key::Md5(keyed) => {
                let mut context = keyed.clone();
                context.update(&seq.to_be_bytes());
                context.update(bytes);
                Tag::Md5(context.finalize().into_bytes().into())
            }
        }
    }

    /// `tag` is as long as [`Mac::len`] says.
    pub(super) fn sign(&self, seq: u32, bytes: &[u8], tag: &mut [u8]) {
        for (to, from) in tag.iter_mut().zip(self.compute(seq, bytes).as_ref()) {
            *to = *from;
        }
    }

    pub(super) fn verify(&self, seq: u32, bytes: &[u8], tag: &[u8]) -> bool {
        constant_time::verify_slices_are_equal(self.compute(seq, bytes).as_ref(), tag).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_old_macs_give_the_values_of_rfc_2202() {
        // The sequence number is the first four bytes of the text: "Hi T" of "Hi There", "what" of the second case.
        let there = (u32::from_be_bytes(*b"Hi T"), &b"here"[..]);
        let what = (u32::from_be_bytes(*b"what"), &b" do ya want for nothing?"[..]);
        for (name, key, (seq, text), expected) in [
            ("hmac-md5", &[0x0b; 16][..], there, "9294727a3638bb1c13f48ef8158bfc9d"),
            ("hmac-md5", b"Jefe", what, "750c783e6ab0b503eaa86e310a5db738"),
            ("hmac-sha1", &[0x0b; 20], there, "b617318655057264e28bc0b6fb378c8ef146be00"),
            ("hmac-sha1-etm@openssh.com", b"Jefe", what, "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        ] {
            let mac = Mac::new(MacName::find(name).unwrap(), key);
            let mut tag = vec![0; mac.len()];
            mac.sign(seq, text, &mut tag);
            let hex: String = tag.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected, "{name}");
            assert!(mac.verify(seq, text, &tag) && !mac.verify(seq ^ 1, text, &tag) && !mac.verify(seq, text, &tag[1..]));
        }
    }
}
