//! Finite-field Diffie-Hellman over the safe-prime groups of RFC 3526, for peers that have no elliptic curves (RFC 8268).

use aws_lc_rs::rand;
use crypto_bigint::{BoxedUint, Odd};
use zeroize::Zeroizing;

use super::TransportError;

/// The 2048-bit MODP group (RFC 3526, 3): 2^2048 - 2^1984 - 1 + 2^64 · (⌊2^1918 π⌋ + 124476).
const GROUP14: &str = "\
    FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
    4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
    98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF";
/// The 4096-bit MODP group (RFC 3526, 5): 2^4096 - 2^4032 - 1 + 2^64 · (⌊2^3966 π⌋ + 240904).
const GROUP16: &str = "\
    FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
    4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF05\
    98DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA051015728E5A8AAAC42DAD33170D04507A33\
    A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864\
    D87602733EC86A64521F2B18177B200CBBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D7\
    88719A10BDBA5B2699C327186AF4E23C1A946834B6150BDA2583E9CA2AD44CE8DBBBC2DB04DE8EF92E8EFC141FBECAA6287C59474E6BC05D99B2964FA090C3A2\
    233BA186515BE7ED1F612970CEE2D7AFB81BDD762170481CD0069127D5B05AA993B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199FFFFFFFFFFFFFFFF";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Group {
    Group14,
    Group16,
}

impl Group {
    /// Bits of the prime, and of a private exponent: twice the strength that the group has, as OpenSSH chooses it.
    fn sizes(self) -> (u32, u32) {
        match self {
            Self::Group14 => (2048, 256),
            Self::Group16 => (4096, 512),
        }
    }

    fn prime(self) -> Result<BoxedUint, TransportError> {
        let hex = match self {
            Self::Group14 => GROUP14,
            Self::Group16 => GROUP16,
        };
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes: Option<Vec<u8>> = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => Some(digit(high)? << 4 | digit(low)?),
                _ => None,
            })
            .collect();
        let wrong = || TransportError::Crypto("a MODP prime");
        BoxedUint::from_be_slice(&bytes.ok_or_else(wrong)?, self.sizes().0).map_err(|_| wrong())
    }
}

/// Our half of an exchange.
pub(super) struct DhSecret {
    group: Group,
    exponent: BoxedUint,
    /// Our public value, big-endian.
    pub(super) public: Box<[u8]>,
}

impl Drop for DhSecret {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.exponent);
    }
}

impl DhSecret {
    pub(super) fn generate(group: Group) -> Result<Self, TransportError> {
        let (bits, exponent_bits) = group.sizes();
        let mut random = Zeroizing::new(vec![0u8; exponent_bits as usize / 8]);
        rand::fill(&mut random).map_err(|_| TransportError::Crypto("random numbers"))?;
        let exponent = BoxedUint::from_be_slice(&random, exponent_bits).map_err(|_| TransportError::Crypto("a DH exponent"))?;
        let generator = BoxedUint::from_be_slice(&[2], bits).map_err(|_| TransportError::Crypto("a DH generator"))?;
        let public = power(&generator, &exponent, &group.prime()?)?.to_be_bytes();
        Ok(Self { group, exponent, public })
    }

    /// The shared secret, big-endian. RFC 4253, 8: a value outside 1 … p-1 is refused; 1 and p-1 too, which would fix the secret.
    pub(super) fn agree(&self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError> {
        const OUT_OF_RANGE: TransportError = TransportError::Misbehaved("a Diffie-Hellman value is out of range");
        let prime = self.group.prime()?;
        let first = peer.iter().position(|byte| *byte != 0).ok_or(OUT_OF_RANGE)?;
        let peer = BoxedUint::from_be_slice(peer.get(first..).unwrap_or_default(), self.group.sizes().0).map_err(|_| OUT_OF_RANGE)?;
        let one = BoxedUint::from_be_slice(&[1], self.group.sizes().0).map_err(|_| OUT_OF_RANGE)?;
        if peer <= one || peer >= prime.wrapping_sub(&one) {
            return Err(OUT_OF_RANGE);
        }
        Ok(Zeroizing::new(power(&peer, &self.exponent, &prime)?.to_be_bytes().into_vec()))
    }
}

fn power(base: &BoxedUint, exponent: &BoxedUint, prime: &BoxedUint) -> Result<BoxedUint, TransportError> {
    let prime = Odd::new(prime.clone()).into_option().ok_or(TransportError::Crypto("a MODP prime"))?;
    Ok(base.pow_mod(exponent, &prime))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sides_agree_and_values_that_fix_the_secret_are_refused() {
        for group in [Group::Group14, Group::Group16] {
            let (a, b) = (DhSecret::generate(group).unwrap(), DhSecret::generate(group).unwrap());
            assert_eq!(*a.agree(&b.public).unwrap(), *b.agree(&a.public).unwrap());
            let prime = group.prime().unwrap();
            let less_one = prime.wrapping_sub(BoxedUint::one());
            let too_long = [1u8; 1024];
            for bad in [&[][..], &[0], &[1], &prime.to_be_bytes(), &less_one.to_be_bytes(), &too_long] {
                assert!(a.agree(bad).is_err());
            }
        }
    }
}
