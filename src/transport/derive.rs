use aws_lc_rs::digest;
use zeroize::Zeroizing;

/// Makes keys of a key exchange's result (RFC 4253, 7.2).
pub(super) struct KeySource<'a> {
    pub(super) hash: &'static digest::Algorithm,
    /// K as the exchange hash takes it: an mpint, or a string for the hybrid methods.
    pub(super) secret: &'a [u8],
    /// H
    pub(super) exchange_hash: &'a [u8],
    pub(super) session_id: &'a [u8],
}

impl KeySource<'_> {
    /// `letter` is `b'A'` to `b'F'`.
    pub(super) fn derive(&self, letter: u8, len: usize) -> Zeroizing<Vec<u8>> {
        let mut key = Zeroizing::new(Vec::with_capacity(len + self.hash.output_len()));
        while key.len() < len {
            let mut hash = digest::Context::new(self.hash);
            hash.update(self.secret);
            hash.update(self.exchange_hash);
            if key.is_empty() {
                hash.update(&[letter]);
                hash.update(self.session_id);
            } else {
                hash.update(&key);
            }
            key.extend_from_slice(hash.finish().as_ref());
        }
        key.truncate(len);
        key
    }
}
