use ssh_key::public::KeyData;
use ssh_key::{Algorithm, HashAlg};

/// RSA keys below are weak, above they only cost time.
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// Whether a key may prove an operator or sign a certificate at all, and if not, why.
///
/// Security keys (`sk-…`) are refused: nothing here looks at the flags that their signatures carry, so an `sk-` key would promise a
/// presence that nobody checked.
pub(super) fn acceptable(key: &KeyData) -> Result<(), String> {
    match key {
        KeyData::Ed25519(_) | KeyData::Ecdsa(_) => Ok(()),
        KeyData::Rsa(rsa) if RSA_BITS.contains(&rsa.key_size()) => Ok(()),
        KeyData::Rsa(rsa) => {
            Err(format!("an RSA key of {} bits is refused: it must have {} to {}", rsa.key_size(), RSA_BITS.start(), RSA_BITS.end()))
        }
        KeyData::SkEd25519(_) | KeyData::SkEcdsaSha2NistP256(_) => {
            Err("a security key (sk-…) is refused: its touch cannot be checked here; use ed25519, ecdsa or rsa, or a certificate"
                .to_owned())
        }
        KeyData::Dsa(_) => Err("a DSA key is refused: use ed25519, ecdsa or rsa".to_owned()),
        other => Err(format!("a key of type {} is refused: use ed25519, ecdsa or rsa", other.algorithm())),
    }
}

/// Whether a signature that this key makes with this algorithm counts: SHA-1 (`ssh-rsa`) does not, nor another type's than the key's.
pub(super) fn acceptable_signature(algorithm: &Algorithm, key: &KeyData) -> Result<(), String> {
    match (algorithm, key.algorithm()) {
        (Algorithm::Rsa { hash: None }, _) => {
            Err("an RSA signature with SHA-1 (ssh-rsa) is refused: use rsa-sha2-256 or rsa-sha2-512".to_owned())
        }
        (Algorithm::Rsa { .. }, Algorithm::Rsa { .. }) => Ok(()),
        (named, of_key) if *named == of_key => Ok(()),
        (named, of_key) => Err(format!("a key of type {of_key} cannot sign as {named}")),
    }
}

/// `SHA256:…`, as `ssh-keygen -l` prints it.
pub(super) fn fingerprint(key: &KeyData) -> String {
    key.fingerprint(HashAlg::Sha256).to_string()
}
