//! The broker's own keys in `state_dir`, made on first start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ssh_key::certificate::{self, CertType, Certificate};
use ssh_key::private::Ed25519Keypair;
use ssh_key::{Algorithm, LineEnding, PrivateKey, PublicKey};
use thiserror::Error;
use zeroize::Zeroizing;

const HOST: &str = "host_ed25519";
const CA: &str = "ca_ed25519";
const SESSION: &str = "session_ed25519";

/// Bytes of a key file that are read at most.
const MAX_LEN: u64 = 16 * 1024;

/// How far back a certificate's validity begins, for clients whose clock is behind.
const CLOCK_SKEW: Duration = Duration::from_mins(5);

#[derive(Debug, Error)]
pub enum KeysError {
    #[error("cannot {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("{} is not a regular file: move it away, and a new key is made at the next start", .0.display())]
    NotAFile(PathBuf),
    #[error("{} can be reached by others than its owner (mode {mode:04o}): chmod 0600, and think about who may have read it", path.display())]
    TooOpen { path: PathBuf, mode: u32 },
    #[error(
        "{} is not an OpenSSH private key ({reason}): restore it, or move it away, and a new key is made at the next start \
         (every operator then needs the new client-config)", path.display()
    )]
    Corrupt { path: PathBuf, reason: String },
    #[error("{} is a key of type {found}: it must be an unencrypted ssh-ed25519 key", path.display())]
    WrongType { path: PathBuf, found: String },
    #[error("{} does not exist: start the daemon once, which makes the keys (state_dir in the configuration says where)", .0.display())]
    NotMade(PathBuf),
    #[error("a host certificate needs at least one name: {0}")]
    Principals(&'static str),
    #[error("the system's random numbers failed")]
    Random,
    #[error("failed to encode or sign: {0}")]
    Crypto(#[from] ssh_key::Error),
    #[error("the system clock is out of range")]
    Clock,
}

/// The door's host key, the CA that signs what inner legs present, and the inner legs' own key.
pub struct Keys {
    pub host: PrivateKey,
    pub ca: PrivateKey,
    pub session: PrivateKey,
}

impl Keys {
    /// Reads the three keys and makes those that are not there.
    ///
    /// **Invariant**: of two daemons that start at once, both end up with the same keys: a key gets its name by a link, which never
    /// replaces one that is already there.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, KeysError> {
        let key = |name: &str| {
            let path = state_dir.join(name);
            let key = match read_private(&path)? {
                Some(key) => key,
                None => create(&path)?,
            };
            publish(&path, &key)?;
            Ok::<_, KeysError>(key)
        };
        Ok(Self { host: key(HOST)?, ca: key(CA)?, session: key(SESSION)? })
    }

    /// A certificate over the session key for exactly these names, from a few minutes ago until `valid_for` from now.
    pub fn host_certificate(&self, principals: &[&str], valid_for: Duration) -> Result<Certificate, KeysError> {
        // Without principals OpenSSH takes a host certificate for any name at all.
        if principals.is_empty() {
            return Err(KeysError::Principals("none was given"));
        }
        if principals.iter().any(|principal| principal.is_empty()) {
            return Err(KeysError::Principals("an empty one was given"));
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(|_| KeysError::Clock)?;
        let until = now.checked_add(valid_for).ok_or(KeysError::Clock)?;
        let mut nonce = [0; 32];
        random(&mut nonce)?;
        let after = now.saturating_sub(CLOCK_SKEW).as_secs();
        let mut builder = certificate::Builder::new(nonce, self.session.public_key().key_data().clone(), after, until.as_secs())?;
        builder.cert_type(CertType::Host)?.key_id("ssh-broker")?;
        for principal in principals {
            builder.valid_principal(*principal)?;
        }
        Ok(builder.sign(&self.ca)?)
    }
}

/// What operators need to know of the keys.
#[derive(Debug)]
pub struct PublicKeys {
    pub host: PublicKey,
    pub ca: PublicKey,
}

impl PublicKeys {
    /// Reads the `.pub` files, which need no more than reading; makes nothing.
    pub fn load(state_dir: &Path) -> Result<Self, KeysError> {
        Ok(Self { host: read_public(&public_path(&state_dir.join(HOST)))?, ca: read_public(&public_path(&state_dir.join(CA)))? })
    }
}

/// What is wrong with the keys that are there. Changes nothing.
pub fn check(state_dir: &Path) -> Vec<KeysError> {
    [HOST, CA, SESSION].iter().filter_map(|name| read_private(&state_dir.join(name)).err()).collect()
}

fn public_path(path: &Path) -> PathBuf {
    path.with_extension("pub")
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> KeysError {
    let path = path.to_owned();
    move |source| KeysError::Io { action, path, source }
}

fn read_private(path: &Path) -> Result<Option<PrivateKey>, KeysError> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("look at", path)(error)),
        Ok(metadata) if !metadata.is_file() => return Err(KeysError::NotAFile(path.to_owned())),
        Ok(_) => {}
    }
    let file = File::open(path).map_err(failed("read", path))?;
    // Of the file that was opened, not of whatever has the name by now.
    let mode = file.metadata().map_err(failed("look at", path))?.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeysError::TooOpen { path: path.to_owned(), mode });
    }
    // Filled without growing, so that no copy is left behind in freed memory.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_LEN as usize + 1));
    file.take(MAX_LEN).read_to_end(&mut text).map_err(failed("read", path))?;
    let key = PrivateKey::from_openssh(text.as_slice())
        .map_err(|error| KeysError::Corrupt { path: path.to_owned(), reason: error.to_string() })?;
    let wrong_type = |found: String| Err(KeysError::WrongType { path: path.to_owned(), found });
    match key.algorithm() {
        _ if key.is_encrypted() => wrong_type(format!("{} with a passphrase", key.algorithm())),
        Algorithm::Ed25519 => Ok(Some(key)),
        other => wrong_type(other.to_string()),
    }
}

fn read_public(path: &Path) -> Result<PublicKey, KeysError> {
    let mut text = String::new();
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(KeysError::NotMade(path.to_owned())),
        Err(error) => return Err(failed("read", path)(error)),
        Ok(file) => file.take(MAX_LEN).read_to_string(&mut text).map_err(failed("read", path))?,
    };
    let corrupt = |error: ssh_key::Error| KeysError::Io {
        action: "understand (the daemon writes it anew at every start)",
        path: path.to_owned(),
        source: io::Error::new(io::ErrorKind::InvalidData, error),
    };
    PublicKey::from_openssh(text.trim()).map_err(corrupt)
}

/// Makes a key and gives it its name; when another daemon was faster, its key is the key.
fn create(path: &Path) -> Result<PrivateKey, KeysError> {
    let mut seed = Zeroizing::new([0; 32]);
    random(seed.as_mut())?;
    let mut key = PrivateKey::from(Ed25519Keypair::from_seed(&seed));
    key.set_comment("ssh-broker");
    let text = key.to_openssh(LineEnding::LF)?;
    let temporary = write_temporary(path, text.as_bytes(), 0o600)?;
    let linked = fs::hard_link(&temporary, path);
    fs::remove_file(&temporary).map_err(failed("remove", &temporary))?;
    match linked {
        Ok(()) => sync_directory(path)?,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(failed("make", path)(error)),
    }
    read_private(path)?.ok_or_else(|| failed("read", path)(io::ErrorKind::NotFound.into()))
}

/// Writes the `.pub` file beside a key unless it says so already.
fn publish(path: &Path, key: &PrivateKey) -> Result<(), KeysError> {
    let public = public_path(path);
    if read_public(&public).is_ok_and(|known| known.key_data() == key.public_key().key_data()) {
        return Ok(());
    }
    let text = format!("{}\n", key.public_key().to_openssh()?);
    let temporary = write_temporary(&public, text.as_bytes(), 0o644)?;
    fs::rename(&temporary, &public).map_err(failed("make", &public))?;
    sync_directory(&public)
}

/// A new file beside `path`, whole and on the disk.
fn write_temporary(path: &Path, bytes: &[u8], mode: u32) -> Result<PathBuf, KeysError> {
    let mut suffix = [0; 8];
    random(&mut suffix)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.{:016x}", u64::from_ne_bytes(suffix)));
    let written = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    if let Err(error) = written {
        let _ = fs::remove_file(&temporary);
        return Err(failed("write", &temporary)(error));
    }
    Ok(temporary)
}

fn sync_directory(path: &Path) -> Result<(), KeysError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("sync", directory))
}

fn random(bytes: &mut [u8]) -> Result<(), KeysError> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| KeysError::Random)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn keys_are_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(PublicKeys::load(dir.path()), Err(KeysError::NotMade(_))));
        let made = Keys::load_or_create(dir.path()).unwrap();
        let again = Keys::load_or_create(dir.path()).unwrap();
        assert_eq!(made.host.public_key(), again.host.public_key());
        assert_eq!(made.ca.public_key(), again.ca.public_key());
        assert_eq!(made.session.public_key(), again.session.public_key());
        assert_ne!(made.host.public_key().key_data(), made.ca.public_key().key_data());
        let mut names: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        assert_eq!(names, ["ca_ed25519", "ca_ed25519.pub", "host_ed25519", "host_ed25519.pub", "session_ed25519", "session_ed25519.pub"]);
        for name in [HOST, CA, SESSION] {
            assert_eq!(mode(&dir.path().join(name)), 0o600);
            assert_eq!(mode(&public_path(&dir.path().join(name))), 0o644);
        }
        let public = PublicKeys::load(dir.path()).unwrap();
        assert_eq!(public.host.key_data(), made.host.public_key().key_data());
        assert_eq!(public.ca.key_data(), made.ca.public_key().key_data());
    }

    #[test]
    fn daemons_that_start_at_once_share_one_set_of_keys() {
        let dir = tempfile::tempdir().unwrap();
        let barrier = std::sync::Barrier::new(8);
        let start = || {
            barrier.wait();
            let keys = Keys::load_or_create(dir.path()).unwrap();
            [keys.host, keys.ca, keys.session].map(|key| key.public_key().to_openssh().unwrap())
        };
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(start)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(all.iter().all(|keys| *keys == all[0]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 6);
    }

    #[test]
    fn a_public_file_that_is_gone_or_wrong_is_written_anew() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(dir.path()).unwrap();
        fs::remove_file(dir.path().join("host_ed25519.pub")).unwrap();
        fs::write(dir.path().join("ca_ed25519.pub"), keys.session.public_key().to_openssh().unwrap()).unwrap();
        Keys::load_or_create(dir.path()).unwrap();
        let public = PublicKeys::load(dir.path()).unwrap();
        assert_eq!(public.host.key_data(), keys.host.public_key().key_data());
        assert_eq!(public.ca.key_data(), keys.ca.public_key().key_data());
    }

    #[test]
    fn what_is_wrong_with_a_key_is_said_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(CA);
        let refused = |why: &str| {
            let error = Keys::load_or_create(dir.path()).err().unwrap().to_string();
            assert!(error.contains("ca_ed25519") && error.contains(why), "{error}");
            assert_eq!(check(dir.path()).len(), 1);
        };
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        refused("chmod 0600");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let whole = fs::read(&path).unwrap();
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        refused("not an OpenSSH private key");
        fs::write(&path, "").unwrap();
        refused("not an OpenSSH private key");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        refused("not a regular file");
        fs::remove_dir(&path).unwrap();
        let make = |kind: &str, passphrase: &str| {
            let _ = fs::remove_file(&path);
            let made = Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", passphrase, "-f"]).arg(&path).status();
            made.is_ok_and(|status| status.success())
        };
        if make("ecdsa", "") {
            refused("ecdsa-sha2-nistp256");
        }
        if make("ed25519", "open sesame") {
            refused("with a passphrase");
        }
        fs::write(&path, &whole).unwrap();
        assert_eq!(Keys::load_or_create(dir.path()).unwrap().ca.public_key(), keys.ca.public_key());
    }

    #[test]
    fn a_host_certificate_names_exactly_what_was_asked_and_openssh_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(dir.path()).unwrap();
        assert!(keys.host_certificate(&[], Duration::from_secs(60)).is_err());
        assert!(keys.host_certificate(&["ins-a", ""], Duration::from_secs(60)).is_err());
        let certificate = keys.host_certificate(&["ins-gi2lxw", "ins-gi2lxw.prod"], Duration::from_hours(1)).unwrap();
        assert_eq!(certificate.algorithm().to_certificate_type(), "ssh-ed25519-cert-v01@openssh.com");
        assert_eq!(certificate.public_key(), keys.session.public_key().key_data());
        assert_eq!(certificate.valid_principals(), ["ins-gi2lxw", "ins-gi2lxw.prod"]);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!((now - 301..=now - 300).contains(&certificate.valid_after()));
        assert!((now + 3599..=now + 3600).contains(&certificate.valid_before()));
        let ca = keys.ca.public_key().fingerprint(ssh_key::HashAlg::Sha256);
        certificate.validate_at(now, [&ca]).unwrap();
        assert_ne!(certificate.nonce(), keys.host_certificate(&["ins-a"], Duration::from_secs(1)).unwrap().nonce());

        let path = dir.path().join("cert.pub");
        fs::write(&path, certificate.to_openssh().unwrap()).unwrap();
        let Ok(output) = Command::new("ssh-keygen").arg("-L").arg("-f").arg(&path).output() else { return };
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("ssh-ed25519-cert-v01@openssh.com host certificate"), "{text}");
        assert!(text.contains(&format!("ED25519 {ca}")), "{text}");
        let (_, names) = text.split_once("Principals:").unwrap();
        let names: Vec<_> = names.lines().map(str::trim).take_while(|line| !line.contains(':')).filter(|line| !line.is_empty()).collect();
        assert_eq!(names, ["ins-gi2lxw", "ins-gi2lxw.prod"]);
    }
}
