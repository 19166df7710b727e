use std::io;

use ssh_key::PrivateKey;
use ssh_key::private::{Ed25519Keypair, KeypairData};
use zeroize::Zeroizing;

use crate::access::Secret;

/// A fresh ed25519 key.
///
/// # Errors
/// When the system has no random numbers.
pub fn ed25519(comment: &str) -> io::Result<PrivateKey> {
    let mut seed = Zeroizing::new([0_u8; 32]);
    random(seed.as_mut_slice())?;
    PrivateKey::new(KeypairData::from(Ed25519Keypair::from_seed(&seed)), comment).map_err(io::Error::other)
}

/// A password like the one sample the API documentation shows: 74 characters of `[a-z0-9]`.
///
/// # Errors
/// When the system has no random numbers.
pub fn random_password() -> io::Result<Secret> {
    const LENGTH: usize = 74;
    let mut password = Vec::with_capacity(LENGTH);
    while password.len() < LENGTH {
        let mut bytes = Zeroizing::new([0_u8; 64]);
        random(bytes.as_mut_slice())?;
        // Only bytes below 36 × 7 keep the 36 characters equally likely.
        let drawn = bytes.iter().filter(|byte| **byte < 252).map(|byte| match byte % 36 {
            digit @ 0..10 => b'0' + digit,
            letter => b'a' + letter - 10,
        });
        password.extend(drawn.take(LENGTH - password.len()));
    }
    Ok(Secret::new(password))
}

/// `N` random bytes as hexadecimal digits.
pub(super) fn random_hex<const N: usize>() -> io::Result<String> {
    let mut bytes = [0_u8; N];
    random(&mut bytes)?;
    Ok(hex(&bytes))
}

/// A request id as the cloud API gives them: a version 4 UUID.
pub(super) fn request_id() -> io::Result<String> {
    let mut bytes = [0_u8; 16];
    random(&mut bytes)?;
    let number = u128::from_be_bytes(bytes) & !(0xf << 76) | 4 << 76;
    let number = number & !(0x3 << 62) | 0x2 << 62;
    let digits = format!("{number:032x}");
    let mut id = String::with_capacity(36);
    for (at, digit) in digits.chars().enumerate() {
        if matches!(at, 8 | 12 | 16 | 20) {
            id.push('-');
        }
        id.push(digit);
    }
    Ok(id)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn random(bytes: &mut [u8]) -> io::Result<()> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| io::Error::other("the system has no random numbers"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_passwords_have_the_documented_shape() {
        let id = request_id().unwrap();
        let groups: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12], "{id}");
        assert_eq!(&id[14..15], "4");
        assert!(matches!(&id[19..20], "8" | "9" | "a" | "b"), "{id}");
        let password = random_password().unwrap();
        assert_eq!(password.expose().len(), 74);
        assert!(password.expose().iter().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit()));
    }
}
