use std::sync::Arc;

use signature::{Signer, Verifier};
use ssh_encoding::{Decode, Encode};
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, PrivateKey, PublicKey, Signature};

use super::TransportError;
use super::preferences::SSH_RSA;
use super::wire::{Reader, put_string};

/// A public key algorithm as negotiated or announced: the key's type and, for RSA, the hash (RFC 8332).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    Ed25519,
    /// `ssh-ed25519-cert-v01@openssh.com`: a certificate in the place of the key; the signature is the key's.
    Ed25519Certificate,
    EcdsaP256,
    EcdsaP384,
    EcdsaP521,
    RsaSha256,
    RsaSha512,
    /// `ssh-rsa`, with SHA-1: towards old instances only.
    RsaSha1,
}

impl SignatureAlgorithm {
    const ALL: [Self; 8] = [
        Self::Ed25519,
        Self::Ed25519Certificate,
        Self::EcdsaP256,
        Self::EcdsaP384,
        Self::EcdsaP521,
        Self::RsaSha256,
        Self::RsaSha512,
        Self::RsaSha1,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Ed25519 => "ssh-ed25519",
            Self::Ed25519Certificate => "ssh-ed25519-cert-v01@openssh.com",
            Self::EcdsaP256 => "ecdsa-sha2-nistp256",
            Self::EcdsaP384 => "ecdsa-sha2-nistp384",
            Self::EcdsaP521 => "ecdsa-sha2-nistp521",
            Self::RsaSha256 => "rsa-sha2-256",
            Self::RsaSha512 => "rsa-sha2-512",
            Self::RsaSha1 => SSH_RSA,
        }
    }

    /// What the key calls itself in its blob.
    fn key_type(self) -> &'static str {
        match self {
            Self::RsaSha256 | Self::RsaSha512 => SSH_RSA,
            other => other.name(),
        }
    }

    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// The algorithm that a signature of this kind carries in its blob.
    fn of_signature(self) -> Algorithm {
        match self {
            Self::Ed25519 | Self::Ed25519Certificate => Algorithm::Ed25519,
            Self::EcdsaP256 => Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
            Self::EcdsaP384 => Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
            Self::EcdsaP521 => Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
            Self::RsaSha256 => Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
            Self::RsaSha512 => Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
            Self::RsaSha1 => Algorithm::Rsa { hash: None },
        }
    }

    /// Whether a key of this type signs with this algorithm.
    pub fn fits(self, key: &Algorithm) -> bool {
        match key {
            Algorithm::Rsa { .. } => matches!(self, Self::RsaSha256 | Self::RsaSha512 | Self::RsaSha1),
            other => *other == self.of_signature(),
        }
    }
}

/// A server's key as it came in a key exchange, whose signature was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostKey {
    pub key: KeyData,
    blob: Vec<u8>,
}

impl HostKey {
    /// `SHA256:…`
    pub fn fingerprint(&self) -> String {
        self.key.fingerprint(HashAlg::Sha256).to_string()
    }

    pub fn public_key(&self) -> PublicKey {
        PublicKey::new(self.key.clone(), "")
    }

    /// Reads the host key of a KEX reply and verifies the signature over the exchange hash with it.
    pub(super) fn verify(algorithm: SignatureAlgorithm, blob: &[u8], signature: &[u8], hash: &[u8]) -> Result<Self, TransportError> {
        const UNREADABLE: TransportError = TransportError::Misbehaved("the host key cannot be read");
        const OTHER_TYPE: TransportError = TransportError::Misbehaved("the host key is not of the negotiated type");
        const UNSIGNED: TransportError = TransportError::Misbehaved("the host key's signature is wrong");
        // Before anything is decoded: the library follows certificates into one another, however deep they are.
        if Reader::new(blob).string().map_err(|_| UNREADABLE)? != algorithm.key_type().as_bytes() {
            return Err(OTHER_TYPE);
        }
        let mut rest = blob;
        let key = KeyData::decode(&mut rest).map_err(|_| UNREADABLE)?;
        if !rest.is_empty() {
            return Err(UNREADABLE);
        }
        if !algorithm.fits(&key.algorithm()) {
            return Err(OTHER_TYPE);
        }
        let mut rest = signature;
        let signature = Signature::decode(&mut rest).map_err(|_| UNSIGNED)?;
        if !rest.is_empty() || signature.algorithm() != algorithm.of_signature() {
            return Err(UNSIGNED);
        }
        key.verify(hash, &signature).map_err(|_| UNSIGNED)?;
        Ok(Self { key, blob: blob.to_vec() })
    }

    /// Whether both came as the same bytes: a rekey must not change the key.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.blob == other.blob
    }
}

/// What a leg in server role proves itself with: an Ed25519 key, and perhaps a host certificate for it.
#[derive(Clone)]
pub struct HostIdentity {
    key: Arc<PrivateKey>,
    certificate: Option<Vec<u8>>,
}

impl HostIdentity {
    /// `certificate` is the blob of an `ssh-ed25519-cert-v01@openssh.com` over `key`.
    pub fn new(key: Arc<PrivateKey>, certificate: Option<Vec<u8>>) -> Self {
        Self { key, certificate }
    }

    /// Algorithms that this identity can serve, best first.
    pub fn algorithms(&self) -> Vec<&'static str> {
        let certificate = self.certificate.as_ref().map(|_| SignatureAlgorithm::Ed25519Certificate.name());
        certificate.into_iter().chain([SignatureAlgorithm::Ed25519.name()]).collect()
    }

    /// The blob that goes into the KEX reply.
    pub(super) fn blob(&self, algorithm: SignatureAlgorithm) -> Result<Vec<u8>, TransportError> {
        match (algorithm, &self.certificate) {
            (SignatureAlgorithm::Ed25519Certificate, Some(certificate)) => Ok(certificate.clone()),
            _ => self.key.public_key().to_bytes().map_err(|_| TransportError::Crypto("our host key cannot be encoded")),
        }
    }

    pub(super) fn sign(&self, hash: &[u8]) -> Result<Vec<u8>, TransportError> {
        sign_with(&self.key, SignatureAlgorithm::Ed25519, hash)
    }
}

/// A signature blob (RFC 4253, 6.6) by `key` with `algorithm`.
pub fn sign_with(key: &PrivateKey, algorithm: SignatureAlgorithm, message: &[u8]) -> Result<Vec<u8>, TransportError> {
    const FAILED: TransportError = TransportError::Crypto("signing");
    let signature = match (key.key_data().rsa(), algorithm) {
        (Some(rsa), SignatureAlgorithm::RsaSha1) => (rsa, None).try_sign(message),
        (Some(rsa), SignatureAlgorithm::RsaSha256) => (rsa, Some(HashAlg::Sha256)).try_sign(message),
        (Some(rsa), _) => (rsa, Some(HashAlg::Sha512)).try_sign(message),
        (None, _) => key.try_sign(message),
    };
    let signature: Signature = signature.map_err(|_| FAILED)?;
    let mut blob = Vec::new();
    put_string(&mut blob, signature.algorithm().as_str().as_bytes());
    let mut bytes = Vec::new();
    signature.as_bytes().encode(&mut bytes).map_err(|_| FAILED)?;
    blob.extend_from_slice(&bytes);
    Ok(blob)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The library reads them by recursion: an instance's blob in a rekey has room for more than a thread's stack.
    #[test]
    fn a_key_of_another_type_is_refused_before_it_is_decoded() {
        let mut blob = b"x".to_vec();
        while blob.len() < 250 * 1024 {
            let mut outer = Vec::new();
            put_string(&mut outer, b"a-cert-v01@x");
            // Nonce, key, serial, a user's, key id, principals, times, options, extensions, reserved: all empty or zero.
            outer.extend([&[0; 16][..], &[0, 0, 0, 1], &[0; 36]].concat());
            put_string(&mut outer, &blob);
            blob = outer;
        }
        for algorithm in SignatureAlgorithm::ALL {
            let refused = HostKey::verify(algorithm, &blob, b"", b"");
            assert!(matches!(refused, Err(TransportError::Misbehaved("the host key is not of the negotiated type"))));
        }
    }
}
