use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ssh_key::Certificate;
use ssh_key::public::KeyData;

use super::authorized_keys::{AuthorizedKeys, LineProblem};
use super::key_file::{self, KeyFileError, KeySet};
use super::key_rules::{acceptable, fingerprint};
use super::{Config, certificate};
use crate::access::{Operator, OperatorName, Restrictions};

/// Who the operators are: their files of keys, and the authorities that vouch for them.
///
/// Files are read anew at each attempt, so a key that is taken away is away at once.
#[derive(Debug)]
pub(super) struct Operators {
    dir: PathBuf,
    authorities: Option<LastGood>,
    revoked: Option<LastGood>,
    /// Whether there is any authority, the broker's or in some operator's file. It was there at the last reload, or has been seen since.
    takes_certificates: AtomicBool,
}

/// A file of keys whose last good content counts: a slip of the pen in it locks nobody out and lets nobody in.
#[derive(Debug)]
struct LastGood {
    path: PathBuf,
    read: fn(&Path) -> Result<KeySet, KeyFileError>,
    keys: Mutex<Arc<KeySet>>,
}

impl LastGood {
    fn read(path: &Path, read: fn(&Path) -> Result<KeySet, KeyFileError>) -> Result<Self, KeyFileError> {
        Ok(Self { path: path.to_owned(), read, keys: Mutex::new(Arc::new(read(path)?)) })
    }

    fn now(&self) -> Arc<KeySet> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        match (self.read)(&self.path) {
            Ok(read) => *keys = Arc::new(read),
            Err(error) => tracing::error!(%error, "what the file held before still counts"),
        }
        keys.clone()
    }
}

impl Operators {
    /// Refuses files that cannot be read as they must be.
    pub(super) fn new(config: &Config) -> Result<Self, KeyFileError> {
        let last_good = |path: &Option<PathBuf>, read| path.as_deref().map(|path| LastGood::read(path, read)).transpose();
        let operators = Self {
            dir: config.authorized_keys_dir.clone(),
            authorities: last_good(&config.trusted_user_ca, KeySet::read_authorities)?,
            revoked: last_good(&config.revoked_keys, KeySet::read_revoked)?,
            takes_certificates: AtomicBool::default(),
        };
        operators.takes_certificates.store(operators.authorities.is_some() || operators.any_trusts_an_authority(), Ordering::Relaxed);
        Ok(operators)
    }

    fn any_trusts_an_authority(&self) -> bool {
        // Without the directory nobody has keys.
        let names = fs::read_dir(&self.dir).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut operators = names.filter_map(|name| OperatorName::parse(name.to_str()?).ok());
        operators.any(|name| self.read(&name).is_ok_and(|(keys, _)| keys.trusts_an_authority()))
    }

    fn read(&self, operator: &OperatorName) -> Result<(AuthorizedKeys, Vec<LineProblem>), KeyFileError> {
        let bytes = key_file::read(&self.dir.join(operator.as_str()))?.unwrap_or_default();
        Ok(AuthorizedKeys::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// An operator without a file has no keys. An unknown one takes the same way.
    fn keys_of(&self, operator: &OperatorName) -> Result<AuthorizedKeys, KeyFileError> {
        let (keys, problems) = self.read(operator)?;
        for problem in problems {
            tracing::warn!(%operator, line = problem.line, "a line of the operator's keys does not count: {}", problem.text);
        }
        Ok(keys)
    }

    /// Whether a signature by this key could prove the operator. With an authority about, an offered certificate cannot be told from a
    /// bare key, so every acceptable key is taken to its proof. That is whoever's name it is, and without a look at the file of that name:
    /// neither the answer nor its time may tell who is an operator.
    pub(super) fn could_prove(&self, operator: &OperatorName, key: &KeyData) -> Result<(), String> {
        acceptable(key)?;
        if self.takes_certificates.load(Ordering::Relaxed) {
            return Ok(());
        }
        let keys = self.keys_of(operator).map_err(|error| error.to_string())?;
        if keys.trusts_an_authority() {
            self.takes_certificates.store(true, Ordering::Relaxed);
            return Ok(());
        }
        if keys.knows(key) { Ok(()) } else { Err("no such key".to_owned()) }
    }

    /// Makes the operator whose key signed the session.
    pub(super) fn prove_key(&self, name: &OperatorName, key: &KeyData, source: SocketAddr) -> Result<Operator, String> {
        acceptable(key)?;
        self.not_revoked(&[key])?;
        let keys = self.keys_of(name).map_err(|error| error.to_string())?;
        let restrictions = keys.admit_key(key, canonical(source), now())?;
        Ok(operator(name, fingerprint(key), source, restrictions))
    }

    /// The same for a certificate whose key signed the session.
    pub(super) fn prove_certificate(&self, name: &OperatorName, certificate: &Certificate, source: SocketAddr) -> Result<Operator, String> {
        let address = canonical(source);
        let now = now();
        let granted = certificate::check(certificate, address, u64::try_from(now).unwrap_or_default())?;
        self.not_revoked(&[certificate.public_key(), certificate.signature_key()])?;
        let trusted = self.authorities.as_ref().is_some_and(|authorities| authorities.now().contains(certificate.signature_key()));
        let restrictions = if trusted {
            if !certificate::names(certificate, name) {
                return Err("the certificate is not for this operator: wrong principals".to_owned());
            }
            granted
        } else {
            let keys = self.keys_of(name).map_err(|error| error.to_string())?;
            both(granted, keys.admit_certificate(certificate, name, address, now)?)
        };
        Ok(operator(name, certificate::describe(certificate), source, restrictions))
    }

    fn not_revoked(&self, keys: &[&KeyData]) -> Result<(), String> {
        let Some(revoked) = self.revoked.as_ref().map(LastGood::now) else { return Ok(()) };
        if keys.iter().any(|key| revoked.contains(key)) { Err("the key is revoked".to_owned()) } else { Ok(()) }
    }
}

fn operator(name: &OperatorName, key: String, source: SocketAddr, restrictions: Restrictions) -> Operator {
    Operator { name: name.clone(), key: key.into(), source, restrictions }
}

/// What either takes away.
fn both(a: Restrictions, b: Restrictions) -> Restrictions {
    Restrictions {
        no_pty: a.no_pty || b.no_pty,
        no_port_forwarding: a.no_port_forwarding || b.no_port_forwarding,
        no_agent_forwarding: a.no_agent_forwarding || b.no_agent_forwarding,
        no_x11_forwarding: a.no_x11_forwarding || b.no_x11_forwarding,
    }
}

fn canonical(source: SocketAddr) -> IpAddr {
    source.ip().to_canonical()
}

/// Unix seconds.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti\n";

    #[test]
    fn once_a_file_trusts_an_authority_no_name_is_told_from_another() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).unwrap();
            std::fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(0o600)).unwrap();
        };
        let operators =
            || Operators { dir: dir.path().into(), authorities: None, revoked: None, takes_certificates: AtomicBool::default() };
        let key = super::super::authorized_keys::parse_key(KEY.trim_end()).unwrap();
        let name = |name| OperatorName::parse(name).unwrap();
        write("alice", KEY);
        write("bob", "# none\n");
        let operators_before = operators();
        assert!(!operators_before.any_trusts_an_authority());
        let could = |who| operators_before.could_prove(&name(who), &key).is_ok();
        assert_eq!(["alice", "bob", "mallory"].map(could), [true, false, false]);
        // Added while the broker runs.
        write("bob", &format!("cert-authority {KEY}"));
        assert!(operators().any_trusts_an_authority());
        assert_eq!(["bob", "alice", "mallory"].map(could), [true; 3]);
        write("alice.old", "not a key");
        assert!(operators().any_trusts_an_authority());
    }

    #[test]
    fn a_spoilt_file_counts_as_it_was_and_a_good_one_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revoked");
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        };
        write(KEY);
        let revoked = LastGood::read(&path, KeySet::read_revoked).unwrap();
        let key = super::super::authorized_keys::parse_key(KEY.trim_end()).unwrap();
        assert!(revoked.now().contains(&key));
        write("ssh-ed25519 nonsense\n");
        assert!(revoked.now().contains(&key), "the spoilt file must not free the key");
        std::fs::remove_file(&path).unwrap();
        assert!(revoked.now().contains(&key));
        write("# none any more\n");
        assert!(!revoked.now().contains(&key));
        write("nonsense");
        assert!(LastGood::read(&path, KeySet::read_revoked).is_err());
    }
}
