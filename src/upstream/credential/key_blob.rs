//! The binary forms of a private key: PKCS#8, PKCS#1, SEC1 and `openssh-key-v1`.
//!
//! Each is read as slices of the one decoded buffer; the numbers are copied once, into the key that zeroizes them.

use rsa::pkcs1;
use rsa::pkcs8::der::asn1::{AnyRef, OctetStringRef};
use rsa::pkcs8::der::{Decode, Reader as _, SliceReader};
use rsa::pkcs8::spki::AlgorithmIdentifierRef;
use rsa::pkcs8::{ObjectIdentifier, PrivateKeyInfoRef};
use sec1::{EcParameters, EcPrivateKey};
use ssh_key::private::{EcdsaKeypair, EcdsaPrivateKey, Ed25519Keypair, KeypairData, RsaKeypair, RsaPrivateKey};
use ssh_key::public::RsaPublicKey;
use ssh_key::{Mpint, PrivateKey};
use zeroize::Zeroizing;

use super::CredentialError::{self, Encrypted, Unreadable, Unsupported};
use crate::transport::wire::Reader;

const OPENSSH_MAGIC: &[u8] = b"openssh-key-v1\0";
/// Bits of an RSA modulus. The upper end is what `rsa` verifies with; it also bounds the time that reading takes.
const RSA_BITS: std::ops::RangeInclusive<usize> = 1024..=8192;

// RFC 3279, RFC 4055, RFC 5480, RFC 8410.
const DSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10040.4.1");
const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const P521: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.35");

const CUT_SHORT: CredentialError = Unreadable("it is cut short");
const MALFORMED: CredentialError = Unreadable("its fields are malformed");
const MISMATCH: CredentialError = Unreadable("its private and public parts do not belong together");
const OTHER_CURVE: CredentialError = Unsupported("ECDSA on another curve");

/// The key that the bytes are; `None` when they have the shape of no private key at all, encrypted ones included.
pub(super) fn private_key(blob: &[u8]) -> Result<Option<PrivateKey>, CredentialError> {
    let data = if let Some(fields) = blob.strip_prefix(OPENSSH_MAGIC) {
        openssh(fields)?
    } else if let Ok(info) = PrivateKeyInfoRef::from_der(blob) {
        pkcs8(&info)?
    } else if let Ok(key) = pkcs1::RsaPrivateKey::from_der(blob) {
        pkcs1(&key)?
    } else if let Ok(key) = EcPrivateKey::from_der(blob) {
        let curve = key.parameters.and_then(EcParameters::named_curve);
        sec1(curve.ok_or(Unreadable("it names no curve"))?, &key)?
    } else if is_encrypted_pkcs8(blob) {
        return Err(Encrypted);
    } else {
        return Ok(None);
    };
    PrivateKey::new(data, "").map(Some).map_err(|_| MALFORMED)
}

/// `EncryptedPrivateKeyInfo` (RFC 5958, 3): an algorithm with parameters, then an OCTET STRING.
fn is_encrypted_pkcs8(blob: &[u8]) -> bool {
    let Ok(mut reader) = SliceReader::new(blob) else { return false };
    let shape = reader.sequence(|fields| {
        let algorithm = AlgorithmIdentifierRef::decode(fields)?;
        <&OctetStringRef>::decode(fields)?;
        Ok::<_, rsa::pkcs8::der::Error>(algorithm.parameters.is_some())
    });
    shape.is_ok_and(|has_parameters| has_parameters && reader.is_finished())
}

fn pkcs8(info: &PrivateKeyInfoRef<'_>) -> Result<KeypairData, CredentialError> {
    let inner = info.private_key.as_bytes();
    match info.algorithm.oid {
        pkcs1::ALGORITHM_OID => pkcs1(&pkcs1::RsaPrivateKey::from_der(inner).map_err(|_| MALFORMED)?),
        sec1::ALGORITHM_OID => {
            let key = EcPrivateKey::from_der(inner).map_err(|_| MALFORMED)?;
            let curve = info.algorithm.parameters.as_ref().and_then(|parameters| AnyRef::decode_as(*parameters).ok());
            sec1(curve.ok_or(Unsupported("ECDSA on a curve that it spells out instead of naming"))?, &key)
        }
        ED25519 => {
            let seed = <&OctetStringRef>::from_der(inner).map_err(|_| MALFORMED)?;
            let public = info.public_key.as_ref().and_then(|public| public.as_bytes());
            ed25519(seed.as_bytes(), public)
        }
        DSA => Err(Unsupported("a DSA key")),
        RSA_PSS => Err(Unsupported("an RSA key for PSS signatures only, which SSH has not")),
        _ => Err(Unsupported("of another kind")),
    }
}

fn pkcs1(key: &pkcs1::RsaPrivateKey<'_>) -> Result<KeypairData, CredentialError> {
    if key.version() != pkcs1::Version::TwoPrime {
        return Err(Unsupported("an RSA key of more than two primes"));
    }
    rsa(RsaNumbers {
        n: key.modulus.as_bytes(),
        e: key.public_exponent.as_bytes(),
        d: key.private_exponent.as_bytes(),
        p: key.prime1.as_bytes(),
        q: key.prime2.as_bytes(),
        iqmp: key.coefficient.as_bytes(),
    })
}

fn sec1(curve: ObjectIdentifier, key: &EcPrivateKey<'_>) -> Result<KeypairData, CredentialError> {
    match curve {
        P256 => p256(key.private_key, key.public_key),
        P384 => p384(key.private_key, key.public_key),
        P521 => p521(key.private_key, key.public_key),
        _ => Err(OTHER_CURVE),
    }
}

/// The fields after the magic, as in OpenSSH's `PROTOCOL.key`. Padding and comment do not matter here and are not looked at.
///
/// Not left to `ssh_key`: that refuses the one P-256 key in 512 whose number is written with less than 32 bytes.
fn openssh(fields: &[u8]) -> Result<KeypairData, CredentialError> {
    let mut fields = Reader::new(fields);
    if string(&mut fields)? != b"none" {
        return Err(Encrypted);
    }
    let (_kdf, _kdf_options, keys) = (string(&mut fields)?, string(&mut fields)?, u32(&mut fields)?);
    if keys != 1 {
        return Err(Unreadable("it holds not one key but several"));
    }
    let _public_key = string(&mut fields)?;
    let mut private = Reader::new(string(&mut fields)?);
    if u32(&mut private)? != u32(&mut private)? {
        return Err(MALFORMED);
    }
    match string(&mut private)? {
        b"ssh-rsa" => {
            let (n, e, d) = (string(&mut private)?, string(&mut private)?, string(&mut private)?);
            let (iqmp, p, q) = (string(&mut private)?, string(&mut private)?, string(&mut private)?);
            rsa(RsaNumbers { n, e, d, p, q, iqmp })
        }
        b"ssh-ed25519" => {
            let (public, pair) = (string(&mut private)?, string(&mut private)?);
            ed25519(pair.strip_suffix(public).ok_or(MISMATCH)?, Some(public))
        }
        b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" | b"ecdsa-sha2-nistp521" => {
            let (curve, point, scalar) = (string(&mut private)?, string(&mut private)?, string(&mut private)?);
            match curve {
                b"nistp256" => p256(scalar, Some(point)),
                b"nistp384" => p384(scalar, Some(point)),
                b"nistp521" => p521(scalar, Some(point)),
                _ => Err(OTHER_CURVE),
            }
        }
        b"ssh-dss" => Err(Unsupported("a DSA key")),
        name if name.starts_with(b"sk-") => Err(Unsupported("on a security key, not in the secret")),
        _ => Err(Unsupported("of another kind")),
    }
}

fn string<'a>(fields: &mut Reader<'a>) -> Result<&'a [u8], CredentialError> {
    fields.string().map_err(|_| CUT_SHORT)
}

fn u32(fields: &mut Reader<'_>) -> Result<u32, CredentialError> {
    fields.u32().map_err(|_| CUT_SHORT)
}

/// Big-endian, with or without leading zeros, named as in RFC 8017; `iqmp` is the coefficient.
struct RsaNumbers<'a> {
    n: &'a [u8],
    e: &'a [u8],
    d: &'a [u8],
    p: &'a [u8],
    q: &'a [u8],
    iqmp: &'a [u8],
}

fn rsa(numbers: RsaNumbers<'_>) -> Result<KeypairData, CredentialError> {
    let modulus = without_leading_zeros(numbers.n);
    let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) {
        return Err(Unsupported("an RSA key of less than 1024 or more than 8192 bits"));
    }
    let mpint = Mpint::from_positive_bytes;
    let public = RsaPublicKey::new(mpint(numbers.e), mpint(modulus)).map_err(|_| MALFORMED)?;
    let private = RsaPrivateKey::new(mpint(numbers.d), mpint(numbers.iqmp), mpint(numbers.p), mpint(numbers.q)).map_err(|_| MALFORMED)?;
    let pair = RsaKeypair::new(public, private).map_err(|_| MALFORMED)?;
    // What signing does first: n = p·q, e·d ≡ 1. A key that cannot sign is told apart here, not in the middle of a login.
    rsa::RsaPrivateKey::try_from(&pair).map_err(|_| MISMATCH)?;
    Ok(KeypairData::Rsa(pair))
}

fn ed25519(seed: &[u8], public: Option<&[u8]>) -> Result<KeypairData, CredentialError> {
    let pair = Ed25519Keypair::from_seed(seed.try_into().map_err(|_| MALFORMED)?);
    if public.is_some_and(|public| public != pair.public.as_ref()) {
        return Err(MISMATCH);
    }
    Ok(KeypairData::Ed25519(pair))
}

/// `fn $curve(scalar, point)`: the pair of a scalar (big-endian, any leading zeros); its point, if given, must be the scalar's.
macro_rules! ecdsa {
    ($curve:ident, $variant:ident, $size:literal) => {
        fn $curve(scalar: &[u8], point: Option<&[u8]>) -> Result<KeypairData, CredentialError> {
            let scalar = right_aligned::<$size>(scalar)?;
            let secret = $curve::SecretKey::from_slice(scalar.as_slice()).map_err(|_| MALFORMED)?;
            let public = secret.public_key();
            if point.is_some_and(|point| $curve::PublicKey::from_sec1_bytes(point).ok() != Some(public)) {
                return Err(MISMATCH);
            }
            let private = EcdsaPrivateKey::from(*scalar);
            Ok(KeypairData::Ecdsa(EcdsaKeypair::$variant { public: public.into(), private }))
        }
    };
}

ecdsa!(p256, NistP256, 32);
ecdsa!(p384, NistP384, 48);
ecdsa!(p521, NistP521, 66);

fn right_aligned<const SIZE: usize>(number: &[u8]) -> Result<Zeroizing<[u8; SIZE]>, CredentialError> {
    let number = without_leading_zeros(number);
    let mut aligned = Zeroizing::new([0; SIZE]);
    let start = SIZE.checked_sub(number.len()).ok_or(MALFORMED)?;
    aligned.get_mut(start..).ok_or(MALFORMED)?.copy_from_slice(number);
    Ok(aligned)
}

fn without_leading_zeros(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|&&byte| byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}
