use aes::{Aes128, Aes192, Aes256};
use ctr::Ctr128BE;
use ctr::cipher::{
    Array, BlockCipherDecrypt, BlockCipherEncrypt, BlockModeDecrypt, BlockModeEncrypt, BlockSizeUser, KeyInit, KeyIvInit, StreamCipher,
};
use des::TdesEde3;

use super::TransportError;
use super::cipher::{CipherKind, Keys};
use super::mac::Mac;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Seal,
    Open,
}

/// One direction of a cipher that has a MAC of its own beside it: CTR (RFC 4344, 4) or CBC (RFC 4253, 6.3). Either goes on from packet to
/// packet, so every byte is to be given once and in order, in whole blocks.
pub(super) struct Stream {
    cipher: Box<dyn Cipher>,
    pub(super) block: usize,
    /// Whether a block's plain text depends on the block before it: CBC.
    pub(super) chained: bool,
    pub(super) mac: Mac,
}

trait Cipher: Send {
    /// Encrypts or decrypts whole blocks in place.
    fn apply(&mut self, blocks: &mut [u8]);
}

struct Ctr<C>(C);
struct CbcSeal<C: BlockCipherEncrypt>(cbc::Encryptor<C>);
struct CbcOpen<C: BlockCipherDecrypt>(cbc::Decryptor<C>);

impl<C: StreamCipher + Send> Cipher for Ctr<C> {
    fn apply(&mut self, blocks: &mut [u8]) {
        self.0.apply_keystream(blocks);
    }
}

impl<C: BlockCipherEncrypt + Send> Cipher for CbcSeal<C> {
    fn apply(&mut self, blocks: &mut [u8]) {
        self.0.encrypt_blocks(Array::slice_as_chunks_mut(blocks).0);
    }
}

impl<C: BlockCipherDecrypt + Send> Cipher for CbcOpen<C> {
    fn apply(&mut self, blocks: &mut [u8]) {
        self.0.decrypt_blocks(Array::slice_as_chunks_mut(blocks).0);
    }
}

impl Stream {
    pub(super) fn new(keys: Keys<'_>, direction: Direction) -> Result<Box<Self>, TransportError> {
        let Keys { cipher: name, key, iv, mac } = keys;
        let mac = mac.ok_or(TransportError::Crypto("no MAC"))?;
        let cipher = match (name.kind, key.len()) {
            (CipherKind::Ctr, 16) => ctr::<Aes128>(key, iv),
            (CipherKind::Ctr, 24) => ctr::<Aes192>(key, iv),
            (CipherKind::Ctr, 32) => ctr::<Aes256>(key, iv),
            (CipherKind::AesCbc, 16) => cbc::<Aes128>(key, iv, direction),
            (CipherKind::AesCbc, 24) => cbc::<Aes192>(key, iv, direction),
            (CipherKind::AesCbc, 32) => cbc::<Aes256>(key, iv, direction),
            (CipherKind::TripleDesCbc, 24) => cbc::<TdesEde3>(key, iv, direction),
            _ => None,
        };
        let cipher = cipher.ok_or(TransportError::Crypto("a cipher's key or iv"))?;
        Ok(Box::new(Self { cipher, block: iv.len(), chained: name.kind != CipherKind::Ctr, mac }))
    }

    pub(super) fn apply(&mut self, blocks: &mut [u8]) {
        self.cipher.apply(blocks);
    }
}

fn ctr<C>(key: &[u8], iv: &[u8]) -> Option<Box<dyn Cipher>>
where
    Ctr128BE<C>: KeyIvInit + StreamCipher + Send + 'static,
    C: BlockCipherEncrypt + BlockSizeUser<BlockSize = ctr::cipher::consts::U16>,
{
    Ctr128BE::<C>::new_from_slices(key, iv).ok().map(|cipher| Box::new(Ctr(cipher)) as Box<dyn Cipher>)
}

fn cbc<C>(key: &[u8], iv: &[u8], direction: Direction) -> Option<Box<dyn Cipher>>
where
    C: BlockCipherEncrypt + BlockCipherDecrypt + KeyInit + Send + 'static,
{
    Some(match direction {
        Direction::Seal => Box::new(CbcSeal(cbc::Encryptor::<C>::new_from_slices(key, iv).ok()?)),
        Direction::Open => Box::new(CbcOpen(cbc::Decryptor::<C>::new_from_slices(key, iv).ok()?)),
    })
}

#[cfg(test)]
mod tests {
    use super::super::cipher::CipherName;
    use super::super::mac::MacName;
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    /// NIST SP 800-38A, F.2 (AES), and the TDES-CBC example of NIST's cryptographic toolkit.
    const VECTORS: [(&str, &str, &str, &str, &str); 4] = [
        (
            "aes128-cbc",
            "2b7e151628aed2a6abf7158809cf4f3c",
            "000102030405060708090a0b0c0d0e0f",
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
            "7649abac8119b246cee98e9b12e9197d5086cb9b507219ee95db113a917678b2",
        ),
        (
            "aes192-cbc",
            "8e73b0f7da0e6452c810f32b809079e562f8ead2522c6b7b",
            "000102030405060708090a0b0c0d0e0f",
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
            "4f021db243bc633d7178183a9fa071e8b4d9ada9ad7dedf4e5e738763f69145a",
        ),
        (
            "aes256-cbc",
            "603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4",
            "000102030405060708090a0b0c0d0e0f",
            "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51",
            "f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d",
        ),
        ("3des-cbc", "0123456789abcdef23456789abcdef01456789abcdef0123", "f69f2445df4f9b17", TDES_PLAIN, TDES_SEALED),
    ];
    const TDES_PLAIN: &str = "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51";
    const TDES_SEALED: &str = "2079c3d53aa763e193b79e2569ab5262516570481f25b50f73c0bda85c8e0da7";

    fn stream(cipher: &str, key: &[u8], iv: &[u8], direction: Direction) -> Box<Stream> {
        let mac = Some(Mac::new(MacName::find("hmac-sha1").unwrap(), &[0; 20]));
        Stream::new(Keys { cipher: CipherName::find(cipher).unwrap(), key, iv, mac }, direction).unwrap()
    }

    #[test]
    fn cbc_gives_the_published_values_and_chains_over_calls() {
        for (cipher, key, iv, plain, sealed) in VECTORS {
            let (key, iv, plain, sealed) = (bytes(key), bytes(iv), bytes(plain), bytes(sealed));
            for portion in [iv.len(), 16, 32] {
                let mut text = plain.clone();
                let mut seal = stream(cipher, &key, &iv, Direction::Seal);
                text.chunks_mut(portion).for_each(|blocks| seal.apply(blocks));
                assert_eq!(text, sealed, "{cipher}");
                let mut open = stream(cipher, &key, &iv, Direction::Open);
                text.chunks_mut(portion).for_each(|blocks| open.apply(blocks));
                assert_eq!(text, plain, "{cipher}");
            }
        }
    }

    #[test]
    fn a_key_of_another_length_is_an_error() {
        let mac = || Some(Mac::new(MacName::find("hmac-sha1").unwrap(), &[0; 20]));
        let keys = Keys { cipher: CipherName::find("aes128-cbc").unwrap(), key: &[0; 15], iv: &[0; 16], mac: mac() };
        assert!(Stream::new(keys, Direction::Seal).is_err());
        let keys = Keys { cipher: CipherName::find("3des-cbc").unwrap(), key: &[0; 24], iv: &[0; 16], mac: mac() };
        assert!(Stream::new(keys, Direction::Open).is_err());
    }
}
