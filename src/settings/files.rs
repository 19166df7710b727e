//! The files and directories that the settings name: there, readable, and changeable only by those who may change the settings.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Purpose;
use super::owners::Owners;
use super::report::Report;
use super::value::MIB;
use crate::access::OperatorName;
use crate::door::{AuthorizedKeys, LineProblem, check_authority, check_revoked};
use crate::keys;

/// Bytes of a file of public keys that are read at most.
const MAX_LEN: u64 = MIB as u64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum FileKind {
    /// The configuration file itself.
    Configuration,
    /// `required`: an error when it is not there; `alone`: no other source of operators is configured.
    AuthorizedKeysDir { required: bool, alone: bool },
    /// At least one public key.
    TrustedKeys,
    /// Any number of public keys.
    RevokedKeys,
    /// Never read here. `by_systemd`: below `$CREDENTIALS_DIRECTORY`.
    Secret { by_systemd: bool },
    /// Below `$CREDENTIALS_DIRECTORY`, which is not set here.
    OnlyUnderSystemd,
    /// Holds the broker's own keys and pins.
    StateDir,
    /// Made by the daemon when it is not there.
    AuditFile,
    /// The same, with the first session that is recorded.
    RecordingDir,
}

/// A file that a key names, and what is asked of it.
#[derive(Debug, Clone)]
pub(super) struct FileCheck {
    key: String,
    path: PathBuf,
    kind: FileKind,
}

impl FileCheck {
    pub(super) fn new(key: &str, path: &Path, kind: FileKind) -> Self {
        Self { key: key.to_owned(), path: path.to_owned(), kind }
    }

    pub(super) fn run(&self, purpose: Purpose, owners: &Owners, report: &mut Report) {
        let checked = match &self.kind {
            FileKind::Configuration => trusted_file(&self.path, owners),
            FileKind::AuthorizedKeysDir { required, alone } => {
                return self.authorized_keys_dir(*required, *alone, purpose, owners, report);
            }
            FileKind::TrustedKeys => self.public_keys(check_authority, owners, report).and_then(|keys| match keys {
                0 => Err(format!("{} holds no public key: write the CA's, as in its .pub file", self.path.display())),
                _ => Ok(()),
            }),
            FileKind::RevokedKeys => self.public_keys(check_revoked, owners, report).map(|_| ()),
            FileKind::Secret { by_systemd: true } if purpose == Purpose::Check && self.is_hidden() => {
                report.warn(&self.key, "not checked here, for systemd shows a unit's credentials to its main process alone");
                Ok(())
            }
            FileKind::Secret { by_systemd } => secret_file(&self.path, *by_systemd, owners),
            FileKind::OnlyUnderSystemd => {
                let text = "CREDENTIALS_DIRECTORY is not set: only systemd sets it, for a unit with LoadCredential=";
                match purpose {
                    Purpose::Serve => Err(format!("{text}; start the daemon as that unit, or write an absolute path")),
                    Purpose::Check => {
                        report.warn(&self.key, format!("not checked here, for {text}"));
                        Ok(())
                    }
                }
            }
            FileKind::StateDir => return self.state_dir(purpose, owners, report),
            FileKind::AuditFile => audit_file(&self.path),
            // Sessions that need no recording must begin all the same.
            FileKind::RecordingDir => match (recording_dir(&self.path, owners), purpose) {
                (Err(text), Purpose::Serve) => return report.warn(&self.key, format!("{text}; until then nothing is recorded")),
                (checked, _) => checked,
            },
        };
        if let Err(text) = checked {
            report.error(&self.key, text);
        }
    }

    /// systemd 252 sets `$CREDENTIALS_DIRECTORY` for ExecReload= too, but lets it see nothing of it.
    fn is_hidden(&self) -> bool {
        let directory = self.path.parent().unwrap_or(&self.path);
        rustix::fs::access(directory, rustix::fs::Access::EXEC_OK).is_err()
    }

    fn authorized_keys_dir(&self, required: bool, alone: bool, purpose: Purpose, owners: &Owners, report: &mut Report) {
        let shown = self.path.display();
        let entries = match fs::metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => return,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let nobody = if alone { "; with neither, nobody could prove who they are, and the broker does not start" } else { "" };
                let right = "make it, with one authorized_keys file per operator, or set operators.trusted_user_ca";
                return report.error(&self.key, format!("{shown} does not exist: {right}{nobody}"));
            }
            Err(error) => return report.error(&self.key, cannot("look at", &self.path, &error)),
            Ok(metadata) if !metadata.is_dir() => {
                return report.error(&self.key, format!("{shown} is not a directory: write the directory that holds the operators' files"));
            }
            Ok(metadata) => owners.trusted(&self.path, &metadata).and_then(|()| list(&self.path)),
        };
        let entries = match entries {
            Ok(entries) => entries,
            Err(text) => return report.error(&self.key, text),
        };
        let mut operators = 0_usize;
        for entry in entries {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if let Err(invalid) = OperatorName::parse(&name) {
                report.warn(&self.key, format!("{}: ignored: {invalid}", entry.display()));
                continue;
            }
            operators += 1;
            match trusted_file(&entry, owners).and_then(|()| read(&entry)) {
                // The door refuses such a line alone, so one operator's slip must not keep everybody out when the daemon starts.
                Ok(text) => authorized_keys_problems(&text).iter().for_each(|(line, problem)| {
                    let text = format!("{}:{line}: {problem}", entry.display());
                    match purpose {
                        Purpose::Serve => report.warn(&self.key, text),
                        Purpose::Check => report.error(&self.key, text),
                    }
                }),
                Err(text) => report.error(&self.key, text),
            }
        }
        if operators == 0 && alone {
            report.warn(&self.key, format!("{shown} is empty: nobody can log in until it holds an operator's authorized_keys file"));
        }
    }

    /// Counts the lines of a file that are neither comments nor blank; each must be a key.
    fn public_keys(&self, check: fn(&str) -> Result<(), String>, owners: &Owners, report: &mut Report) -> Result<usize, String> {
        trusted_file(&self.path, owners)?;
        let shown = self.path.display();
        let text = read(&self.path)?;
        if text.starts_with("SSHKRL\n") {
            return Err(format!("{shown} is a binary key revocation list: write the keys themselves, one OpenSSH public key a line"));
        }
        let mut keys = 0;
        for (number, line) in key_lines(&text) {
            keys += 1;
            if let Err(error) = check(line) {
                let right = "write one OpenSSH public key a line, such as \"ssh-ed25519 AAAA… comment\"";
                report.error(&self.key, format!("{shown}:{number}: {error}: {right}"));
            }
        }
        Ok(keys)
    }

    fn state_dir(&self, purpose: Purpose, owners: &Owners, report: &mut Report) {
        let shown = self.path.display();
        let right = "make it with mode 0700 for the daemon's user, or let systemd (StateDirectory=ssh-broker)";
        let checked = match fs::metadata(&self.path) {
            // The place where systemd makes it when the unit first starts.
            Err(error) if error.kind() == io::ErrorKind::NotFound && purpose == Purpose::Check && self.path.starts_with("/var/lib") => {
                return report.warn(&self.key, format!("{shown} does not exist yet: systemd makes it when the unit first starts"));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(format!("{shown} does not exist: {right}")),
            Err(error) => Err(cannot("look at", &self.path, &error)),
            Ok(metadata) if !metadata.is_dir() => Err(format!("{shown} is not a directory: {right}")),
            Ok(metadata) => owners.trusted(&self.path, &metadata).and_then(|()| {
                use rustix::fs::{Access, access};
                access(&self.path, Access::WRITE_OK | Access::EXEC_OK)
                    .map_err(|error| format!("{shown} is not writable ({error}): {right}"))
            }),
        };
        match checked {
            Ok(()) => keys::check(&self.path).iter().for_each(|error| report.error(&self.key, error.to_string())),
            Err(text) => report.error(&self.key, text),
        }
    }
}

/// The problems of an authorized_keys file, each with its line (from 1).
fn authorized_keys_problems(text: &str) -> Vec<(usize, String)> {
    let right = "write one public key a line, options first, such as \"ssh-ed25519 AAAA… comment\"";
    let (_, problems) = AuthorizedKeys::parse(text);
    let told = |problem: LineProblem| (problem.line, format!("not an authorized_keys line that counts ({}): {right}", problem.text));
    problems.into_iter().map(told).collect()
}

/// Every line that is neither blank nor a comment, with its number (from 1).
fn key_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
}

fn regular(path: &Path) -> Result<Metadata, String> {
    let metadata = fs::metadata(path).map_err(|error| cannot("look at", path, &error))?;
    match metadata.is_file() {
        true => Ok(metadata),
        false => Err(format!("{} is not a regular file: write the path of a file", path.display())),
    }
}

fn trusted_file(path: &Path, owners: &Owners) -> Result<(), String> {
    owners.trusted(path, &regular(path)?)?;
    readable(path)
}

fn secret_file(path: &Path, by_systemd: bool, owners: &Owners) -> Result<(), String> {
    let metadata = regular(path)?;
    owners.owned(path, &metadata)?;
    // systemd lets the unit's user in by an access control list, whose mask shows as a group that may read.
    let others = if by_systemd { 0o037 } else { 0o077 };
    if metadata.mode() & others != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(format!("{} can be reached by others than its owner (mode {mode:04o}): chmod 0600", path.display()));
    }
    readable(path)
}

fn readable(path: &Path) -> Result<(), String> {
    File::open(path).map(|_| ()).map_err(|error| cannot("read", path, &error))
}

fn audit_file(path: &Path) -> Result<(), String> {
    if path.exists() {
        regular(path)?;
    }
    let parent = path.parent().unwrap_or(Path::new("/"));
    if !parent.is_dir() {
        return Err(format!("{} is not a directory: make it, or write \"stdout\"", parent.display()));
    }
    let subject = if path.exists() { path } else { parent };
    rustix::fs::access(subject, rustix::fs::Access::WRITE_OK)
        .map_err(|error| format!("{} is not writable ({error}): give it to the daemon's user", subject.display()))
}

fn recording_dir(path: &Path, owners: &Owners) -> Result<(), String> {
    let metadata = match fs::metadata(path) {
        // It is made when it is needed, if what is above it allows that.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(cannot("look at", path, &error)),
        Ok(metadata) => metadata,
    };
    let shown = path.display();
    if !metadata.is_dir() {
        return Err(format!("{shown} is not a directory: write the directory for recordings"));
    }
    owners.owned(path, &metadata)?;
    if metadata.mode() & 0o077 != 0 {
        let mode = metadata.mode() & 0o7777;
        return Err(format!("{shown} can be reached by others than its owner (mode {mode:04o}): chmod 0700"));
    }
    rustix::fs::access(path, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK)
        .map_err(|error| format!("{shown} is not writable ({error}): give it to the daemon's user"))
}

fn list(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = fs::read_dir(directory).and_then(|entries| entries.map(|entry| entry.map(|entry| entry.path())).collect());
    let mut entries: Vec<PathBuf> = entries.map_err(|error| cannot("read", directory, &error))?;
    entries.sort();
    Ok(entries)
}

/// A whole text file of at most [`MAX_LEN`] bytes. What is not UTF-8 is replaced: comments in files of keys may be anything.
pub(super) fn read(path: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| cannot("read", path, &error))?;
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(|error| cannot("read", path, &error))?;
    match bytes.len() as u64 <= MAX_LEN {
        true => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        false => Err(format!("{} is too long: at most {MAX_LEN} bytes", path.display())),
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> String {
    let right = match error.kind() {
        io::ErrorKind::NotFound => ": make it, or write another path",
        io::ErrorKind::PermissionDenied => ": let the daemon's user read it, and search the directories above it",
        _ => "",
    };
    format!("cannot {what} {} ({error}){right}", path.display())
}
