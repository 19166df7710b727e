//! Finite-field Diffie-Hellman, for peers that have no elliptic curves: over the safe-prime groups of RFC 2409 and RFC 3526 (RFC 4253, 8;
//! RFC 8268), or over a group that the server chose (RFC 4419).

use aws_lc_rs::rand;
use crypto_bigint::{BoxedUint, Odd};
use zeroize::Zeroizing;

use super::TransportError;

/// The second Oakley group (RFC 2409, 6.2), of 1024 bits: 2^1024 - 2^960 - 1 + 2^64 · (⌊2^894 π⌋ + 129093). For instances that know no other.
const GROUP1: &str = "\
    FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B302B0A6DF25F1437\
    4FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE649286651ECE65381FFFFFFFFFFFFFFFF";
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

/// The bits of a server's own prime: RFC 8270 forbids less, and more costs too much.
pub(super) const MIN_BITS: u32 = 2048;
pub(super) const MAX_BITS: u32 = 8192;

/// A prime and a generator.
#[derive(Debug, Clone)]
pub(super) struct Group {
    prime: Odd<BoxedUint>,
    generator: BoxedUint,
    exponent_bits: u32,
}

impl Group {
    pub(super) fn one() -> Result<Self, TransportError> {
        Self::published(GROUP1)
    }

    pub(super) fn fourteen() -> Result<Self, TransportError> {
        Self::published(GROUP14)
    }

    pub(super) fn sixteen() -> Result<Self, TransportError> {
        Self::published(GROUP16)
    }

    fn published(hex: &str) -> Result<Self, TransportError> {
        let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let bytes: Option<Vec<u8>> = hex
            .as_bytes()
            .chunks(2)
            .map(|pair| match pair {
                [high, low] => Some(digit(high)? << 4 | digit(low)?),
                _ => None,
            })
            .collect();
        bytes.and_then(|bytes| Self::new(&bytes, &[2])).ok_or(TransportError::Crypto("a MODP prime"))
    }

    /// A group of the server's. That its prime is one is not tested, as in other clients: it would cost more than the exchange, and the
    /// server, which signs for what it chose, can only betray its own session.
    pub(super) fn chosen(prime: &[u8], generator: &[u8]) -> Result<Self, TransportError> {
        const OUT_OF_BOUNDS: TransportError = TransportError::Misbehaved("the Diffie-Hellman group that it chose is out of bounds");
        let prime = without_zeros(prime);
        // Judged by its bytes before any arithmetic; each of the first byte's leading zeros is a bit less.
        let bits = u32::try_from(prime.len()).ok().and_then(|len| len.checked_mul(8)).ok_or(OUT_OF_BOUNDS)?;
        let bits = bits.saturating_sub(prime.first().map_or(0, |byte| byte.leading_zeros()));
        if !(MIN_BITS..=MAX_BITS).contains(&bits) {
            return Err(OUT_OF_BOUNDS);
        }
        let group = Self::new(prime, without_zeros(generator)).ok_or(OUT_OF_BOUNDS)?;
        if group.is_trivial(&group.generator) { Err(OUT_OF_BOUNDS) } else { Ok(group) }
    }

    /// `None` when the prime is even or the generator longer than it.
    fn new(prime: &[u8], generator: &[u8]) -> Option<Self> {
        let bits = u32::try_from(prime.len()).ok()?.checked_mul(8)?;
        let prime = Odd::new(BoxedUint::from_be_slice(prime, bits).ok()?).into_option()?;
        let generator = BoxedUint::from_be_slice(generator, bits).ok()?;
        // Twice the strength that the group has, as OpenSSH chooses it.
        let exponent_bits = if bits <= 2048 { 256 } else { 512 };
        Some(Self { prime, generator, exponent_bits })
    }

    fn bits(&self) -> u32 {
        self.prime.as_ref().bits_precision()
    }

    pub(super) fn prime(&self) -> Box<[u8]> {
        self.prime.as_ref().to_be_bytes()
    }

    pub(super) fn generator(&self) -> Box<[u8]> {
        self.generator.to_be_bytes()
    }

    /// Outside 1 … p-1, or 1 or p-1, whose powers anybody foresees.
    fn is_trivial(&self, value: &BoxedUint) -> bool {
        let one = BoxedUint::one_with_precision(self.bits());
        *value <= one || *value >= self.prime.as_ref().wrapping_sub(&one)
    }
}

/// Our half of an exchange.
pub(super) struct DhSecret {
    pub(super) group: Group,
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
        let mut random = Zeroizing::new(vec![0u8; group.exponent_bits as usize / 8]);
        rand::fill(&mut random).map_err(|_| TransportError::Crypto("random numbers"))?;
        let exponent = BoxedUint::from_be_slice(&random, group.exponent_bits).map_err(|_| TransportError::Crypto("a DH exponent"))?;
        Ok(Self::with_exponent(group, exponent))
    }

    fn with_exponent(group: Group, exponent: BoxedUint) -> Self {
        let public = group.generator.pow_mod(&exponent, &group.prime).to_be_bytes();
        Self { group, exponent, public }
    }

    /// The shared secret, big-endian. RFC 4253, 8: a value outside 1 … p-1 is refused; 1 and p-1 too, which would fix the secret.
    pub(super) fn agree(&self, peer: &[u8]) -> Result<Zeroizing<Vec<u8>>, TransportError> {
        const OUT_OF_RANGE: TransportError = TransportError::Misbehaved("a Diffie-Hellman value is out of range");
        let peer = BoxedUint::from_be_slice(without_zeros(peer), self.group.bits()).map_err(|_| OUT_OF_RANGE)?;
        if self.group.is_trivial(&peer) {
            return Err(OUT_OF_RANGE);
        }
        Ok(Zeroizing::new(peer.pow_mod(&self.exponent, &self.group.prime).to_be_bytes().into_vec()))
    }
}

fn without_zeros(big_endian: &[u8]) -> &[u8] {
    let first = big_endian.iter().position(|byte| *byte != 0).unwrap_or(big_endian.len());
    big_endian.get(first..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_sides_agree_and_values_that_fix_the_secret_are_refused() {
        let mut odd_sized = Group::fourteen().unwrap().prime().to_vec();
        odd_sized.splice(0..0, [0x01]);
        for group in [Group::one(), Group::fourteen(), Group::sixteen(), Group::chosen(&odd_sized, &[5])] {
            let group = group.unwrap();
            let (a, b) = (DhSecret::generate(group.clone()).unwrap(), DhSecret::generate(group.clone()).unwrap());
            assert_eq!(*a.agree(&b.public).unwrap(), *b.agree(&a.public).unwrap());
            let less_one = group.prime.as_ref().wrapping_sub(BoxedUint::one());
            let too_long = [1u8; 1024];
            for bad in [&[][..], &[0], &[1], &group.prime(), &less_one.to_be_bytes(), &too_long] {
                assert!(a.agree(bad).is_err());
            }
        }
    }

    #[test]
    fn the_groups_give_the_values_that_python_gives() {
        // pow(2, int.from_bytes(bytes(range(1, 33))), p), its first and last eight bytes.
        for (group, expected) in [
            (Group::one(), "457120764f3a1e6f…e36cfeffbf1671dd"),
            (Group::fourteen(), "ce8736a3ad7c8260…e910a225f323882d"),
            (Group::sixteen(), "d1833e534396f4aa…66a96a689137a217"),
        ] {
            let exponent: Vec<u8> = (1..=32).collect();
            let ours = DhSecret::with_exponent(group.unwrap(), BoxedUint::from_be_slice(&exponent, 256).unwrap());
            let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            let (public, len) = (&ours.public, ours.public.len());
            assert_eq!(format!("{}…{}", hex(&public[..8]), hex(&public[len - 8..])), expected);
        }
    }

    #[test]
    fn a_group_that_is_no_group_is_refused_before_any_arithmetic() {
        let good = Group::fourteen().unwrap().prime().to_vec();
        assert!(Group::chosen(&good, &[2]).is_ok());
        assert!(Group::chosen(&[&[0, 0][..], &good].concat(), &[0, 2]).is_ok());
        let mut even = good.clone();
        *even.last_mut().unwrap() &= 0xfe;
        let mut short = good.clone();
        short[0] = 0x7f;
        let mut largest = [&[0xff; 768][..], &good].concat();
        assert_eq!(largest.len(), 1024);
        assert!(Group::chosen(&largest, &[2]).is_ok());
        largest.insert(0, 1);
        let small = Group::one().unwrap().prime();
        for (what, prime) in [("even", &even[..]), ("2047 bits", &short), ("8193 bits", &largest), ("1024 bits", &small), ("none", &[])] {
            assert!(Group::chosen(prime, &[2]).is_err(), "{what}");
        }
        assert!(Group::chosen(&vec![0xff; 200_000], &[2]).is_err());
        let mut less_one = good.clone();
        *less_one.last_mut().unwrap() -= 1;
        for generator in [&[][..], &[0], &[1], &good, &less_one, &[2; 4096]] {
            assert!(Group::chosen(&good, generator).is_err());
        }
    }
}
