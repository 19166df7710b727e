use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use ssh_key::LineEnding;
use tempfile::TempDir;
use tokio::process::Command;

use super::keys::ed25519;
use crate::access::Invalid;

/// What an OpenSSH client must know of the broker.
pub struct BrokerFacts<'a> {
    /// Where the door listens.
    pub address: SocketAddr,
    /// The door's host key, as a public key line (`ssh-ed25519 AAAA…`).
    pub host_key: &'a str,
    /// The key that signs the inner legs' host certificates, likewise.
    pub ca_key: &'a str,
}

/// A private directory with all that a real `ssh` needs to be the demo's operator: a fresh key, a configuration, known hosts. Nothing of
/// the user's own SSH setup is read or changed.
///
/// **Invariant**: the directory is 0700 and goes away with this value.
pub struct ClientHome {
    dir: TempDir,
    public_key: String,
}

impl ClientHome {
    /// The operator's name at the broker.
    pub const OPERATOR: &'static str = "demo";

    /// # Errors
    /// When the directory cannot be made, or its path (below `$TMPDIR`) holds a character that ssh does not pass on to a jump host's
    /// client unharmed.
    pub fn create() -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("ssh-broker-demo.").permissions(Permissions::from_mode(0o700)).tempdir()?;
        let path = dir.path().to_string_lossy();
        if !path.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '_' | '-' | '+' | ',' | ':' | '@')) {
            let why = Invalid(format!("{path:?} cannot be used for ssh's files: set TMPDIR to a path of plain letters, digits and /._-"));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let key = ed25519("ssh-broker demo")?;
        let public_key = key.public_key().to_openssh().map_err(io::Error::other)?;
        let home = Self { dir, public_key };
        // ssh-key creates the file as 0600.
        key.write_openssh_file(home.key(), LineEnding::LF).map_err(io::Error::other)?;
        Ok(home)
    }

    /// The directory; the demo's broker may keep its state below it.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The operator's key as an authorized_keys line.
    pub fn public_key(&self) -> &str {
        &self.public_key
    }

    /// What to give to `ssh -F`.
    pub fn config(&self) -> PathBuf {
        self.dir.path().join("ssh_config")
    }

    fn key(&self) -> PathBuf {
        self.dir.path().join("id_ed25519")
    }

    /// Writes `ssh_config` and `known_hosts`: `broker` is the door, `ins-*` are reached through it.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write_config(&self, broker: &BrokerFacts<'_>) -> io::Result<()> {
        let known_hosts = self.dir.path().join("known_hosts");
        let (host, port) = (broker.address.ip(), broker.address.port());
        write_private(&known_hosts, &format!("[{host}]:{port} {}\n@cert-authority ins-* {}\n", broker.host_key, broker.ca_key))?;
        let config = format!(
            "Host broker\n\
             \x20   HostName {host}\n\
             \x20   Port {port}\n\
             \x20   User {operator}\n\
             \x20   IdentityFile {key}\n\
             \n\
             Host ins-*\n\
             \x20   ProxyJump broker\n\
             \n\
             Host *\n\
             \x20   IdentitiesOnly yes\n\
             \x20   IdentityAgent none\n\
             \x20   UserKnownHostsFile {known_hosts}\n\
             \x20   GlobalKnownHostsFile /dev/null\n\
             \x20   StrictHostKeyChecking yes\n\
             \x20   UpdateHostKeys no\n\
             \x20   ControlPath none\n\
             \x20   ConnectTimeout 20\n\
             \x20   LogLevel ERROR\n",
            operator = Self::OPERATOR,
            key = self.key().display(),
            known_hosts = known_hosts.display(),
        );
        write_private(&self.config(), &config)
    }

    /// `ssh -F <config>`, which ends when it is dropped.
    pub fn ssh(&self) -> Command {
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(self.config()).kill_on_drop(true);
        ssh
    }

    /// Removes the directory; dropping does so too, but says no errors.
    pub fn close(self) -> io::Result<()> {
        self.dir.close()
    }
}

fn write_private(path: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}
