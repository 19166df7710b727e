//! Fuzz target of the instances' secrets; see [`crate::fuzzing`].
#![allow(clippy::unwrap_used, reason = "a fuzz target tells what it found by a panic")]

use base64ct::{Base64, Encoding};
use signature::Verifier;
use ssh_encoding::Decode;
use ssh_key::{Algorithm, EcdsaCurve, PrivateKey};

use super::credential::read;
use crate::access::Secret;
use crate::fuzzing::Script;
use crate::transport::wire::{put_string, put_u32};
use crate::transport::{Credential, SignatureAlgorithm, sign_with};

const RSA: &str = include_str!("../../fuzz/corpus/instance_secret/openssh-rsa");
const MAGIC: &[u8] = b"openssh-key-v1\0";
/// How the inputs begin that are not the secret itself: numbers for a key of [`numbers`].
const NUMBERS: u8 = 0x01;

/// A secret, or what is in one under its base64. A password is the text itself and holds no key; a key signs, and its public half takes
/// the signature.
pub fn instance_secret(data: &[u8]) {
    match data.first() {
        Some(&NUMBERS) => secret(Base64::encode_string(&numbers(Script::new(data.get(1..).unwrap_or_default()))).as_bytes()),
        // DER, or what OpenSSH's PEM holds.
        Some(0x30) => secret(Base64::encode_string(data).as_bytes()),
        _ if data.starts_with(MAGIC) => secret(Base64::encode_string(data).as_bytes()),
        _ => secret(data),
    }
}

/// An RSA key of which each number may have become another one.
fn numbers(mut script: Script<'_>) -> Vec<u8> {
    let key = PrivateKey::from_openssh(RSA).unwrap();
    let pair = key.key_data().rsa().unwrap();
    let (public, private) = (pair.public(), pair.private());
    let all = [public.n(), public.e(), private.d(), private.iqmp(), private.p(), private.q()].map(|number| number.as_ref().to_vec());
    let mut fields = Vec::new();
    put_string(&mut fields, b"ssh-rsa");
    for number in &all {
        let mut chosen = number.clone();
        match script.below(16) {
            1 => chosen.clear(),
            2 => chosen = vec![0],
            3 => chosen = vec![1],
            4 => chosen = vec![2],
            // Even, as all but 2 are odd; d and e too may not be.
            5 => drop(chosen.last_mut().map(|byte| *byte ^= 1)),
            6 => chosen = all.get(script.below(all.len())).unwrap().clone(),
            7 => chosen = script.short().to_vec(),
            8 => chosen.insert(0, 0),
            9 => drop(chosen.last_mut().map(|byte| *byte ^= script.u8())),
            10 => chosen.fill(0xff),
            11 => chosen.fill(0),
            _ => {}
        }
        put_string(&mut fields, &chosen);
    }
    let mut blob = MAGIC.to_vec();
    put_string(&mut blob, b"none");
    put_string(&mut blob, b"none");
    put_string(&mut blob, b"");
    put_u32(&mut blob, 1);
    put_string(&mut blob, b"");
    put_string(&mut blob, &[&[0; 8], fields.as_slice()].concat());
    blob
}

fn secret(data: &[u8]) {
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
