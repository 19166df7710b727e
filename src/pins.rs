//! Host keys by instance id, in an OpenSSH known_hosts file.
//!
//! **Invariant**: the file is always whole: it is written beside itself, synced and renamed, by one process at a time (a lock beside it),
//! which reads first what another one has written.

#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ssh_key::PublicKey;
use ssh_key::public::KeyData;
use thiserror::Error;

use crate::access::InstanceId;

#[derive(Debug, Error)]
pub enum PinsError {
    #[error("cannot read {path}: {source}")]
    Read { path: String, source: io::Error },
    #[error("{path}:{line}: not a pin: it must be `ins-… <key type> <base64>`")]
    Line { path: String, line: usize },
    #[error("cannot write {path}: {source}")]
    Write { path: String, source: io::Error },
}

/// What the pins say of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Known,
    New,
    /// Another key is pinned: this one.
    Mismatch(KeyData),
}

type Table = BTreeMap<InstanceId, Vec<KeyData>>;

/// The pinned host keys of all instances.
#[derive(Clone)]
pub struct Pins {
    path: Arc<Path>,
    /// Never held while the disk is waited for: sessions look here.
    table: Arc<Mutex<Table>>,
    /// Held by whoever changes the file.
    changing: Arc<Mutex<()>>,
}

impl Pins {
    /// Reads the file; one that is not there yet holds no pins.
    pub fn load(path: PathBuf) -> Result<Self, PinsError> {
        let table = read(&path)?;
        Ok(Self { path: path.into(), table: Arc::new(Mutex::new(table)), changing: Arc::default() })
    }

    /// Reads the file anew; blocks. When it cannot be, the pins stay as they are.
    pub fn reread(&self) -> Result<(), PinsError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.put(read(&self.path)?);
        Ok(())
    }

    fn put(&self, table: Table) {
        *self.table.lock().unwrap_or_else(PoisonError::into_inner) = table;
    }

    pub fn pinned(&self, instance: &InstanceId) -> Vec<KeyData> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner).get(instance).cloned().unwrap_or_default()
    }

    pub fn check(&self, instance: &InstanceId, key: &KeyData) -> Verdict {
        let pinned = self.pinned(instance);
        match pinned.first() {
            None => Verdict::New,
            Some(_) if pinned.contains(key) => Verdict::Known,
            Some(other) => Verdict::Mismatch(other.clone()),
        }
    }

    /// Pins a key and writes the file; blocks. Another session, or another process on the same state, may have pinned one meanwhile: then
    /// that one stands, and this says so.
    pub fn pin(&self, instance: &InstanceId, key: &KeyData) -> Result<Verdict, PinsError> {
        self.change(|table| match table.get(instance) {
            Some(pinned) => match pinned.first() {
                Some(other) if !pinned.contains(key) => (Verdict::Mismatch(other.clone()), false),
                _ => (Verdict::Known, false),
            },
            None => {
                table.insert(instance.clone(), vec![key.clone()]);
                (Verdict::New, true)
            }
        })
    }

    /// Forgets an instance's keys, so that the next one it shows is pinned; blocks. What was forgotten is the answer.
    pub fn forget(&self, instance: &InstanceId) -> Result<Vec<KeyData>, PinsError> {
        self.change(|table| {
            let forgotten = table.remove(instance);
            let changed = forgotten.is_some();
            (forgotten.unwrap_or_default(), changed)
        })
    }

    /// Changes what the file holds now, and puts it in force once it is written. `change` says what came of it, and whether it changed anything.
    fn change<T>(&self, change: impl FnOnce(&mut Table) -> (T, bool)) -> Result<T, PinsError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let _lock = lock(&self.path)?;
        let mut table = read(&self.path)?;
        let (outcome, changed) = change(&mut table);
        if changed {
            write(&self.path, &table).map_err(|source| PinsError::Write { path: self.path.display().to_string(), source })?;
        }
        self.put(table);
        Ok(outcome)
    }
}

/// Held until it is dropped. Every process that writes the pins takes it first.
fn lock(path: &Path) -> Result<File, PinsError> {
    let path = path.with_extension("lock");
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let locked = opened.and_then(|file| file.lock().map(|()| file));
    locked.map_err(|source| PinsError::Write { path: path.display().to_string(), source })
}

fn read(path: &Path) -> Result<Table, PinsError> {
    let shown = || path.display().to_string();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(PinsError::Read { path: shown(), source }),
    };
    parse(&text).map_err(|line| PinsError::Line { path: shown(), line })
}

/// Reads a file's text. An error is the number of the line, from 1, that is no pin.
fn parse(text: &str) -> Result<Table, usize> {
    let mut table = Table::new();
    for (index, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = || index + 1;
        let (name, key) = line.split_once(' ').ok_or_else(bad)?;
        let instance = InstanceId::parse(name).map_err(|_| bad())?;
        let key = PublicKey::from_openssh(key).map_err(|_| bad())?;
        table.entry(instance).or_default().push(key.key_data().clone());
    }
    Ok(table)
}

fn render(table: &Table) -> io::Result<String> {
    let mut text = String::new();
    for (instance, keys) in table {
        for key in keys {
            let key = PublicKey::new(key.clone(), "").to_openssh().map_err(io::Error::other)?;
            text.push_str(&format!("{instance} {key}\n"));
        }
    }
    Ok(text)
}

fn write(path: &Path, table: &Table) -> io::Result<()> {
    let text = render(table)?;
    let beside = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) => fs::File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(seed: u8) -> KeyData {
        let pair = ssh_key::private::Ed25519Keypair::from_seed(&[seed; 32]);
        KeyData::Ed25519(pair.public)
    }

    #[test]
    fn a_pin_is_remembered_by_the_next_process_and_openssh_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        let (a, b) = (InstanceId::parse("ins-a").unwrap(), InstanceId::parse("ins-b").unwrap());
        let pins = Pins::load(path.clone()).unwrap();
        assert_eq!(pins.check(&a, &key(1)), Verdict::New);
        assert_eq!(pins.pin(&a, &key(1)).unwrap(), Verdict::New);
        assert_eq!(pins.pin(&a, &key(2)).unwrap(), Verdict::Mismatch(key(1)));
        pins.pin(&b, &key(2)).unwrap();
        let again = Pins::load(path.clone()).unwrap();
        assert_eq!(again.check(&a, &key(1)), Verdict::Known);
        assert_eq!(again.check(&a, &key(2)), Verdict::Mismatch(key(1)));
        let found = std::process::Command::new("ssh-keygen").arg("-F").arg("ins-b").arg("-f").arg(&path).output().unwrap();
        assert!(String::from_utf8_lossy(&found.stdout).contains("ins-b ssh-ed25519"));
    }

    #[test]
    fn who_looks_does_not_wait_for_who_writes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        let instance = InstanceId::parse("ins-a").unwrap();
        let pins = Pins::load(path.clone()).unwrap();
        // Another process is writing, and its disk is slow.
        let other = lock(&path).unwrap();
        let pinning = std::thread::spawn({
            let (pins, instance) = (pins.clone(), instance.clone());
            move || pins.pin(&instance, &key(1)).unwrap()
        });
        while pins.changing.try_lock().is_ok() {
            std::thread::yield_now();
        }
        assert_eq!(pins.check(&instance, &key(1)), Verdict::New);
        drop(other);
        assert_eq!(pinning.join().unwrap(), Verdict::New);
        assert_eq!(pins.check(&instance, &key(1)), Verdict::Known);
    }

    #[test]
    fn a_forgotten_key_makes_room_for_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        let (a, b) = (InstanceId::parse("ins-a").unwrap(), InstanceId::parse("ins-b").unwrap());
        let pins = Pins::load(path.clone()).unwrap();
        pins.pin(&a, &key(1)).unwrap();
        pins.pin(&b, &key(2)).unwrap();
        assert_eq!(pins.forget(&a).unwrap(), [key(1)]);
        assert_eq!(pins.forget(&a).unwrap(), []);
        for pins in [pins, Pins::load(path).unwrap()] {
            assert_eq!((pins.check(&a, &key(3)), pins.check(&b, &key(2))), (Verdict::New, Verdict::Known));
        }
    }

    #[test]
    fn a_line_that_is_no_pin_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        fs::write(&path, "# comment\n\nins-a ssh-ed25519 nonsense\n").unwrap();
        let error = Pins::load(path).err().unwrap().to_string();
        assert!(error.contains("known_hosts:3"), "{error}");
    }

    #[test]
    fn two_processes_on_one_file_lose_nothing_of_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("known_hosts");
        let (ours, theirs) = (Pins::load(path.clone()).unwrap(), Pins::load(path.clone()).unwrap());
        let (a, b) = (InstanceId::parse("ins-a").unwrap(), InstanceId::parse("ins-b").unwrap());
        assert_eq!(ours.pin(&a, &key(1)).unwrap(), Verdict::New);
        assert_eq!(theirs.check(&a, &key(2)), Verdict::New, "it has not looked");
        assert_eq!(theirs.pin(&a, &key(2)).unwrap(), Verdict::Mismatch(key(1)), "it looks before it writes");
        assert_eq!(theirs.pin(&b, &key(3)).unwrap(), Verdict::New);
        ours.reread().unwrap();
        assert_eq!((ours.check(&a, &key(1)), ours.check(&b, &key(3))), (Verdict::Known, Verdict::Known));
        fs::write(&path, "nonsense\n").unwrap();
        assert!(ours.reread().is_err());
        assert_eq!(ours.check(&a, &key(1)), Verdict::Known);
    }
}
