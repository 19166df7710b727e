use aws_lc_rs::agreement::{self, UnparsedPublicKey, agree};
use aws_lc_rs::digest;
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey, ML_KEM_768};
use zeroize::Zeroizing;

use super::dh::{DhSecret, Group};
use super::preferences::is_legacy;
use super::wire::{put_mpint, put_string};
use super::{TransportError, group_exchange, msg};

const MLKEM_PUBLIC: usize = 1184;
const MLKEM_CIPHERTEXT: usize = 1088;
const X25519_PUBLIC: usize = 32;

/// A key exchange method (RFC 4253, 8; RFC 4419; RFC 5656; RFC 8268; RFC 8731; draft-ietf-sshm-mlkem-hybrid-kex).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    MlKem768X25519,
    Curve25519,
    Curve25519LibSsh,
    EcdhP256,
    EcdhP384,
    EcdhP521,
    DhGroup14Sha256,
    DhGroup16Sha512,
    DhGroupExchangeSha256,
    DhGroup14Sha1,
    DhGroupExchangeSha1,
    DhGroup1Sha1,
}

impl Method {
    const ALL: [Self; 12] = [
        Self::MlKem768X25519,
        Self::Curve25519,
        Self::Curve25519LibSsh,
        Self::EcdhP256,
        Self::EcdhP384,
        Self::EcdhP521,
        Self::DhGroup14Sha256,
        Self::DhGroup16Sha512,
        Self::DhGroupExchangeSha256,
        Self::DhGroup14Sha1,
        Self::DhGroupExchangeSha1,
        Self::DhGroup1Sha1,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::MlKem768X25519 => "mlkem768x25519-sha256",
            Self::Curve25519 => "curve25519-sha256",
            Self::Curve25519LibSsh => "curve25519-sha256@libssh.org",
            Self::EcdhP256 => "ecdh-sha2-nistp256",
            Self::EcdhP384 => "ecdh-sha2-nistp384",
            Self::EcdhP521 => "ecdh-sha2-nistp521",
            Self::DhGroup14Sha256 => "diffie-hellman-group14-sha256",
            Self::DhGroup16Sha512 => "diffie-hellman-group16-sha512",
            Self::DhGroupExchangeSha256 => "diffie-hellman-group-exchange-sha256",
            Self::DhGroup14Sha1 => "diffie-hellman-group14-sha1",
            Self::DhGroupExchangeSha1 => "diffie-hellman-group-exchange-sha1",
            Self::DhGroup1Sha1 => "diffie-hellman-group1-sha1",
        }
    }

    pub(super) fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }

    pub(super) fn hash(self) -> &'static digest::Algorithm {
        match self {
            Self::MlKem768X25519 | Self::Curve25519 | Self::Curve25519LibSsh | Self::EcdhP256 => &digest::SHA256,
            Self::DhGroup14Sha256 | Self::DhGroupExchangeSha256 => &digest::SHA256,
            Self::EcdhP384 => &digest::SHA384,
            Self::EcdhP521 | Self::DhGroup16Sha512 => &digest::SHA512,
            Self::DhGroup14Sha1 | Self::DhGroupExchangeSha1 | Self::DhGroup1Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        }
    }

    /// Whether public values go into the exchange hash as mpints (RFC 4253, 8) or as strings (the rest).
    fn hashes_mpints(self) -> bool {
        match self {
            Self::MlKem768X25519 | Self::Curve25519 | Self::Curve25519LibSsh | Self::EcdhP256 | Self::EcdhP384 | Self::EcdhP521 => false,
            Self::DhGroup14Sha256 | Self::DhGroup16Sha512 | Self::DhGroup14Sha1 | Self::DhGroup1Sha1 => true,
            Self::DhGroupExchangeSha256 | Self::DhGroupExchangeSha1 => true,
        }
    }

    /// Whether the server chooses the group, in two messages more (RFC 4419).
    fn exchanges_groups(self) -> bool {
        matches!(self, Self::DhGroupExchangeSha256 | Self::DhGroupExchangeSha1)
    }

    /// A public value as the messages 30 and 31 and the exchange hash carry it.
    pub(super) fn put_public(self, out: &mut Vec<u8>, public: &[u8]) {
        if self.hashes_mpints() { put_mpint(out, public) } else { put_string(out, public) }
    }
}

/// K, as the exchange hash and the key derivation take it: an mpint, or a string for the hybrid method.
pub(super) type Secret = Zeroizing<Vec<u8>>;

/// A client's half of a key exchange, message by message.
pub(super) enum ClientHalf {
    /// A group was asked for.
    AwaitsGroup,
    /// Our public value is out.
    AwaitsReply(Ephemeral),
}

impl ClientHalf {
    /// With the first message of the method.
    pub(super) fn start(method: Method) -> Result<(Self, Vec<u8>), TransportError> {
        if method.exchanges_groups() {
            return Ok((Self::AwaitsGroup, group_exchange::request()));
        }
        let ours = Ephemeral::generate(method)?;
        let mut message = vec![msg::KEX_INIT];
        method.put_public(&mut message, ours.public());
        Ok((Self::AwaitsReply(ours), message))
    }

    /// The server's group → our public value in it.
    pub(super) fn take_group(message: &[u8]) -> Result<(Self, Vec<u8>), TransportError> {
        let ours = group_exchange::take_group(message)?;
        let mut message = vec![msg::GEX_INIT];
        put_mpint(&mut message, &ours.public);
        Ok((Self::AwaitsReply(Ephemeral::DhInGroup(ours)), message))
    }
}

/// Our ephemeral half of an exchange.
pub(super) enum Ephemeral {
    Hybrid {
        kem: DecapsulationKey,
        x25519: agreement::PrivateKey,
        public: Vec<u8>,
    },
    Curve {
        algorithm: &'static agreement::Algorithm,
        secret: agreement::PrivateKey,
        public: Vec<u8>,
    },
    Dh(DhSecret),
    /// In a group of the server's.
    DhInGroup(DhSecret),
}

impl Ephemeral {
    fn curve(algorithm: &'static agreement::Algorithm) -> Result<(agreement::PrivateKey, Vec<u8>), TransportError> {
        const FAILED: TransportError = TransportError::Crypto("an ephemeral key");
        let secret = agreement::PrivateKey::generate(algorithm).map_err(|_| FAILED)?;
        let public = secret.compute_public_key().map_err(|_| FAILED)?.as_ref().to_vec();
        Ok((secret, public))
    }

    /// A client's half. (A server's half of the hybrid method depends on the client's: see [`respond`].)
    pub(super) fn generate(method: Method) -> Result<Self, TransportError> {
        let algorithm = match method {
            Method::MlKem768X25519 => {
                const FAILED: TransportError = TransportError::Crypto("an ML-KEM key");
                let kem = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| FAILED)?;
                let mut public = kem.encapsulation_key().and_then(|key| Ok(key.key_bytes()?.as_ref().to_vec())).map_err(|_| FAILED)?;
                let (x25519, x25519_public) = Self::curve(&agreement::X25519)?;
                public.extend_from_slice(&x25519_public);
                return Ok(Self::Hybrid { kem, x25519, public });
            }
            Method::DhGroup14Sha256 | Method::DhGroup14Sha1 => return DhSecret::generate(Group::fourteen()?).map(Self::Dh),
            Method::DhGroup16Sha512 => return DhSecret::generate(Group::sixteen()?).map(Self::Dh),
            Method::DhGroup1Sha1 => return DhSecret::generate(Group::one()?).map(Self::Dh),
            Method::DhGroupExchangeSha256 | Method::DhGroupExchangeSha1 => {
                return Err(TransportError::Crypto("a public value before its group"));
            }
            Method::Curve25519 | Method::Curve25519LibSsh => &agreement::X25519,
            Method::EcdhP256 => &agreement::ECDH_P256,
            Method::EcdhP384 => &agreement::ECDH_P384,
            Method::EcdhP521 => &agreement::ECDH_P521,
        };
        let (secret, public) = Self::curve(algorithm)?;
        Ok(Self::Curve { algorithm, secret, public })
    }

    pub(super) fn public(&self) -> &[u8] {
        match self {
            Self::Hybrid { public, .. } | Self::Curve { public, .. } => public,
            Self::Dh(secret) | Self::DhInGroup(secret) => &secret.public,
        }
    }

    /// The number of the message that answers it.
    pub(super) fn reply(&self) -> u8 {
        if matches!(self, Self::DhInGroup(_)) { msg::GEX_REPLY } else { msg::KEX_REPLY }
    }

    /// What the exchange hash holds of a group that the server chose.
    pub(super) fn put_group(&self, hashed: &mut Vec<u8>) {
        if let Self::DhInGroup(secret) = self {
            group_exchange::put_group(hashed, &secret.group);
        }
    }

    /// K from the server's public value.
    pub(super) fn agree(&self, peer: &[u8]) -> Result<Secret, TransportError> {
        match self {
            Self::Hybrid { kem, x25519, .. } => {
                const BAD: TransportError = TransportError::Misbehaved("the hybrid key exchange reply cannot be used");
                let (ciphertext, peer_x25519) = peer.split_at_checked(MLKEM_CIPHERTEXT).ok_or(BAD)?;
                let shared = kem.decapsulate(Ciphertext::from(ciphertext)).map_err(|_| BAD)?;
                let curve = agree_on_curve(x25519, &agreement::X25519, peer_x25519)?;
                Ok(hybrid_secret(shared.as_ref(), &curve))
            }
            Self::Curve { algorithm, secret, .. } => Ok(as_mpint(&agree_on_curve(secret, algorithm, peer)?)),
            Self::Dh(secret) | Self::DhInGroup(secret) => Ok(as_mpint(&secret.agree(peer)?)),
        }
    }
}

/// A server's answer to a client's public value: our public value and K. Modern methods only.
pub(super) fn respond(method: Method, peer: &[u8]) -> Result<(Vec<u8>, Secret), TransportError> {
    if is_legacy(method.name()) {
        return Err(TransportError::Crypto("a legacy key exchange in server role"));
    }
    if method != Method::MlKem768X25519 {
        let ours = Ephemeral::generate(method)?;
        let secret = ours.agree(peer)?;
        return Ok((ours.public().to_vec(), secret));
    }
    const BAD: TransportError = TransportError::Misbehaved("the hybrid key exchange value cannot be used");
    let (kem, peer_x25519) = peer.split_at_checked(MLKEM_PUBLIC).ok_or(BAD)?;
    let kem = EncapsulationKey::new(&ML_KEM_768, kem).map_err(|_| BAD)?;
    let (ciphertext, shared) = kem.encapsulate().map_err(|_| BAD)?;
    let (x25519, x25519_public) = Ephemeral::curve(&agreement::X25519)?;
    let curve = agree_on_curve(&x25519, &agreement::X25519, peer_x25519)?;
    let mut public = ciphertext.as_ref().to_vec();
    public.extend_from_slice(&x25519_public);
    Ok((public, hybrid_secret(shared.as_ref(), &curve)))
}

/// The primitives refuse a point off the curve and, for X25519, an all-zero result (RFC 8731, 3).
fn agree_on_curve(
    ours: &agreement::PrivateKey,
    algorithm: &'static agreement::Algorithm,
    peer: &[u8],
) -> Result<Zeroizing<Vec<u8>>, TransportError> {
    const BAD: TransportError = TransportError::Misbehaved("the key exchange value is not a point of the curve");
    if *algorithm == agreement::X25519 && peer.len() != X25519_PUBLIC {
        return Err(BAD);
    }
    agree(ours, UnparsedPublicKey::new(algorithm, peer), BAD, |secret| Ok(Zeroizing::new(secret.to_vec())))
}

fn as_mpint(big_endian: &[u8]) -> Secret {
    // Room for all of it at once, so that no copy stays behind where the vector grew.
    let mut out = Zeroizing::new(Vec::with_capacity(big_endian.len() + 5));
    put_mpint(&mut out, big_endian);
    out
}

fn hybrid_secret(kem: &[u8], curve: &[u8]) -> Secret {
    let mut hash = digest::Context::new(&digest::SHA256);
    hash.update(kem);
    hash.update(curve);
    let mut out = Zeroizing::new(Vec::with_capacity(4 + 32));
    put_string(&mut out, hash.finish().as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_sides_of_every_method_agree() {
        for method in Method::ALL {
            assert_eq!(Method::find(method.name()), Some(method));
            if is_legacy(method.name()) {
                assert!(respond(method, &[7; 128]).is_err());
                continue;
            }
            let client = Ephemeral::generate(method).unwrap();
            let (public, servers) = respond(method, client.public()).unwrap();
            assert_eq!(*client.agree(&public).unwrap(), *servers, "{}", method.name());
        }
    }

    #[test]
    fn values_that_are_no_points_are_refused() {
        // Numbers out of range of the groups are refused in `dh`.
        for method in Method::ALL.into_iter().filter(|method| !method.hashes_mpints()) {
            let client = Ephemeral::generate(method).unwrap();
            for bad in [&[][..], &[0; 31], &[0; 32], &[0; 33], &[4; 65], &[0; 1216], &[0xff; 1216], &[0; 1120], &[0; 5000]] {
                assert!(respond(method, bad).is_err(), "{} server {}", method.name(), bad.len());
                assert!(client.agree(bad).is_err(), "{} client {}", method.name(), bad.len());
            }
        }
    }
}
