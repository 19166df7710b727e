use aws_lc_rs::{constant_time, hmac};

/// A MAC algorithm by name (RFC 6668; OpenSSH's `-etm@openssh.com`: encrypt, then MAC).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MacName {
    pub(super) name: &'static str,
    algorithm: &'static hmac::Algorithm,
    pub(super) key_len: usize,
    pub(super) etm: bool,
}

const MACS: [MacName; 4] = [
    MacName { name: "hmac-sha2-256-etm@openssh.com", algorithm: &hmac::HMAC_SHA256, key_len: 32, etm: true },
    MacName { name: "hmac-sha2-512-etm@openssh.com", algorithm: &hmac::HMAC_SHA512, key_len: 64, etm: true },
    MacName { name: "hmac-sha2-256", algorithm: &hmac::HMAC_SHA256, key_len: 32, etm: false },
    MacName { name: "hmac-sha2-512", algorithm: &hmac::HMAC_SHA512, key_len: 64, etm: false },
];

impl MacName {
    pub(super) fn find(name: &str) -> Option<Self> {
        MACS.into_iter().find(|mac| mac.name == name)
    }
}

/// A keyed MAC over the sequence number and a packet (RFC 4253, 6.4).
pub(super) struct Mac {
    key: hmac::Key,
    len: usize,
    pub(super) etm: bool,
}

impl Mac {
    pub(super) fn new(name: MacName, key: &[u8]) -> Self {
        let key = hmac::Key::new(*name.algorithm, key);
        let len = key.algorithm().digest_algorithm().output_len();
        Self { key, len, etm: name.etm }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn compute(&self, seq: u32, bytes: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&seq.to_be_bytes());
        context.update(bytes);
        context.sign()
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
