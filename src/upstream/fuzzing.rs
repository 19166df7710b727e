//! Fuzz target of the instances' secrets; see [`crate::fuzzing`].
#![allow(clippy::unwrap_used, reason = "a fuzz target tells what it found by a panic")]

use signature::Verifier;
use ssh_encoding::Decode;
use ssh_key::{Algorithm, EcdsaCurve};

use super::credential::read;
use crate::access::Secret;
use crate::transport::{Credential, SignatureAlgorithm, sign_with};

/// A secret: a password is the text itself and holds no key; a key signs, and its public half takes the signature.
pub fn instance_secret(data: &[u8]) {
    let text = data.trim_ascii();
    match read(&Secret::new(data.to_vec())) {
        Ok(Credential::Password(password)) => {
            assert!(password.expose() == text && !text.is_empty());
            assert!(!text.windows(10).any(|window| window == b"-----BEGIN"));
        }
        Ok(Credential::PrivateKey(key)) => {
            let algorithm = match key.algorithm() {
                Algorithm::Ed25519 => SignatureAlgorithm::Ed25519,
                Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 } => SignatureAlgorithm::EcdsaP256,
                Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 } => SignatureAlgorithm::EcdsaP384,
                Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 } => SignatureAlgorithm::EcdsaP521,
                _ => SignatureAlgorithm::RsaSha512,
            };
            let blob = sign_with(&key, algorithm, b"message").unwrap();
            let signature = ssh_key::Signature::decode(&mut blob.as_slice()).unwrap();
            assert!(key.public_key().key_data().verify(b"message", &signature).is_ok());
            assert!(key.public_key().to_bytes().is_ok());
        }
        Err(error) => assert!(error.to_string().len() < 256),
    }
}
