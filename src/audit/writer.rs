use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::PollSender;

use super::journal::Journal;
use super::{Config, Event, Sink, Subject};
use crate::access::{Code, Failure};

/// Events that one write, and one sync, takes.
const BATCH: usize = 256;
/// Between two tries of a sink that fails.
const RETRY: Duration = Duration::from_millis(200);
/// Told again this often while it goes on failing.
const TELL_AGAIN: Duration = Duration::from_secs(60);
/// For the last events when the process stops and the sink fails.
const LAST_TRIES: Duration = Duration::from_secs(3);

#[derive(Debug, Error)]
pub enum AuditError {
    #[error("the audit queue is full")]
    Full,
    #[error("the audit writer has stopped")]
    Stopped,
    #[error("the audit sink fails: {0}")]
    Failing(Arc<str>),
    #[error("the audit sink has not taken the event within {} s", .0.as_secs_f64().round())]
    Stalled(Duration),
    #[error("cannot open the audit file {path}: {source}")]
    Open { path: String, source: io::Error },
}

/// What an operator reads who is not served because of it.
impl From<AuditError> for Failure {
    fn from(error: AuditError) -> Self {
        Self::new(Code::BrokerBusy, "the broker cannot serve this now: its audit cannot be written").because(error)
    }
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
    /// Whether the last one did. No session begins meanwhile.
    pub is_failing: bool,
}

struct Item {
    subject: Subject,
    event: Event,
    /// Who waits until it is kept for good.
    kept: Option<oneshot::Sender<()>>,
}

/// A handle to the one writer; clones share it.
#[derive(Clone)]
pub struct Audit {
    items: PollSender<Item>,
    failures: Arc<AtomicU64>,
    failing: watch::Receiver<Option<Arc<str>>>,
}

impl Audit {
    /// For what has to be kept before an operator is served.
    pub const PATIENCE: Duration = Duration::from_secs(5);

    /// Opens the sink and starts the writer thread, which ends when the last handle is gone and the queue is empty.
    pub fn start(config: &Config, observer: Observer) -> Result<(Self, std::thread::JoinHandle<()>), AuditError> {
        let shown = || match &config.path {
            Sink::Stdout => "stdout".to_owned(),
            Sink::File(path) => path.display().to_string(),
        };
        let journal = Journal::open(config).map_err(|source| AuditError::Open { path: shown(), source })?;
        Ok(Self::over(journal, config.queue, observer))
    }

    /// The same with the caller's own sink, observed by nobody.
    pub fn with_sink(sink: Box<dyn Write + Send>, queue: usize) -> (Self, std::thread::JoinHandle<()>) {
        Self::over(Journal::over(sink, None), queue, Box::new(|_| {}))
    }

    fn over(journal: Journal, queue: usize, observer: Observer) -> (Self, std::thread::JoinHandle<()>) {
        let (sender, items) = mpsc::channel(queue.max(1));
        let (tell_failing, failing) = watch::channel(None);
        let failures = Arc::new(AtomicU64::new(0));
        let writer = Writer { journal, items, observer, failures: failures.clone(), failing: tell_failing };
        let thread = std::thread::spawn(move || writer.run());
        (Self { items: PollSender::new(sender), failures, failing }, thread)
    }

    pub fn health(&self) -> Health {
        let (queue, room) = self.items.get_ref().map_or((0, 0), |queue| (queue.max_capacity(), queue.capacity()));
        Health {
            waiting: queue.saturating_sub(room),
            queue,
            failures: self.failures.load(Ordering::Relaxed),
            is_failing: self.failing.borrow().is_some(),
        }
    }

    /// Waits for room in the queue.
    pub async fn record(&self, subject: &Subject, event: Event) -> Result<(), AuditError> {
        self.send(Item { subject: subject.clone(), event, kept: None }).await
    }

    /// The same, for what goes on anyhow: when it fails, the log has that `what` is not in the audit.
    pub fn tell<'a>(&'a self, subject: &'a Subject, event: Event, what: &'a str) -> impl Future<Output = ()> + Send + use<'a> {
        // Boxed: it is the last thing that sessions and connections do, and would have its place in their futures as long as they last.
        Box::pin(async move {
            if let Err(error) = self.record(subject, event).await {
                tracing::error!(%error, "{what} could not be written to the audit");
            }
        })
    }

    async fn send(&self, item: Item) -> Result<(), AuditError> {
        let queue = self.items.get_ref().ok_or(AuditError::Stopped)?;
        queue.send(item).await.map_err(|_| AuditError::Stopped)
    }

    /// Waits until the event is kept for good: the sink has taken it and, where it is a file that is synced, the disk. Many who wait at the
    /// same time cost one sync. While the sink fails nobody waits: it is said at once. An event that took too long is written later
    /// nevertheless.
    pub async fn record_durably(&self, subject: &Subject, event: Event, patience: Duration) -> Result<(), AuditError> {
        let mut failing = self.failing.clone();
        let (kept, is_kept) = oneshot::channel();
        let waited = tokio::time::timeout(patience, async {
            let failed = async {
                match failing.wait_for(Option::is_some).await {
                    Ok(error) => error.clone().map_or(AuditError::Stopped, AuditError::Failing),
                    Err(_) => AuditError::Stopped,
                }
            };
            let recorded = async {
                self.send(Item { subject: subject.clone(), event, kept: Some(kept) }).await?;
                is_kept.await.map_err(|_| AuditError::Stopped)
            };
            tokio::select! {
                biased;
                error = failed => Err(error),
                recorded = recorded => recorded,
            }
        });
        waited.await.unwrap_or(Err(AuditError::Stalled(patience)))
    }

    /// Takes the event only when there is room for it now.
    pub fn try_record(&self, subject: &Subject, event: Event) -> Result<(), AuditError> {
        let queue = self.items.get_ref().ok_or(AuditError::Stopped)?;
        queue.try_send(Item { subject: subject.clone(), event, kept: None }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => AuditError::Full,
            mpsc::error::TrySendError::Closed(_) => AuditError::Stopped,
        })
    }

    /// Ready when [`Audit::send_reserved`] may be called once.
    pub fn poll_reserve(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), AuditError>> {
        self.items.poll_reserve(cx).map_err(|_| AuditError::Stopped)
    }

    pub fn send_reserved(&mut self, subject: &Subject, event: Event) -> Result<(), AuditError> {
        self.items.send_item(Item { subject: subject.clone(), event, kept: None }).map_err(|_| AuditError::Stopped)
    }
}

/// The thread behind the queue.
struct Writer {
    journal: Journal,
    items: mpsc::Receiver<Item>,
    observer: Observer,
    failures: Arc<AtomicU64>,
    failing: watch::Sender<Option<Arc<str>>>,
}

impl Writer {
    fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.items.blocking_recv_many(&mut batch, BATCH) > 0 {
            let mut waiting = Vec::new();
            for Item { subject, event, kept } in batch.drain(..) {
                (self.observer)(&event);
                self.journal.add(&subject, &event);
                waiting.extend(kept);
            }
            if !self.deliver(!waiting.is_empty()) {
                tracing::error!(lost = self.journal.undelivered() + self.items.len(), "the process stops, and the audit sink still fails");
                return;
            }
            for kept in waiting {
                // Who waited may have given up.
                let _ = kept.send(());
            }
        }
        // What nobody waited for is synced too before the process ends.
        self.deliver(true);
    }

    /// Tries until the sink has taken everything. `false` when it still fails and the process stops.
    fn deliver(&mut self, durably: bool) -> bool {
        let (mut told, mut stopping) = (None::<Instant>, None::<Instant>);
        while let Err(error) = self.journal.deliver(durably) {
            let now = Instant::now();
            self.failures.fetch_add(1, Ordering::Relaxed);
            if told.is_none_or(|told| now >= told + TELL_AGAIN) {
                tracing::error!(%error, "failed to write to the audit sink; no session begins until it takes the events");
                told = Some(now);
            }
            self.failing.send_replace(Some(error.to_string().into()));
            if self.items.is_closed() && now >= *stopping.get_or_insert(now) + LAST_TRIES {
                return false;
            }
            std::thread::sleep(RETRY);
        }
        if told.is_some() {
            tracing::info!("the audit sink takes events again");
        }
        self.failing.send_if_modified(|failing| failing.take().is_some());
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::audit::Text;

    #[derive(Clone, Default)]
    struct Shared {
        bytes: Arc<Mutex<Vec<u8>>>,
        fails: Arc<AtomicBool>,
        writes: Arc<AtomicU64>,
    }

    impl Shared {
        fn lines(&self) -> Vec<serde_json::Value> {
            let bytes = self.bytes.lock().unwrap().clone();
            String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    }

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.fails.load(Ordering::SeqCst) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.writes.fetch_add(1, Ordering::SeqCst);
            self.bytes.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Writes only what is let through.
    struct Stuck(Mutex<std::sync::mpsc::Receiver<()>>, Shared);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.lock().unwrap().recv();
            self.1.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn event() -> Event {
        Event::TargetDenied { typed: "ins-a".into(), reason: "no grant matches".into() }
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
        let lines = shared.lines();
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
        let (release, stuck) = std::sync::mpsc::channel();
        let (audit, thread) = Audit::with_sink(Box::new(Stuck(Mutex::new(stuck), Shared::default())), 2);
        let refused = (0..8).find_map(|_| audit.try_record(&Subject::default(), event()).err());
        assert!(matches!(refused, Some(AuditError::Full)));
        assert_eq!(audit.health().waiting, 2);
        drop(release);
        drop(audit);
        thread.join().unwrap();
    }

    #[tokio::test]
    async fn who_waits_goes_on_when_the_event_is_written_and_many_cost_one_write() {
        let (release, stuck) = std::sync::mpsc::channel();
        let shared = Shared::default();
        let (audit, _thread) = Audit::with_sink(Box::new(Stuck(Mutex::new(stuck), shared.clone())), 100);
        let long = Duration::from_secs(60);
        audit.record(&Subject::default(), event()).await.unwrap();
        while audit.health().waiting > 0 {
            tokio::task::yield_now().await;
        }
        let waiting: Vec<_> = (0..50)
            .map(|_| {
                let audit = audit.clone();
                tokio::spawn(async move { audit.record_durably(&Subject::default(), event(), long).await })
            })
            .collect();
        while audit.health().waiting < 50 {
            tokio::task::yield_now().await;
        }
        assert!(waiting.iter().all(|waiting| !waiting.is_finished()) && shared.lines().is_empty());
        drop(release);
        for waiting in waiting {
            waiting.await.unwrap().unwrap();
        }
        assert_eq!(shared.lines().len(), 51);
        assert_eq!(shared.writes.load(Ordering::SeqCst), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_sink_that_takes_nothing_is_not_waited_for_longer_than_the_patience() {
        let (release, stuck) = std::sync::mpsc::channel();
        let shared = Shared::default();
        let (audit, thread) = Audit::with_sink(Box::new(Stuck(Mutex::new(stuck), shared.clone())), 1);
        for _ in 0..4 {
            let waited = audit.record_durably(&Subject::default(), event(), Duration::from_secs(5)).await;
            assert!(matches!(waited, Err(AuditError::Stalled(_))));
        }
        drop((audit, release));
        thread.join().unwrap();
        // Those that had found room were written all the same.
        assert!((1..=3).contains(&shared.lines().len()), "{:?}", shared.lines());
    }

    #[tokio::test]
    async fn while_the_sink_fails_it_is_said_at_once_and_nothing_is_lost() {
        let shared = Shared::default();
        let (audit, _thread) = Audit::with_sink(Box::new(shared.clone()), 100);
        let subject = Subject::default();
        let durably = || audit.record_durably(&subject, event(), Duration::from_secs(60));
        durably().await.unwrap();
        assert_eq!(audit.health(), Health { waiting: 0, queue: 100, failures: 0, is_failing: false });
        shared.fails.store(true, Ordering::SeqCst);
        assert!(matches!(durably().await, Err(AuditError::Failing(_))));
        let began = Instant::now();
        for _ in 0..10 {
            assert!(matches!(durably().await, Err(AuditError::Failing(_))));
            audit.record(&Subject::default(), event()).await.unwrap();
        }
        assert!(began.elapsed() < Duration::from_secs(5) && audit.health().is_failing && audit.health().failures > 0);
        shared.fails.store(false, Ordering::SeqCst);
        let mut failing = audit.failing.clone();
        failing.wait_for(Option::is_none).await.unwrap();
        durably().await.unwrap();
        let seqs: Vec<_> = shared.lines().iter().map(|line| line["seq"].as_u64().unwrap()).collect();
        // The one that found the failure, the ten between, the first and the last.
        assert_eq!(seqs, (1..=13).collect::<Vec<_>>());
    }

    #[test]
    fn a_process_that_stops_does_not_wait_for_a_sink_that_fails() {
        let shared = Shared::default();
        shared.fails.store(true, Ordering::SeqCst);
        let (audit, thread) = Audit::with_sink(Box::new(shared), 10);
        audit.try_record(&Subject::default(), event()).unwrap();
        drop(audit);
        let began = Instant::now();
        thread.join().unwrap();
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}
