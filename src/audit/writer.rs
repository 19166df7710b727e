use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use serde::Serialize;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::{Config, Event, Sink, Subject};

#[derive(Debug, Error)]
pub enum AuditError {
    #[error("the audit queue is full")]
    Full,
    #[error("the audit writer has stopped")]
    Stopped,
    #[error("cannot open the audit file {path}: {source}")]
    Open { path: String, source: io::Error },
}

#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    /// Which process wrote it: while one takes over from another, both write to the same file.
    process: &'a str,
    /// Counts every event of this process from 1, so that a gap shows.
    seq: u64,
    #[serde(flatten)]
    event: &'a Event,
    #[serde(flatten)]
    subject: &'a Subject,
}

/// Sees every event on its way to the sink, in order.
pub type Observer = Box<dyn FnMut(&Event) + Send>;

/// How the audit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Events that wait for the sink, and how many may.
    pub waiting: usize,
    pub queue: usize,
    /// Writes to the sink that failed.
    pub failures: u64,
    /// Whether the last one did.
    pub is_failing: bool,
}

#[derive(Debug, Default)]
struct Faults {
    failures: AtomicU64,
    is_failing: AtomicBool,
}

/// A handle to the one writer; clones share it.
#[derive(Clone)]
pub struct Audit {
    lines: PollSender<(Subject, Event)>,
    faults: Arc<Faults>,
}

impl Audit {
    /// Opens the sink and starts the writer thread, which ends when the last handle is gone and the queue is empty.
    pub fn start(config: &Config, observer: Observer) -> Result<(Self, std::thread::JoinHandle<()>), AuditError> {
        let sink: Box<dyn Write + Send> = match &config.path {
            Sink::Stdout => Box::new(io::stdout()),
            Sink::File(path) => {
                let file: File = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o600)
                    .open(path)
                    .map_err(|source| AuditError::Open { path: path.display().to_string(), source })?;
                Box::new(file)
            }
        };
        Ok(Self::observed(sink, config.queue, observer))
    }

    /// The same with the caller's own sink, observed by nobody.
    pub fn with_sink(sink: Box<dyn Write + Send>, queue: usize) -> (Self, std::thread::JoinHandle<()>) {
        Self::observed(sink, queue, Box::new(|_| {}))
    }

    fn observed(sink: Box<dyn Write + Send>, queue: usize, observer: Observer) -> (Self, std::thread::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(queue.max(1));
        let faults = Arc::new(Faults::default());
        let mut writer = Writer { sink, batch: Vec::new(), faults: faults.clone(), observer };
        let thread = std::thread::spawn(move || writer.run(receiver));
        (Self { lines: PollSender::new(sender), faults }, thread)
    }

    pub fn health(&self) -> Health {
        let (queue, room) = self.lines.get_ref().map_or((0, 0), |sender| (sender.max_capacity(), sender.capacity()));
        Health {
            waiting: queue.saturating_sub(room),
            queue,
            failures: self.faults.failures.load(Ordering::Relaxed),
            is_failing: self.faults.is_failing.load(Ordering::Relaxed),
        }
    }

    /// Waits for room in the queue.
    pub async fn record(&self, subject: &Subject, event: Event) -> Result<(), AuditError> {
        let sender = self.lines.get_ref().ok_or(AuditError::Stopped)?;
        sender.send((subject.clone(), event)).await.map_err(|_| AuditError::Stopped)
    }

    /// Takes the event only when there is room for it now.
    pub fn try_record(&self, subject: &Subject, event: Event) -> Result<(), AuditError> {
        let sender = self.lines.get_ref().ok_or(AuditError::Stopped)?;
        sender.try_send((subject.clone(), event)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AuditError::Full,
            mpsc::error::TrySendError::Closed(_) => AuditError::Stopped,
        })
    }

    /// Ready when [`Audit::send_reserved`] may be called once.
    pub fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AuditError>> {
        self.lines.poll_reserve(cx).map_err(|_| AuditError::Stopped)
    }

    pub fn send_reserved(&mut self, subject: &Subject, event: Event) -> Result<(), AuditError> {
        self.lines.send_item((subject.clone(), event)).map_err(|_| AuditError::Stopped)
    }
}

/// Bytes of lines that go to the sink in one piece, unless one line is longer.
const BATCH: usize = 16 * 1024;

struct Writer {
    sink: Box<dyn Write + Send>,
    /// Whole lines: another process may append to the same file, so none is ever written in two pieces.
    batch: Vec<u8>,
    faults: Arc<Faults>,
    observer: Observer,
}

impl Writer {
    fn run(&mut self, mut lines: mpsc::Receiver<(Subject, Event)>) {
        let process = process_name();
        let mut seq = 0;
        while let Some((subject, event)) = lines.blocking_recv() {
            seq += 1;
            (self.observer)(&event);
            let line = match serde_json::to_vec(&Line { ts: now(), process: &process, seq, event: &event, subject: &subject }) {
                Ok(line) => line,
                Err(error) => {
                    tracing::error!(%error, "an audit event could not be written as JSON");
                    continue;
                }
            };
            if self.batch.len() + line.len() >= BATCH {
                self.flush();
            }
            self.batch.extend_from_slice(&line);
            self.batch.push(b'\n');
            if lines.is_empty() {
                self.flush();
            }
        }
        self.flush();
    }

    fn flush(&mut self) {
        if self.batch.is_empty() {
            return;
        }
        let result = self.sink.write_all(&self.batch).and_then(|()| self.sink.flush());
        self.batch.clear();
        self.faults.is_failing.store(result.is_err(), Ordering::Relaxed);
        if let Err(error) = result {
            self.faults.failures.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%error, "failed to write to the audit sink");
        }
    }
}

/// No two processes of a machine have the same: the number and the second of its start.
fn process_name() -> String {
    format!("{}-{:x}", std::process::id(), jiff::Timestamp::now().as_second())
}

/// RFC 3339, UTC, milliseconds.
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use crate::audit::Text;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn one_line_an_event_whatever_the_peer_put_into_it() {
        let shared = Shared::default();
        let (audit, thread) = Audit::with_sink(Box::new(shared.clone()), 8);
        let hostile = Text::new(b"a\n{\"event\":\"forged\"}\r\x1b[2J\xff");
        let subject = Subject::source("192.0.2.1:22".parse().unwrap());
        audit.try_record(&subject, Event::OperatorRefused { claimed: hostile, reason: "no such key".into() }).unwrap();
        audit.try_record(&subject, Event::OperatorAuthenticated { client: Text::new(&[b'x'; 10_000]) }).unwrap();
        drop(audit);
        thread.join().unwrap();
        let bytes = shared.0.lock().unwrap().clone();
        let lines: Vec<serde_json::Value> =
            String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["event"], "operator.refused");
        assert_eq!(lines[0]["source"], "192.0.2.1:22");
        assert_eq!(lines[0]["seq"], 1);
        assert!(lines[0]["ts"].as_str().unwrap().ends_with('Z'), "{}", lines[0]["ts"]);
        assert!(lines[0].get("target").is_none());
        assert_eq!(lines[1]["client"].as_str().unwrap().chars().count(), Text::MAX_LEN + 1);
    }

    #[test]
    fn a_full_queue_is_said_not_dropped() {
        struct Stuck(Mutex<std::sync::mpsc::Receiver<()>>);
        impl Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.lock().unwrap().recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (release, stuck) = std::sync::mpsc::channel();
        let (audit, thread) = Audit::with_sink(Box::new(Stuck(Mutex::new(stuck))), 2);
        let event = || Event::TargetDenied { typed: "ins-a".into(), reason: "no grant matches".into() };
        let refused = (0..8).find_map(|_| audit.try_record(&Subject::default(), event()).err());
        assert!(matches!(refused, Some(AuditError::Full)));
        drop(release);
        drop(audit);
        thread.join().unwrap();
    }

    #[test]
    fn no_line_goes_to_the_sink_in_two_pieces_and_each_names_its_process() {
        #[derive(Clone, Default)]
        struct Pieces(Arc<Mutex<Vec<Vec<u8>>>>);
        impl Write for Pieces {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0.lock().unwrap().push(bytes.to_vec());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let pieces = Pieces::default();
        let counted = Arc::new(AtomicU64::new(0));
        let counter = counted.clone();
        let observer = Box::new(move |_: &Event| {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        let (audit, thread) = Audit::observed(Box::new(pieces.clone()), 200, observer);
        for _ in 0..100 {
            audit.try_record(&Subject::default(), Event::OperatorAuthenticated { client: Text::new(&[b'x'; 1000]) }).unwrap();
        }
        drop(audit);
        thread.join().unwrap();
        let pieces = pieces.0.lock().unwrap();
        assert!(pieces.iter().all(|piece| piece.ends_with(b"\n") && piece.len() <= BATCH), "{:?}", pieces.len());
        let lines: Vec<serde_json::Value> =
            pieces.concat().split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        assert_eq!((lines.len(), counted.load(Ordering::Relaxed)), (100, 100));
        assert!(lines.iter().all(|line| line["process"] == process_name_of(&lines[0])));
    }

    fn process_name_of(line: &serde_json::Value) -> &str {
        let name = line["process"].as_str().unwrap();
        assert!(name.starts_with(&format!("{}-", std::process::id())));
        name
    }

    #[test]
    fn a_sink_that_fails_shows() {
        struct Full;
        impl Write for Full {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::StorageFull.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (audit, thread) = Audit::with_sink(Box::new(Full), 2);
        assert_eq!(audit.health(), Health { waiting: 0, queue: 2, failures: 0, is_failing: false });
        audit.try_record(&Subject::default(), Event::OperatorAuthenticated { client: "SSH-2.0-a".into() }).unwrap();
        let faults = audit.faults.clone();
        drop(audit);
        thread.join().unwrap();
        assert!(faults.is_failing.load(Ordering::Relaxed) && faults.failures.load(Ordering::Relaxed) == 1);
    }
}
