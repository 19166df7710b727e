use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::queue::{Account, Feed, Queue, Taken, Work};

/// Descriptors that are kept open, however many files are being written.
const MOST_OPEN: usize = 128;
/// Memory that is kept for the next write.
const MOST_SPARE: usize = 256 * 1024;

/// Writes what waits in the queue, until the queue is stopped and empty.
pub(super) fn run(queue: &Arc<Queue>, dir: PathBuf) {
    struct Abandon<'a>(&'a Queue);
    impl Drop for Abandon<'_> {
        fn drop(&mut self) {
            self.0.abandon();
        }
    }
    let _abandon = Abandon(queue);
    let mut writer = Writer { dir, files: HashMap::new(), known: HashMap::new(), turn: 0, spare: Vec::new() };
    loop {
        match queue.next() {
            Work::Write(feeds) => {
                for feed in feeds {
                    if writer.write(queue, &feed) {
                        queue.push_later(&feed);
                    }
                }
            }
            Work::Look(accounts) => writer.look(&accounts),
            Work::Stop => return,
        }
    }
}

struct Writer {
    dir: PathBuf,
    files: HashMap<u64, Open>,
    /// Bytes of each file that is there and not complete.
    known: HashMap<u64, u64>,
    /// Counts writes.
    turn: u64,
    spare: Vec<u8>,
}

struct Open {
    file: File,
    used: u64,
}

impl Writer {
    /// Whether to look at it again.
    fn write(&mut self, queue: &Queue, feed: &Feed) -> bool {
        let mut bytes = std::mem::take(&mut self.spare);
        let Some(Taken { counted, last, again }) = feed.take(&mut bytes) else {
            self.spare = bytes;
            return false;
        };
        let first = !self.known.contains_key(&feed.number);
        if !bytes.is_empty()
            && feed.account.failure().is_none()
            && let Err(error) = self.put(feed, &bytes)
        {
            tracing::warn!(%error, path = %feed.path.display(), "a recording cannot be written");
            feed.account.fail(format!("{}: {error}", feed.path.display()));
        }
        self.known.entry(feed.number).or_default();
        if last {
            self.files.remove(&feed.number);
            self.known.remove(&feed.number);
        }
        bytes.clear();
        if bytes.capacity() <= MOST_SPARE {
            self.spare = bytes;
        }
        queue.settle(feed, counted, first, last);
        again
    }

    fn put(&mut self, feed: &Feed, bytes: &[u8]) -> io::Result<()> {
        let before = self.known.get(&feed.number).copied();
        let mut file = self.file(feed, before.is_none())?;
        let before = before.unwrap_or_default();
        let mut rest = bytes;
        while !rest.is_empty() {
            let error = match file.write(rest) {
                Ok(0) => io::ErrorKind::WriteZero.into(),
                Ok(n) => {
                    rest = rest.get(n..).unwrap_or_default();
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => error,
            };
            let written = bytes.get(..bytes.len() - rest.len()).unwrap_or_default();
            let whole = written.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
            // Nothing is left to be done when this fails as well.
            let _ = file.set_len(before + whole as u64);
            return Err(error);
        }
        self.known.insert(feed.number, before + bytes.len() as u64);
        Ok(())
    }

    /// The file, made (`first`), or opened again when others needed its descriptor.
    fn file(&mut self, feed: &Feed, first: bool) -> io::Result<&File> {
        self.turn += 1;
        if !self.files.contains_key(&feed.number) {
            if self.files.len() >= MOST_OPEN
                && let Some(oldest) = self.files.iter().min_by_key(|(_, open)| open.used).map(|(number, _)| *number)
            {
                self.files.remove(&oldest);
            }
            let file = if first { create(&feed.path)? } else { OpenOptions::new().append(true).open(&feed.path)? };
            self.files.insert(feed.number, Open { file, used: self.turn });
        }
        let open = self.files.get_mut(&feed.number).ok_or(io::ErrorKind::NotFound)?;
        open.used = self.turn;
        Ok(&open.file)
    }

    /// A disk that is full fails those that must be recorded before they have something to write.
    fn look(&self, accounts: &[Arc<Account>]) {
        if accounts.iter().any(|account| account.required) && is_full(&self.dir) {
            for account in accounts.iter().filter(|account| account.required) {
                account.fail(format!("{}: no space left", self.dir.display()));
            }
        }
    }
}

fn is_full(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|state| state.f_blocks > 0 && state.f_bavail == 0)
}

/// A new file that only we can read, in a directory that only we can enter.
fn create(path: &Path) -> io::Result<File> {
    let open = || OpenOptions::new().append(true).create_new(true).mode(0o600).open(path);
    match (open(), path.parent()) {
        (Err(error), Some(parent)) if error.kind() == io::ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            open()
        }
        (opened, _) => opened,
    }
}
