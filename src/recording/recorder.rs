use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;

use super::Config;
use super::queue::{Account, Feeder, Queue};
use super::writer;

/// A handle to the one writer of recordings; clones share it.
#[derive(Clone)]
pub struct Recorder(Arc<Handle>);

struct Handle {
    queue: Arc<Queue>,
    dir: PathBuf,
    files: AtomicU64,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.stop();
    }
}

impl Recorder {
    /// Starts the writer thread, which ends when the last handle is gone and all is written. Nothing is made on the disk before the first
    /// session that is recorded.
    pub fn start(config: Config) -> io::Result<(Self, JoinHandle<()>)> {
        let queue = Arc::new(Queue::new(config.queue));
        let writer = std::thread::Builder::new().name("recordings".to_owned()).spawn({
            let (queue, dir) = (queue.clone(), config.dir.clone());
            move || writer::run(&queue, dir)
        })?;
        Ok((Self(Arc::new(Handle { queue, dir: config.dir, files: AtomicU64::new(0) })), writer))
    }

    pub(super) fn account(&self, required: bool) -> Arc<Account> {
        self.0.queue.account(required)
    }

    pub(super) fn queue(&self) -> &Queue {
        &self.0.queue
    }

    /// A file below the directory.
    pub(super) fn file(&self, account: &Arc<Account>, name: &str, first_line: &[u8]) -> Feeder {
        let number = self.0.files.fetch_add(1, Ordering::Relaxed);
        Feeder::new(&self.0.queue, account, number, self.0.dir.join(name), first_line)
    }
}
