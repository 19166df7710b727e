//! Requests of user authentication (RFC 4252), read from the bytes of a peer that is nobody yet. Pure.
//!
//! **Invariant**: a proof that verifies here was made with the offered key over this connection's session identifier; whose key it is, is
//! not known here.

use signature::Verifier;
use ssh_encoding::Decode;
use ssh_key::public::KeyData;
use ssh_key::{Algorithm, Certificate, Signature};

use crate::transport::TransportError;
use crate::transport::wire::{Reader, put_string};

const CERTIFICATE: &str = "-cert-v01@openssh.com";
/// In the type of every certificate, whoever's domain stands behind it.
const CERTIFICATE_MARK: &[u8] = b"-cert-v01@";
/// Certificates that may stand in one another. The library reads them by recursion, however deep they are; an honest one has a plain key
/// of its authority inside.
const MOST_NESTED: usize = 8;

/// What a client asks to be let in by.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) user: &'a str,
    pub(super) method: Method<'a>,
}

#[derive(Debug)]
pub(super) enum Method<'a> {
    None,
    PublicKey(Offer<'a>),
    /// A key that cannot be read, or of no type that is known.
    Unreadable(String),
    /// What proves nobody here, by its name.
    Other(&'a str),
}

/// A key or certificate, and perhaps the proof that the client has it.
#[derive(Debug)]
pub(super) struct Offer<'a> {
    /// As it came, for the answer.
    pub(super) name: &'a [u8],
    pub(super) blob: &'a [u8],
    /// What it is signed with, or would be.
    pub(super) algorithm: Algorithm,
    pub(super) subject: Subject,
    proof: Option<Proof<'a>>,
}

#[derive(Debug)]
pub(super) enum Subject {
    Key(Box<KeyData>),
    Certificate(Box<Certificate>),
}

#[derive(Debug)]
struct Proof<'a> {
    /// The request up to its signature.
    signed: &'a [u8],
    signature: &'a [u8],
}

impl<'a> Request<'a> {
    pub(super) fn parse(message: &'a [u8]) -> Result<Self, TransportError> {
        let mut reader = Reader::new(message);
        reader.u8()?;
        let (user, service, method) = (reader.text()?, reader.string()?, reader.text()?);
        if service != b"ssh-connection" {
            return Err(TransportError::Misbehaved("a service other than ssh-connection was asked for"));
        }
        let method = match method {
            "none" => Method::None,
            "publickey" => Offer::parse(message, reader)?,
            other => Method::Other(other),
        };
        Ok(Self { user, method })
    }
}

impl<'a> Offer<'a> {
    fn parse(message: &'a [u8], mut reader: Reader<'a>) -> Result<Method<'a>, TransportError> {
        let is_signed = reader.bool()?;
        let (name, blob) = (reader.string()?, reader.string()?);
        let signed = message.get(..message.len() - reader.rest().len()).unwrap_or_default();
        let proof = if is_signed { Some(Proof { signed, signature: reader.string()? }) } else { None };
        if !reader.is_empty() {
            return Err(TransportError::Misbehaved("an authentication request is longer than its fields"));
        }
        Ok(match Subject::decode(name, blob) {
            Ok((algorithm, subject)) => Method::PublicKey(Self { name, blob, algorithm, subject, proof }),
            Err(reason) => Method::Unreadable(reason),
        })
    }

    pub(super) fn is_signed(&self) -> bool {
        self.proof.is_some()
    }

    /// Whether the signature is there, of the algorithm that was named, and right (RFC 4252, 7; RFC 8332, 3).
    pub(super) fn verify(&self, session_id: &[u8]) -> Result<(), String> {
        let wrong = || "the signature is wrong".to_owned();
        let proof = self.proof.as_ref().ok_or_else(wrong)?;
        let mut rest = proof.signature;
        let signature = Signature::decode(&mut rest).map_err(|_| wrong())?;
        if !rest.is_empty() || signature.algorithm() != self.algorithm {
            return Err(wrong());
        }
        let mut signed = Vec::with_capacity(4 + session_id.len() + proof.signed.len());
        put_string(&mut signed, session_id);
        signed.extend_from_slice(proof.signed);
        self.subject.key().verify(&signed, &signature).map_err(|_| wrong())
    }
}

impl Subject {
    fn decode(name: &[u8], blob: &[u8]) -> Result<(Algorithm, Self), String> {
        let unknown = || "a key of a type that is not known was offered".to_owned();
        let unreadable = || "a key that cannot be read was offered".to_owned();
        let name = std::str::from_utf8(name).map_err(|_| unknown())?;
        if blob.windows(CERTIFICATE_MARK.len()).filter(|window| *window == CERTIFICATE_MARK).count() > MOST_NESTED {
            return Err(unreadable());
        }
        let mut rest = blob;
        let (algorithm, subject) = match name.strip_suffix(CERTIFICATE) {
            // A security key's name has its domain behind both.
            Some(key) => {
                let key = if key.starts_with("sk-") { format!("{key}@openssh.com") } else { key.to_owned() };
                let certificate = Certificate::decode(&mut rest).map_err(|_| unreadable())?;
                (Algorithm::new(&key).map_err(|_| unknown())?, Self::Certificate(Box::new(certificate)))
            }
            None => {
                let algorithm = Algorithm::new(name).map_err(|_| unknown())?;
                (algorithm, Self::Key(Box::new(KeyData::decode(&mut rest).map_err(|_| unreadable())?)))
            }
        };
        if rest.is_empty() { Ok((algorithm, subject)) } else { Err(unreadable()) }
    }

    /// What signs: of a certificate, the key that it is for.
    pub(super) fn key(&self) -> &KeyData {
        match self {
            Self::Key(key) => key,
            Self::Certificate(certificate) => certificate.public_key(),
        }
    }
}

#[cfg(test)]
mod tests {
    use ssh_key::PrivateKey;
    use ssh_key::certificate::{Builder, CertType};
    use ssh_key::private::{Ed25519Keypair, KeypairData};

    use super::*;
    use crate::transport::{SignatureAlgorithm, msg, sign_with};

    const SESSION: &[u8] = b"the first exchange hash";

    fn key(seed: u8) -> PrivateKey {
        PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[seed; 32])), "").unwrap()
    }

    fn request(method: &str, rest: &[&[u8]]) -> Vec<u8> {
        let mut message = vec![msg::USERAUTH_REQUEST];
        [&b"alice"[..], b"ssh-connection", method.as_bytes()].iter().for_each(|text| put_string(&mut message, text));
        [message, rest.concat()].concat()
    }

    fn string(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_string(&mut out, bytes);
        out
    }

    fn unsigned(flag: u8, name: &str, blob: &[u8]) -> Vec<u8> {
        request("publickey", &[&[flag], &string(name.as_bytes()), &string(blob)])
    }

    fn signed(session: &[u8], name: &str, blob: &[u8], by: &PrivateKey) -> Vec<u8> {
        let message = unsigned(1, name, blob);
        let signature = sign_with(by, SignatureAlgorithm::Ed25519, &[string(session), message.clone()].concat()).unwrap();
        [message, string(&signature)].concat()
    }

    fn verify(message: &[u8]) -> Result<(), String> {
        match Request::parse(message).map_err(|error| error.to_string())?.method {
            Method::PublicKey(offer) => {
                assert!(offer.is_signed());
                offer.verify(SESSION)
            }
            Method::Unreadable(reason) => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    fn certificate(of: &PrivateKey) -> Vec<u8> {
        let mut builder = Builder::new(vec![1; 16], of.public_key(), 0, u64::MAX).unwrap();
        builder.cert_type(CertType::User).unwrap().valid_principal("alice").unwrap();
        builder.sign(&key(9)).unwrap().to_bytes().unwrap()
    }

    #[test]
    fn a_proof_counts_for_its_session_its_key_and_its_request_alone() {
        let (alices, others) = (key(1), key(2));
        let blob = alices.public_key().to_bytes().unwrap();
        assert_eq!(verify(&signed(SESSION, "ssh-ed25519", &blob, &alices)), Ok(()));
        assert_eq!(verify(&signed(SESSION, "ssh-ed25519-cert-v01@openssh.com", &certificate(&alices), &alices)), Ok(()));
        let wrong = Err("the signature is wrong".to_owned());
        assert_eq!(verify(&signed(b"another", "ssh-ed25519", &blob, &alices)), wrong);
        assert_eq!(verify(&signed(SESSION, "ssh-ed25519", &blob, &others)), wrong);
        assert_eq!(verify(&signed(SESSION, "ssh-ed25519-cert-v01@openssh.com", &certificate(&alices), &others)), wrong);
        // The same proof under another name of the user's, or of the algorithm's.
        let good = signed(SESSION, "ssh-ed25519", &blob, &alices);
        let other_user = String::from_utf8_lossy(&good[5..10]).replace("alice", "bobby");
        assert_eq!(verify(&[&good[..5], other_user.as_bytes(), &good[10..]].concat()), wrong);
        assert_eq!(verify(&signed(SESSION, "rsa-sha2-256", &blob, &alices)), wrong);
        let empty = [unsigned(1, "ssh-ed25519", &blob), string(b"")].concat();
        assert_eq!(verify(&empty), wrong);
    }

    #[test]
    fn every_bit_of_a_proof_counts() {
        let alices = key(1);
        let good = signed(SESSION, "ssh-ed25519", &alices.public_key().to_bytes().unwrap(), &alices);
        for at in 5..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            let verified = match Request::parse(&bad) {
                Ok(Request { method: Method::PublicKey(offer), .. }) => offer.verify(SESSION).is_ok(),
                _ => false,
            };
            assert!(!verified, "{at}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_told_from_what_breaks_the_protocol() {
        let blob = key(1).public_key().to_bytes().unwrap();
        let unreadable = |message: &[u8]| matches!(Request::parse(message).unwrap().method, Method::Unreadable(_));
        assert!(unreadable(&unsigned(0, "ssh-ed25519", b"")));
        assert!(unreadable(&unsigned(0, "ssh-ed25519", &[&blob[..], b"more"].concat())));
        assert!(unreadable(&unsigned(0, "no such name \u{1}", &blob)));
        assert!(unreadable(&unsigned(0, "ssh-ed25519-cert-v01@openssh.com", &blob)));
        assert!(Request::parse(&[unsigned(0, "ssh-ed25519", &blob), vec![0]].concat()).is_err());
        assert!(Request::parse(&request("publickey", &[&[1], &string(b"ssh-ed25519"), &string(&blob)])).is_err());
        assert!(Request::parse(&request("none", &[])[..20]).is_err());
        let other_service = String::from_utf8(request("none", &[])).unwrap().replace("connection", "transports");
        assert!(Request::parse(other_service.as_bytes()).is_err());
        assert!(matches!(Request::parse(&request("password", &[b"\0", &string(b"x")])).unwrap().method, Method::Other("password")));
        assert!(matches!(Request::parse(&request("none", &[])).unwrap(), Request { user: "alice", method: Method::None }));
    }

    /// The library reads them by recursion: without the bound this ends the process.
    #[test]
    fn certificates_in_certificates_are_not_followed_down() {
        let known: fn(&[u8]) -> Vec<u8> = |inner| {
            let mut outer = [string(b"ssh-ed25519-cert-v01@openssh.com"), string(&[1; 16]), string(&[2; 32]), vec![0; 8]].concat();
            outer.extend([vec![0, 0, 0, 1], string(b""), string(b""), vec![0; 16], string(b""), string(b""), string(b"")].concat());
            [outer, string(inner)].concat()
        };
        // Of a type that nobody has: its key is an empty string.
        let other: fn(&[u8]) -> Vec<u8> = |inner| {
            let outer =
                [string(b"a-cert-v01@x"), string(b""), string(b""), vec![0; 8], vec![0, 0, 0, 1], string(b""), string(b"")].concat();
            [outer, vec![0; 16], string(b""), string(b""), string(b""), string(inner)].concat()
        };
        for nest in [known, other] {
            let mut blob = key(1).public_key().to_bytes().unwrap();
            while blob.len() < 250 * 1024 {
                blob = nest(&blob);
            }
            for name in ["ssh-ed25519-cert-v01@openssh.com", "ssh-ed25519", "a-cert-v01@x"] {
                let message = unsigned(0, name, &blob);
                assert!(matches!(Request::parse(&message).unwrap().method, Method::Unreadable(_)));
            }
        }
    }
}
