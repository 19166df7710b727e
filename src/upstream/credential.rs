//! What `GetInstanceAccess` calls `Credentials.Secret`: a private key in one of many spellings, or a password.
//!
//! **Invariant**: nothing here holds a byte of the secret in an error, and every copy made on the way is zeroized.

mod key_blob;
#[cfg(test)]
mod tests;

use base64ct::{Base64Unpadded, Encoding};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::access::Secret;
use crate::transport::Credential;

/// Bytes; an 8192-bit RSA key is below 7 KiB in any form, twice in base64 below 9 KiB.
const MAX_SECRET: usize = 64 * 1024;
const BEGIN: &[u8] = b"-----BEGIN ";
const END: &[u8] = b"-----END ";
const DASHES: &[u8] = b"-----";

/// Why a secret is neither a usable private key nor a password. The texts are fixed: none of them quotes the secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub(super) enum CredentialError {
    #[error("the instance's secret is empty; it must be a private key or a password")]
    Empty,
    #[error("the instance's secret has more than {MAX_SECRET} bytes; no private key and no password does")]
    TooLong,
    #[error("the instance's private key is encrypted with a passphrase; it must be stored without one")]
    Encrypted,
    #[error("the instance's secret is {0}; it must be a private key or a password")]
    NotPrivateKey(&'static str),
    #[error("the instance's private key is {0}; it must be RSA, ECDSA on P-256, P-384 or P-521, or Ed25519")]
    Unsupported(&'static str),
    #[error("the instance's private key cannot be read: {0}; it must be PKCS#1, PKCS#8, SEC1 or OpenSSH, whole and unencrypted")]
    Unreadable(&'static str),
}

/// Reads a secret: PEM, even where its line breaks were lost or escaped on the way; base64 of PEM or of a key's binary form; else the
/// password. What holds `-----BEGIN`, plain or in base64, is a key or an error, never a password.
pub(super) fn read(secret: &Secret) -> Result<Credential, CredentialError> {
    let text = secret.expose();
    if text.len() > MAX_SECRET {
        return Err(CredentialError::TooLong);
    }
    let text = text.trim_ascii();
    if text.is_empty() {
        return Err(CredentialError::Empty);
    }
    if holds_pem(text) {
        return private_key_of_pem(text);
    }
    if let Some(decoded) = decode_base64(text) {
        if holds_pem(&decoded) {
            return private_key_of_pem(&decoded);
        }
        if let Some(key) = key_blob::private_key(&decoded)? {
            return Ok(Credential::PrivateKey(Box::new(key)));
        }
    }
    Ok(Credential::Password(Secret::new(text.to_vec())))
}

fn holds_pem(text: &[u8]) -> bool {
    position(text, BEGIN.trim_ascii_end()).is_some()
}

/// What a PEM label (RFC 7468, and OpenSSL's and OpenSSH's own) says of its block.
enum Label {
    PrivateKey,
    /// Stands beside a key (`openssl ecparam` writes it) and is read past; the error if no key follows.
    Other(CredentialError),
    Refused(CredentialError),
}

impl Label {
    fn of(label: &[u8]) -> Self {
        use CredentialError::{Encrypted, NotPrivateKey, Unsupported};
        match label {
            b"PRIVATE KEY" | b"RSA PRIVATE KEY" | b"EC PRIVATE KEY" | b"OPENSSH PRIVATE KEY" => Self::PrivateKey,
            b"ENCRYPTED PRIVATE KEY" => Self::Refused(Encrypted),
            b"DSA PRIVATE KEY" => Self::Refused(Unsupported("a DSA key")),
            b"PUBLIC KEY" | b"RSA PUBLIC KEY" | b"EC PUBLIC KEY" | b"DSA PUBLIC KEY" => Self::Other(NotPrivateKey("a public key")),
            b"CERTIFICATE" | b"X509 CERTIFICATE" | b"TRUSTED CERTIFICATE" => Self::Other(NotPrivateKey("a certificate")),
            b"CERTIFICATE REQUEST" | b"NEW CERTIFICATE REQUEST" => Self::Other(NotPrivateKey("a certificate request")),
            b"EC PARAMETERS" | b"DSA PARAMETERS" | b"DH PARAMETERS" => Self::Other(NotPrivateKey("a block of key parameters")),
            _ => Self::Other(NotPrivateKey("a PEM block of an unknown kind")),
        }
    }
}

/// The first private key among the PEM blocks.
fn private_key_of_pem(text: &[u8]) -> Result<Credential, CredentialError> {
    let mut rest = text;
    let mut other = None;
    while let Some((_, begun)) = split_at_needle(rest, BEGIN) {
        let block = Block::parse(begun)?;
        match Label::of(block.label) {
            Label::PrivateKey => {
                let key = private_key_of_body(block.body)?;
                return Ok(Credential::PrivateKey(Box::new(key)));
            }
            Label::Refused(error) => return Err(error),
            Label::Other(error) => other = other.or(Some(error)),
        }
        rest = block.behind;
    }
    Err(other.unwrap_or(CredentialError::Unreadable("its BEGIN line is damaged")))
}

struct Block<'a> {
    label: &'a [u8],
    /// Between the BEGIN and the END line.
    body: &'a [u8],
    /// What follows the block.
    behind: &'a [u8],
}

impl<'a> Block<'a> {
    /// The block whose text after `-----BEGIN ` this is. Neither line needs to be a line: their breaks may be lost.
    fn parse(text: &'a [u8]) -> Result<Self, CredentialError> {
        let (label, text) = split_at_needle(text, DASHES).ok_or(CredentialError::Unreadable("its BEGIN line has no end"))?;
        let label = label.trim_ascii();
        let (body, text) = split_at_needle(text, END).ok_or(CredentialError::Unreadable("it has no END line, so a part may be missing"))?;
        let behind = text.trim_ascii_start().strip_prefix(label);
        let behind = behind.ok_or(CredentialError::Unreadable("its BEGIN and END lines do not match"))?;
        Ok(Self { label, body, behind })
    }
}

fn private_key_of_body(body: &[u8]) -> Result<ssh_key::PrivateKey, CredentialError> {
    // Headers (RFC 1421, 4.6) have a colon, which base64 has not.
    if body.contains(&b':') {
        let encrypted = position(body, b"ENCRYPTED").is_some() || position(body, b"DEK-Info").is_some();
        return Err(if encrypted { CredentialError::Encrypted } else { CredentialError::Unreadable("it has headers before the key") });
    }
    let blob = decode_base64(body).ok_or(CredentialError::Unreadable("its base64 is damaged"))?;
    key_blob::private_key(&blob)?.ok_or(CredentialError::Unreadable("what its base64 holds is not such a key"))
}

/// Decodes base64, padded or not, wherever its lines break and however the breaks are written. Empty is not base64.
fn decode_base64(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let unbroken = without_breaks(text);
    let end = unbroken.iter().rposition(|&byte| byte != b'=')?;
    let digits = unbroken.get(..=end)?;
    let mut decoded = Zeroizing::new(vec![0; digits.len() / 4 * 3 + digits.len() % 4]);
    let len = Base64Unpadded::decode(digits, &mut decoded).ok()?.len();
    decoded.truncate(len);
    Some(decoded)
}

/// The text without whitespace and without escapes of it (`\n`, `\r`, `\t`, also with doubled backslashes).
fn without_breaks(text: &[u8]) -> Zeroizing<Vec<u8>> {
    // Of the full size from the start: a vector that grows leaves its old bytes behind.
    let mut unbroken = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut escaped = false;
    for &byte in text {
        let was_escaped = std::mem::replace(&mut escaped, byte == b'\\');
        let is_break = byte.is_ascii_whitespace() || (was_escaped && matches!(byte, b'n' | b'r' | b't'));
        if !escaped && !is_break {
            unbroken.push(byte);
        }
    }
    unbroken
}

fn position(text: &[u8], needle: &[u8]) -> Option<usize> {
    text.windows(needle.len()).position(|window| window == needle)
}

/// What comes before the needle's first place and what comes after it.
fn split_at_needle<'a>(text: &'a [u8], needle: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = position(text, needle)?;
    Some((text.get(..at)?, text.get(at + needle.len()..)?))
}
