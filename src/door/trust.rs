use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ssh_key::public::KeyData;
use ssh_key::{Algorithm, Certificate};

use super::authorized_keys::AuthorizedKeys;
use super::key_file::{self, KeyFileError, KeySet};
use super::{Config, certificate, key_rules};
use crate::access::{OperatorName, Restrictions};

/// Reading a file of keys takes no longer, or nobody is proven by it.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Who is believed: the operators' files, the trusted authorities, and what is revoked.
///
/// **Invariant**: the answer to an unknown operator takes the same way as to a known one: an absent file is an empty one.
#[derive(Debug)]
pub(super) struct Trust {
    authorized_keys_dir: PathBuf,
    authorities: KeySet,
    /// Read anew for each attempt, so that a revocation counts at once.
    revoked_keys: Option<PathBuf>,
    /// Whether a certificate could prove anybody. An offered certificate looks like an offered key, so this decides for all of them.
    certificates: AtomicBool,
}

/// What is asked of [`Trust`].
#[derive(Debug, Clone)]
pub(super) struct Claim {
    /// None when the user name is no operator's name.
    pub(super) operator: Option<OperatorName>,
    pub(super) source: IpAddr,
    pub(super) proof: Proof,
}

#[derive(Debug, Clone)]
pub(super) enum Proof {
    Key(KeyData),
    Certificate(Box<Certificate>),
}

impl Trust {
    pub(super) fn read(config: &Config) -> Result<Self, KeyFileError> {
        let authorities = config.trusted_user_ca.as_deref().map(KeySet::read_authorities).transpose()?;
        if let Some(path) = &config.revoked_keys {
            KeySet::read_revoked(path)?;
        }
        let certificates = authorities.is_some() || super::check::some_operator_trusts_an_authority(config);
        Ok(Self {
            authorized_keys_dir: config.authorized_keys_dir.clone(),
            authorities: authorities.unwrap_or_default(),
            revoked_keys: config.revoked_keys.clone(),
            certificates: AtomicBool::new(certificates),
        })
    }

    /// Whether an offered key is worth its owner's signature. Where certificates are in use it cannot be told before, so it is.
    pub(super) async fn would_admit(self: &Arc<Self>, claim: Claim, algorithm: &Algorithm) -> Result<(), String> {
        key_rules::acceptable_signature(algorithm)?;
        if let Proof::Key(key) = &claim.proof {
            key_rules::acceptable(key)?;
        }
        if self.certificates.load(Ordering::Relaxed) {
            return Ok(());
        }
        match self.admit(claim).await {
            // The operator's file may be the first seen that names an authority.
            Err(_) if self.certificates.load(Ordering::Relaxed) => Ok(()),
            admitted => admitted.map(|_| ()),
        }
    }

    /// What this proof, already verified, is worth. The error is for the audit: the operator learns only that it was not accepted.
    pub(super) async fn admit(self: &Arc<Self>, claim: Claim) -> Result<Restrictions, String> {
        let trust = self.clone();
        let read = tokio::task::spawn_blocking(move || trust.decide(&claim, SystemTime::now()));
        match tokio::time::timeout(READ_TIMEOUT, read).await {
            Ok(Ok(admitted)) => admitted,
            Ok(Err(_)) => Err("reading the operator's keys failed".to_owned()),
            Err(_) => Err("reading the operator's keys took too long".to_owned()),
        }
    }

    fn decide(&self, claim: &Claim, now: SystemTime) -> Result<Restrictions, String> {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let keys = self.keys_of(claim.operator.as_ref())?;
        let named = |certificate: &Certificate| claim.operator.as_ref().is_some_and(|operator| certificate::names(certificate, operator));
        let revoked = match self.revoked_keys.as_deref().map(KeySet::read_revoked).transpose() {
            Ok(revoked) => revoked.unwrap_or_default(),
            Err(error) => {
                tracing::error!(%error, "nobody is let in until the revoked keys can be read");
                return Err("the revoked keys cannot be read".to_owned());
            }
        };
        let seconds = i64::try_from(now).unwrap_or(i64::MAX);
        match &claim.proof {
            Proof::Key(key) => {
                key_rules::acceptable(key)?;
                if revoked.contains(key) {
                    return Err("the key is revoked".to_owned());
                }
                keys.admit_key(key, claim.source, seconds)
            }
            Proof::Certificate(certificate) => {
                if revoked.contains(certificate.public_key()) || revoked.contains(certificate.signature_key()) {
                    return Err("the certificate's key or its authority is revoked".to_owned());
                }
                let by_certificate = certificate::check(certificate, claim.source, now)?;
                let by_line = if self.authorities.contains(certificate.signature_key()) && named(certificate) {
                    Restrictions::default()
                } else {
                    keys.admit_certificate(certificate, claim.operator.as_ref(), claim.source, seconds).map_err(|reason| {
                        if self.authorities.contains(certificate.signature_key()) {
                            "the certificate is not for this operator: wrong principals".to_owned()
                        } else {
                            reason
                        }
                    })?
                };
                Ok(both(by_certificate, by_line))
            }
        }
    }

    /// For a name that is none the file that is asked for is one that cannot be there.
    fn keys_of(&self, operator: Option<&OperatorName>) -> Result<AuthorizedKeys, String> {
        let name = operator.map_or(".no-operator/", OperatorName::as_str);
        let path = self.authorized_keys_dir.join(name);
        let bytes = match key_file::read(&path) {
            Ok(bytes) => bytes.unwrap_or_default(),
            // The audit gets it as the reason; the log says it to whoever can change it.
            Err(error) => {
                tracing::warn!(%error, operator = name, "the operator's keys do not count");
                return Err(error.to_string());
            }
        };
        let (keys, problems) = AuthorizedKeys::parse(&String::from_utf8_lossy(&bytes));
        for problem in problems.iter().take(8) {
            tracing::warn!(file = %path.display(), line = problem.line, problem = problem.text, "a line does not count");
        }
        if keys.trusts_an_authority() {
            self.certificates.store(true, Ordering::Relaxed);
        }
        Ok(keys)
    }
}

/// What is taken away by either.
fn both(a: Restrictions, b: Restrictions) -> Restrictions {
    Restrictions {
        no_pty: a.no_pty || b.no_pty,
        no_port_forwarding: a.no_port_forwarding || b.no_port_forwarding,
        no_agent_forwarding: a.no_agent_forwarding || b.no_agent_forwarding,
        no_x11_forwarding: a.no_x11_forwarding || b.no_x11_forwarding,
    }
}
