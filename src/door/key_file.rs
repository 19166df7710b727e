use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ssh_key::Certificate;
use ssh_key::public::KeyData;
use thiserror::Error;

use super::authorized_keys::{LineProblem, parse_key};

/// Bytes of a file of keys that are read; a longer one is refused.
const MAX_LEN: u64 = 1 << 20;

/// Why a file of keys does not count. An operator whose file is in this state has no keys at all.
#[derive(Debug, Error)]
pub enum KeyFileError {
    #[error("cannot read {path}: {source}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{0} is not a regular file")]
    NotAFile(PathBuf),
    #[error("{path} can be written by its group or by everybody (mode {mode:04o}): chmod go-w it")]
    Writable { path: PathBuf, mode: u32 },
    #[error("{path} is longer than 1 MiB")]
    TooLong { path: PathBuf },
    #[error("{path} is a binary key revocation list, which is not read here: list the revoked public keys, one a line")]
    Krl { path: PathBuf },
    #[error("{path}, line {}: {}", problem.line, problem.text)]
    Line { path: PathBuf, problem: LineProblem },
    #[error("{path} holds no key")]
    Empty { path: PathBuf },
}

/// Reads a file of keys whole, if it is one that only its owner can change. `None` when it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, KeyFileError> {
    let failed = |source| KeyFileError::Read { path: path.to_owned(), source };
    // Asked before opening too: opening a pipe would wait for its writer.
    match path.metadata() {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err(KeyFileError::NotAFile(path.to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    let file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o022 != 0 {
        return Err(KeyFileError::Writable { path: path.to_owned(), mode });
    }
    let mut bytes = Vec::new();
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MAX_LEN {
        return Err(KeyFileError::TooLong { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

/// A file of public keys, one a line: `trusted_user_ca` and `revoked_keys`.
///
/// **Invariant**: unlike an operator's file it is read whole or not at all, because a line skipped in a list of revoked keys is a key
/// that works again.
#[derive(Debug, Clone, Default)]
pub(super) struct KeySet(HashSet<KeyData>);

impl KeySet {
    pub(super) fn contains(&self, key: &KeyData) -> bool {
        self.0.contains(key)
    }

    /// The trusted authorities: at least one.
    pub(super) fn read_authorities(path: &Path) -> Result<Self, KeyFileError> {
        let set = Self::parse(path, |line| parse_key(line).map(|key| vec![key]))?;
        if set.0.is_empty() { Err(KeyFileError::Empty { path: path.to_owned() }) } else { Ok(set) }
    }

    /// The revoked keys; a certificate in the list revokes the key that it certifies. None is fine, a missing file is not.
    pub(super) fn read_revoked(path: &Path) -> Result<Self, KeyFileError> {
        Self::parse(path, |line| parse_any_key(line).map(|key| vec![key]))
    }

    fn parse(path: &Path, parse: impl Fn(&str) -> Result<Vec<KeyData>, String>) -> Result<Self, KeyFileError> {
        let missing = || KeyFileError::Read { path: path.to_owned(), source: io::ErrorKind::NotFound.into() };
        let bytes = read(path)?.ok_or_else(missing)?;
        if bytes.starts_with(b"SSHKRL\n\0") {
            return Err(KeyFileError::Krl { path: path.to_owned() });
        }
        let text = String::from_utf8_lossy(&bytes);
        let mut keys = HashSet::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_matches([' ', '\t', '\r']);
            if !line.is_empty() && !line.starts_with('#') {
                let problem = |text| KeyFileError::Line { path: path.to_owned(), problem: LineProblem { line: index + 1, text } };
                keys.extend(parse(line).map_err(problem)?);
            }
        }
        Ok(Self(keys))
    }
}

/// Why a line of `trusted_user_ca` does not count.
pub fn check_authority(line: &str) -> Result<(), String> {
    parse_key(line).map(drop)
}

/// Why a line of `revoked_keys` does not count.
pub fn check_revoked(line: &str) -> Result<(), String> {
    parse_any_key(line).map(drop)
}

/// Any public key, also of a type that proves nobody here, or the key that a certificate certifies.
fn parse_any_key(line: &str) -> Result<KeyData, String> {
    if line.split([' ', '\t']).next().is_some_and(|kind| kind.contains("-cert-v01@openssh.com")) {
        let certificate = Certificate::from_openssh(line).map_err(|error| format!("not a certificate: {error}"))?;
        return Ok(certificate.public_key().clone());
    }
    let key = ssh_key::PublicKey::from_openssh(line).map_err(|error| format!("not a public key: {error}"))?;
    Ok(key.key_data().clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    #[test]
    fn a_file_counts_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revoked");
        let set = |text: &[u8], mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            KeySet::read_revoked(&path)
        };
        assert!(set(format!("# lost laptop\n{KEY} c\n").as_bytes(), 0o644).unwrap().contains(&parse_key(KEY).unwrap()));
        assert!(
            matches!(set(format!("{KEY}\nssh-ed25519 oops\n").as_bytes(), 0o644), Err(KeyFileError::Line { problem, .. }) if problem.line == 2)
        );
        assert!(matches!(set(b"SSHKRL\n\0\0\0\0\x01", 0o644), Err(KeyFileError::Krl { .. })));
        assert!(matches!(set(KEY.as_bytes(), 0o664), Err(KeyFileError::Writable { mode: 0o664, .. })));
        assert!(matches!(set(&vec![b'#'; 1 << 21], 0o644), Err(KeyFileError::TooLong { .. })));
        assert!(matches!(KeySet::read_authorities(&dir.path().join("gone")), Err(KeyFileError::Read { .. })));
        assert!(matches!(read(dir.path()), Err(KeyFileError::NotAFile(_))));
        assert!(read(&dir.path().join("gone")).unwrap().is_none());
    }
}
