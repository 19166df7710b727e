use ssh_key::PrivateKey;
use thiserror::Error;
use zeroize::Zeroizing;

use super::wire::{Reader, put_string, put_u32};
use super::{Leg, SignatureAlgorithm, TransportError, msg, sign_with};
use crate::access::Secret;

/// Rounds of keyboard-interactive answered; an honest server asks once for the password and may ask once more with no prompt.
const MAX_ROUNDS: usize = 8;
/// Banners read past.
const MAX_BANNERS: usize = 32;

/// What the login proves itself with. The kind decides what is tried; nothing is guessed.
pub enum Credential {
    PrivateKey(Box<PrivateKey>),
    Password(Secret),
}

#[derive(Debug, Error)]
pub enum AuthError {
    #[error("the instance refused the login (methods it would take: {methods})")]
    Refused { methods: String },
    #[error("the instance wants more than one method (it still asks for: {methods})")]
    WantsMore { methods: String },
    #[error("the instance wants the password changed first")]
    PasswordExpired,
    #[error("the instance asks for more than the password: {prompts} prompts")]
    OtherPrompts { prompts: u32 },
    #[error("the instance takes none of the signature algorithms of this key: it takes {theirs}")]
    NoSignatureAlgorithm { theirs: String },
    #[error(transparent)]
    Transport(#[from] TransportError),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The service was asked for; the request follows its acceptance.
    Service,
    PublicKey,
    Password,
    Interactive,
}

/// User authentication (RFC 4252, RFC 4256) in client role.
pub struct ClientAuth<'a> {
    login: &'a str,
    credential: &'a Credential,
    phase: Phase,
    /// What the key can sign with, that has not been tried: the next one last.
    untried: Vec<SignatureAlgorithm>,
    accepted: bool,
    rounds: usize,
    banners: usize,
}

impl<'a> ClientAuth<'a> {
    /// Asks for the service and, where nothing of the server's is needed to choose, sends the request right behind: a round trip less.
    pub fn start(leg: &mut Leg, login: &'a str, credential: &'a Credential) -> Result<Self, AuthError> {
        let mut auth = Self { login, credential, phase: Phase::Service, untried: Vec::new(), accepted: false, rounds: 0, banners: 0 };
        let mut service = vec![msg::SERVICE_REQUEST];
        put_string(&mut service, b"ssh-userauth");
        leg.send(&service)?;
        // An RSA signature's hash is chosen by server-sig-algs, which has come for certain once the service is accepted.
        let waits = matches!(credential, Credential::PrivateKey(key) if key.key_data().is_rsa());
        if !waits {
            auth.request(leg)?;
        }
        Ok(auth)
    }

    /// Takes one message; `true` when the login stands.
    pub fn receive(&mut self, leg: &mut Leg, message: &[u8]) -> Result<bool, AuthError> {
        const UNEXPECTED: TransportError = TransportError::Misbehaved("a message that does not belong into user authentication");
        let mut reader = Reader::new(message);
        match (reader.u8()?, self.phase) {
            (msg::SERVICE_ACCEPT, _) if !self.accepted => {
                self.accepted = true;
                if self.phase == Phase::Service {
                    self.request(leg)?;
                }
                Ok(false)
            }
            (msg::USERAUTH_BANNER, _) => {
                self.banners += 1;
                if self.banners > MAX_BANNERS {
                    return Err(TransportError::Misbehaved("endless authentication banners").into());
                }
                Ok(false)
            }
            _ if !self.accepted => Err(UNEXPECTED.into()),
            (msg::USERAUTH_SUCCESS, _) => Ok(true),
            (msg::USERAUTH_FAILURE, _) => self.failed(leg, reader),
            (msg::USERAUTH_60, Phase::Password) => Err(AuthError::PasswordExpired),
            (msg::USERAUTH_60, Phase::Interactive) => self.answer(leg, reader),
            _ => Err(UNEXPECTED.into()),
        }
    }

    fn failed(&mut self, leg: &mut Leg, mut reader: Reader<'_>) -> Result<bool, AuthError> {
        let methods: Vec<&str> = reader.names()?.take(16).collect();
        let shown = methods.join(",").chars().take(256).collect();
        if reader.bool()? {
            return Err(AuthError::WantsMore { methods: shown });
        }
        // OpenSSH 9.2 announces both hashes of RSA even where its configuration takes only one of them.
        if let (Credential::PrivateKey(key), true) = (self.credential, methods.contains(&"publickey"))
            && let Some(algorithm) = self.untried.pop()
        {
            self.prove(leg, key, algorithm)?;
            return Ok(false);
        }
        // A server without the password method may still take the password as the answer to a prompt; one that has the method and
        // refused has judged it.
        let elsewhere = self.phase == Phase::Password && !methods.contains(&"password") && methods.contains(&"keyboard-interactive");
        if !elsewhere {
            return Err(AuthError::Refused { methods: shown });
        }
        self.phase = Phase::Interactive;
        let mut message = self.head("keyboard-interactive");
        put_string(&mut message, b"");
        put_string(&mut message, b"");
        leg.send(&message)?;
        Ok(false)
    }

    /// USERAUTH_REQUEST up to the method's own fields, with room for a password behind it.
    fn head(&self, method: &str) -> Zeroizing<Vec<u8>> {
        let mut message = Zeroizing::new(Vec::with_capacity(self.login.len() + 4096));
        message.push(msg::USERAUTH_REQUEST);
        put_string(&mut message, self.login.as_bytes());
        put_string(&mut message, b"ssh-connection");
        put_string(&mut message, method.as_bytes());
        message
    }

    fn request(&mut self, leg: &mut Leg) -> Result<(), AuthError> {
        match self.credential {
            Credential::Password(password) => {
                self.phase = Phase::Password;
                let mut message = self.head("password");
                message.push(0);
                put_secret(&mut message, password);
                leg.send(&message)?;
            }
            Credential::PrivateKey(key) => {
                self.phase = Phase::PublicKey;
                self.untried = algorithms_for(key, &Announced::by(leg))?;
                self.untried.reverse();
                if let Some(algorithm) = self.untried.pop() {
                    self.prove(leg, key, algorithm)?;
                }
            }
        }
        Ok(())
    }

    /// RFC 4252, 7: the request with its signature at once, without asking first whether the key would do.
    fn prove(&mut self, leg: &mut Leg, key: &PrivateKey, algorithm: SignatureAlgorithm) -> Result<(), AuthError> {
        leg.note_login(algorithm);
        let mut message = self.head("publickey");
        message.push(1);
        put_string(&mut message, algorithm.name().as_bytes());
        let blob = key.public_key().to_bytes().map_err(|_| TransportError::Crypto("a public key cannot be encoded"))?;
        put_string(&mut message, &blob);
        let session_id = leg.session_id().ok_or(TransportError::Crypto("no session id"))?;
        let mut signed = Vec::new();
        put_string(&mut signed, session_id);
        signed.extend_from_slice(&message);
        put_string(&mut message, &sign_with(key, algorithm, &signed)?);
        leg.send(&message)?;
        Ok(())
    }

    /// RFC 4256, 3.4: one hidden prompt is answered with the password, once; a round without prompts with nothing.
    fn answer(&mut self, leg: &mut Leg, mut reader: Reader<'_>) -> Result<bool, AuthError> {
        let (_name, _instruction, _language) = (reader.string()?, reader.string()?, reader.string()?);
        let prompts = reader.u32()?;
        self.rounds += 1;
        if self.rounds > MAX_ROUNDS {
            return Err(TransportError::Misbehaved("endless keyboard-interactive prompts").into());
        }
        let mut message = Zeroizing::new(Vec::with_capacity(4096));
        message.push(msg::USERAUTH_INFO_RESPONSE);
        put_u32(&mut message, prompts);
        match (prompts, self.credential) {
            (0, _) => {}
            (1, Credential::Password(password)) if self.rounds == 1 => {
                let (_prompt, echo) = (reader.string()?, reader.bool()?);
                if echo {
                    return Err(AuthError::OtherPrompts { prompts });
                }
                put_secret(&mut message, password);
            }
            _ => return Err(AuthError::OtherPrompts { prompts }),
        }
        leg.send(&message)?;
        Ok(false)
    }
}

/// Like `put_string`, into a vector that was made large enough or is grown without leaving a copy behind.
fn put_secret(message: &mut Zeroizing<Vec<u8>>, secret: &Secret) {
    let secret = secret.expose();
    if message.capacity() - message.len() < 4 + secret.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity(message.len() + 4 + secret.len()));
        larger.extend_from_slice(message);
        *message = larger;
    }
    put_string(message, secret);
}

/// What a server shows of the signatures that it takes.
struct Announced<'a> {
    server_sig_algs: Option<&'a [String]>,
    /// Whether it offers a host key of RSA with SHA-2.
    knows_rsa_sha2: bool,
    /// Whether it may be given SHA-1.
    sha1: bool,
}

impl<'a> Announced<'a> {
    fn by(leg: &'a Leg) -> Self {
        Self { server_sig_algs: leg.server_sig_algs(), knows_rsa_sha2: leg.server_knows_rsa_sha2(), sha1: leg.may_sign_with_sha1() }
    }
}

/// What to sign with, first to last. RFC 8332, 3.2: for RSA the server's own list decides. One without a list that shows no knowledge of
/// SHA-2 elsewhere is of the time before it, and may punish what it does not know (RFC 8332, 3.3): there SHA-1 comes first.
fn algorithms_for(key: &PrivateKey, announced: &Announced<'_>) -> Result<Vec<SignatureAlgorithm>, AuthError> {
    use SignatureAlgorithm::{EcdsaP256, EcdsaP384, EcdsaP521, Ed25519, RsaSha1, RsaSha256, RsaSha512};
    if !key.key_data().is_rsa() {
        let all = [Ed25519, EcdsaP256, EcdsaP384, EcdsaP521].into_iter();
        return Ok(all.filter(|algorithm| algorithm.fits(&key.algorithm())).collect());
    }
    let sha1 = announced.sha1.then_some(RsaSha1);
    let chosen: Vec<_> = match announced.server_sig_algs {
        Some(names) => {
            let named = [RsaSha512, RsaSha256].into_iter().filter(|algorithm| names.iter().any(|name| name == algorithm.name()));
            named.chain(sha1).collect()
        }
        None if announced.knows_rsa_sha2 => [RsaSha256].into_iter().chain(sha1).collect(),
        None => sha1.into_iter().chain([RsaSha256]).collect(),
    };
    if chosen.is_empty() {
        let theirs = announced.server_sig_algs.unwrap_or_default().join(",").chars().take(1024).collect();
        return Err(AuthError::NoSignatureAlgorithm { theirs });
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::SignatureAlgorithm::{RsaSha1, RsaSha256, RsaSha512};
    use super::*;

    fn rsa_key() -> PrivateKey {
        PrivateKey::from_openssh(include_str!("../../fuzz/corpus/instance_secret/openssh-rsa")).unwrap()
    }

    #[test]
    fn a_long_list_of_algorithms_does_not_fill_the_log() {
        let list = vec!["ssh-dss".repeat(100); 64];
        let announced = Announced { server_sig_algs: Some(&list), knows_rsa_sha2: false, sha1: false };
        let error = algorithms_for(&rsa_key(), &announced).unwrap_err().to_string();
        assert!(error.contains("ssh-dss") && error.len() < 2048, "{}", error.len());
    }

    #[test]
    fn sha_1_signs_only_where_it_may_and_first_only_where_nothing_newer_is_known() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let all = names(&["ssh-ed25519", "ssh-rsa", "rsa-sha2-256", "rsa-sha2-512"]);
        let old = names(&["ssh-rsa"]);
        let order =
            |server_sig_algs, knows_rsa_sha2, sha1| algorithms_for(&rsa_key(), &Announced { server_sig_algs, knows_rsa_sha2, sha1 }).ok();
        assert_eq!(order(Some(&all[..]), true, false).unwrap(), [RsaSha512, RsaSha256]);
        assert_eq!(order(Some(&all), true, true).unwrap(), [RsaSha512, RsaSha256, RsaSha1]);
        assert_eq!(order(Some(&old), false, true).unwrap(), [RsaSha1]);
        assert_eq!(order(Some(&old), false, false), None);
        assert_eq!(order(None, true, true).unwrap(), [RsaSha256, RsaSha1]);
        assert_eq!(order(None, false, true).unwrap(), [RsaSha1, RsaSha256]);
        assert_eq!(order(None, false, false).unwrap(), [RsaSha256]);
    }
}
