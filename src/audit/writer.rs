use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
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
    /// Counts every event of this process from 1, so that a gap shows.
    seq: u64,
    #[serde(flatten)]
    event: &'a Event,
    #[serde(flatten)]
    subject: &'a Subject,
}

/// A handle to the one writer; clones share it.
#[derive(Clone)]
pub struct Audit {
    lines: PollSender<(Subject, Event)>,
}

impl Audit {
    /// Opens the sink and starts the writer thread, which ends when the last handle is gone and the queue is empty.
    pub fn start(config: &Config) -> Result<(Self, std::thread::JoinHandle<()>), AuditError> {
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
        Ok(Self::with_sink(sink, config.queue))
    }

    /// The same with the caller's own sink.
    pub fn with_sink(sink: Box<dyn Write + Send>, queue: usize) -> (Self, std::thread::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(queue.max(1));
        let thread = std::thread::spawn(move || write_lines(sink, receiver));
        (Self { lines: PollSender::new(sender) }, thread)
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

fn write_lines(sink: Box<dyn Write + Send>, mut lines: mpsc::Receiver<(Subject, Event)>) {
    let mut sink = BufWriter::new(sink);
    let mut seq = 0;
    while let Some((subject, event)) = lines.blocking_recv() {
        seq += 1;
        let mut line = match serde_json::to_vec(&Line { ts: now(), seq, event: &event, subject: &subject }) {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(%error, "an audit event could not be written as JSON");
                continue;
            }
        };
        line.push(b'\n');
        let mut result = sink.write_all(&line);
        if lines.is_empty() {
            result = result.and_then(|()| sink.flush());
        }
        if let Err(error) = result {
            tracing::error!(%error, "failed to write to the audit sink");
        }
    }
    if let Err(error) = sink.flush() {
        tracing::error!(%error, "failed to write the last audit events");
    }
}

/// RFC 3339, UTC, milliseconds.
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

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
}
