use aws_lc_rs::aead::{self, chacha20_poly1305_openssh as chacha};

use super::TransportError;
use super::mac::Mac;
use super::stream::{Direction, Stream};

/// The length field in front of every packet.
pub(super) const LEN: usize = 4;
const GCM_TAG: usize = 16;

/// A cipher by name (RFC 4253, 6.3; RFC 4344, RFC 5647 as OpenSSH's PROTOCOL changes it, PROTOCOL.chacha20poly1305).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct CipherName {
    pub(super) name: &'static str,
    pub(super) kind: CipherKind,
    pub(super) key_len: usize,
    pub(super) iv_len: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CipherKind {
    Gcm,
    ChaCha,
    Ctr,
    AesCbc,
    TripleDesCbc,
}

const CIPHERS: [CipherName; 10] = [
    CipherName { name: "aes128-gcm@openssh.com", kind: CipherKind::Gcm, key_len: 16, iv_len: 12 },
    CipherName { name: "aes256-gcm@openssh.com", kind: CipherKind::Gcm, key_len: 32, iv_len: 12 },
    CipherName { name: "chacha20-poly1305@openssh.com", kind: CipherKind::ChaCha, key_len: 64, iv_len: 0 },
    CipherName { name: "aes128-ctr", kind: CipherKind::Ctr, key_len: 16, iv_len: 16 },
    CipherName { name: "aes192-ctr", kind: CipherKind::Ctr, key_len: 24, iv_len: 16 },
    CipherName { name: "aes256-ctr", kind: CipherKind::Ctr, key_len: 32, iv_len: 16 },
    CipherName { name: "aes128-cbc", kind: CipherKind::AesCbc, key_len: 16, iv_len: 16 },
    CipherName { name: "aes192-cbc", kind: CipherKind::AesCbc, key_len: 24, iv_len: 16 },
    CipherName { name: "aes256-cbc", kind: CipherKind::AesCbc, key_len: 32, iv_len: 16 },
    CipherName { name: "3des-cbc", kind: CipherKind::TripleDesCbc, key_len: 24, iv_len: 8 },
];

impl CipherName {
    pub(super) fn find(name: &str) -> Option<Self> {
        CIPHERS.into_iter().find(|cipher| cipher.name == name)
    }

    /// Whether the cipher authenticates by itself, so that no MAC is negotiated.
    pub(super) fn is_aead(self) -> bool {
        matches!(self.kind, CipherKind::Gcm | CipherKind::ChaCha)
    }
}

/// AES-GCM with the nonce of RFC 5647, 7.1: the IV's last 8 bytes count the packets, from the key exchange on and independent of the
/// sequence number.
pub(super) struct Gcm {
    key: aead::LessSafeKey,
    iv: [u8; 12],
}

impl Gcm {
    fn new(key: &[u8], iv: &[u8]) -> Result<Self, TransportError> {
        let algorithm = if key.len() == 16 { &aead::AES_128_GCM } else { &aead::AES_256_GCM };
        let key = aead::UnboundKey::new(algorithm, key).map_err(|_| TransportError::Crypto("aes-gcm key"))?;
        let iv = iv.try_into().map_err(|_| TransportError::Crypto("aes-gcm iv"))?;
        Ok(Self { key: aead::LessSafeKey::new(key), iv })
    }

    fn next_nonce(&mut self) -> aead::Nonce {
        let nonce = aead::Nonce::assume_unique_for_key(self.iv);
        let [a, b, c, d, counter @ ..] = self.iv;
        let [e, f, g, h, i, j, k, l] = u64::from_be_bytes(counter).wrapping_add(1).to_be_bytes();
        self.iv = [a, b, c, d, e, f, g, h, i, j, k, l];
        nonce
    }
}

/// Keys of one direction, as RFC 4253, 7.2 derives them.
pub(super) struct Keys<'a> {
    pub(super) cipher: CipherName,
    pub(super) key: &'a [u8],
    pub(super) iv: &'a [u8],
    pub(super) mac: Option<Mac>,
}

/// Encrypts and authenticates whole packets in place.
pub(super) enum Sealer {
    Clear,
    Gcm(Box<Gcm>),
    ChaCha(Box<chacha::SealingKey>),
    Stream(Box<Stream>),
}

impl Sealer {
    pub(super) fn new(keys: Keys<'_>) -> Result<Self, TransportError> {
        Ok(match keys.cipher.kind {
            CipherKind::Gcm => Self::Gcm(Box::new(Gcm::new(keys.key, keys.iv)?)),
            CipherKind::ChaCha => Self::ChaCha(Box::new(chacha::SealingKey::new(chacha_key(keys.key)?))),
            CipherKind::Ctr | CipherKind::AesCbc | CipherKind::TripleDesCbc => Self::Stream(Stream::new(keys, Direction::Seal)?),
        })
    }

    /// What (padding length, payload, padding) must be a multiple of, and whether the length field counts with them (RFC 4253, 6).
    pub(super) fn block(&self) -> (usize, bool) {
        match self {
            Self::Clear => (8, true),
            Self::Gcm(_) => (16, false),
            Self::ChaCha(_) => (8, false),
            Self::Stream(stream) => (stream.block, !stream.mac.etm),
        }
    }

    pub(super) fn tag_len(&self) -> usize {
        match self {
            Self::Clear => 0,
            Self::Gcm(_) => GCM_TAG,
            Self::ChaCha(_) => chacha::TAG_LEN,
            Self::Stream(stream) => stream.mac.len(),
        }
    }

    /// Whether padding must not be foreseen (RFC 4253, 6): with CBC.
    pub(super) fn wants_random_padding(&self) -> bool {
        matches!(self, Self::Stream(stream) if stream.chained)
    }

    /// Seals length field, padding length, payload and padding in `packet`, whose last [`Sealer::tag_len`] bytes become the tag.
    pub(super) fn seal(&mut self, seq: u32, packet: &mut [u8]) -> Result<(), TransportError> {
        let short = TransportError::Crypto("a packet without room for its tag");
        let body = packet.len().checked_sub(self.tag_len()).filter(|len| *len > LEN).ok_or(short)?;
        let (packet, tag) = packet.split_at_mut(body);
        match self {
            Self::Clear => {}
            Self::Gcm(gcm) => {
                let nonce = gcm.next_nonce();
                let (len, body) = packet.split_at_mut(LEN);
                let sealed = gcm.key.seal_in_place_separate_tag(nonce, aead::Aad::from(&*len), body);
                tag.copy_from_slice(sealed.map_err(|_| TransportError::Crypto("aes-gcm seal"))?.as_ref());
            }
            Self::ChaCha(key) => {
                let tag = tag.try_into().map_err(|_| TransportError::Crypto("chacha20-poly1305 tag"))?;
                key.seal_in_place(seq, packet, tag);
            }
            Self::Stream(stream) if stream.mac.etm => {
                let (_, body) = packet.split_at_mut(LEN);
                stream.apply(body);
                stream.mac.sign(seq, packet, tag);
            }
            Self::Stream(stream) => {
                stream.mac.sign(seq, packet, tag);
                stream.apply(packet);
            }
        }
        Ok(())
    }
}

/// Authenticates and decrypts packets.
pub(super) enum Opener {
    Clear,
    Gcm(Box<Gcm>),
    ChaCha(Box<chacha::OpeningKey>),
    /// With encrypt-and-MAC, the beginning is decrypted to learn the length and kept until the whole packet is there. No packet is shorter
    /// (RFC 4253, 6), whatever the block.
    Stream(Box<Stream>, Option<[u8; 16]>),
}

impl Opener {
    pub(super) fn new(keys: Keys<'_>) -> Result<Self, TransportError> {
        Ok(match keys.cipher.kind {
            CipherKind::Gcm => Self::Gcm(Box::new(Gcm::new(keys.key, keys.iv)?)),
            CipherKind::ChaCha => Self::ChaCha(Box::new(chacha::OpeningKey::new(chacha_key(keys.key)?))),
            CipherKind::Ctr | CipherKind::AesCbc | CipherKind::TripleDesCbc => Self::Stream(Stream::new(keys, Direction::Open)?, None),
        })
    }

    pub(super) fn block(&self) -> (usize, bool) {
        match self {
            Self::Clear => (8, true),
            Self::Gcm(_) => (16, false),
            Self::ChaCha(_) => (8, false),
            Self::Stream(stream, _) => (stream.block, !stream.mac.etm),
        }
    }

    pub(super) fn tag_len(&self) -> usize {
        match self {
            Self::Clear => 0,
            Self::Gcm(_) => GCM_TAG,
            Self::ChaCha(_) => chacha::TAG_LEN,
            Self::Stream(stream, _) => stream.mac.len(),
        }
    }

    /// Whether a peer's bytes decide about the length before the MAC has judged them, and one of them changes only the plain text of its own
    /// place: CBC with encrypt-and-MAC. Then when a broken packet is told says something of its plain text (CVE-2008-5161).
    pub(super) fn tells_by_time(&self) -> bool {
        matches!(self, Self::Stream(stream, _) if stream.chained && !stream.mac.etm)
    }

    /// The work of a MAC over `len` bytes more.
    pub(super) fn work_in_vain(&self, len: usize) {
        if let Self::Stream(stream, _) = self {
            std::hint::black_box(stream.mac.verify(0, &vec![0; len], &[]));
        }
    }

    /// The packet length that `received` begins with, when enough of it is there. Not authenticated yet, except that with
    /// encrypt-and-MAC a second call gives the same.
    pub(super) fn packet_length(&mut self, seq: u32, received: &[u8]) -> Option<u32> {
        let len: [u8; LEN] = received.get(..LEN)?.try_into().ok()?;
        match self {
            Self::Clear | Self::Gcm(_) => Some(u32::from_be_bytes(len)),
            Self::ChaCha(key) => Some(u32::from_be_bytes(key.decrypt_packet_length(seq, len))),
            Self::Stream(stream, _) if stream.mac.etm => Some(u32::from_be_bytes(len)),
            Self::Stream(stream, first) => {
                let block = match first {
                    Some(block) => *block,
                    None => {
                        let mut block: [u8; 16] = received.get(..16)?.try_into().ok()?;
                        stream.apply(&mut block);
                        *first = Some(block);
                        block
                    }
                };
                let [a, b, c, d, ..] = block;
                Some(u32::from_be_bytes([a, b, c, d]))
            }
        }
    }

    /// Opens `sealed` (length field, body, tag) into `plain` (length field, body), which has room for exactly that.
    pub(super) fn open(&mut self, seq: u32, sealed: &[u8], plain: &mut [u8]) -> Result<(), TransportError> {
        const FORGED: TransportError = TransportError::Misbehaved("a packet's authentication tag is wrong");
        let (packet, tag) = sealed.split_at_checked(plain.len()).ok_or(FORGED)?;
        match self {
            Self::Clear => plain.copy_from_slice(packet),
            Self::Gcm(gcm) => {
                let nonce = gcm.next_nonce();
                let (len, body) = packet.split_at_checked(LEN).ok_or(FORGED)?;
                let (_, out) = plain.split_at_mut_checked(LEN).ok_or(FORGED)?;
                gcm.key.open_separate_gather(nonce, aead::Aad::from(len), body, tag, out).map_err(|_| FORGED)?;
            }
            Self::ChaCha(key) => {
                plain.copy_from_slice(packet);
                let tag = tag.try_into().map_err(|_| FORGED)?;
                key.open_in_place(seq, plain, tag).map_err(|_| FORGED)?;
            }
            Self::Stream(stream, _) if stream.mac.etm => {
                if !stream.mac.verify(seq, packet, tag) {
                    return Err(FORGED);
                }
                plain.copy_from_slice(packet);
                let (_, body) = plain.split_at_mut_checked(LEN).ok_or(FORGED)?;
                stream.apply(body);
            }
            Self::Stream(stream, first) => {
                plain.copy_from_slice(packet);
                let block = first.take().ok_or(FORGED)?;
                let (head, rest) = plain.split_at_mut_checked(block.len()).ok_or(FORGED)?;
                head.copy_from_slice(&block);
                stream.apply(rest);
                if !stream.mac.verify(seq, plain, tag) {
                    return Err(FORGED);
                }
            }
        }
        Ok(())
    }
}

fn chacha_key(key: &[u8]) -> Result<&[u8; chacha::KEY_LEN], TransportError> {
    key.try_into().map_err(|_| TransportError::Crypto("chacha20-poly1305 key"))
}
