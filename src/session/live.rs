use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use crate::access::{Failure, Grant};
use crate::audit::Subject;
use crate::splice::{Farewell, Orders};

/// The sessions that run now, in the order in which they began.
#[derive(Default)]
pub struct Live {
    sessions: Mutex<Sessions>,
}

#[derive(Default)]
struct Sessions {
    next: u64,
    running: BTreeMap<u64, Arc<Running>>,
}

/// One of them.
pub struct Running {
    pub subject: Subject,
    /// The grant that it began with.
    pub grant: Grant,
    /// The target as the operator typed it.
    pub typed: String,
    pub since: Instant,
    /// The target's port that is forwarded as raw TCP; `None` for SSH.
    pub port: Option<u16>,
    orders: Orders,
    /// The grant that holds now.
    granted: watch::Sender<Grant>,
}

impl Running {
    pub fn new(subject: Subject, grant: Grant, typed: String, since: Instant) -> Self {
        Self { subject, granted: watch::Sender::new(grant.clone()), grant, typed, since, port: None, orders: Orders::default() }
    }

    pub(super) fn on_port(self, port: u16) -> Self {
        Self { port: Some(port), ..self }
    }

    pub(super) fn orders(&self) -> Orders {
        self.orders.clone()
    }

    /// Shows the operator a line on every terminal of the session.
    pub fn notice(&self, text: &str) {
        self.orders.notice(&format!("ssh-broker: {}: {text}", self.typed));
    }

    /// Ends it; the operator reads the failure's sentence.
    pub fn end(&self, failure: &Failure) {
        self.orders.end(self.farewell(failure));
    }

    /// Holds it to another grant from now on; when it uses what that grant lacks, it ends, and the operator reads the failure's sentence.
    pub fn regrant(&self, grant: Grant, failure: &Failure) {
        let lacks_port = self.port.is_some_and(|port| grant.port(port).is_none());
        if lacks_port || !self.grant.recording().meets(grant.recording()) {
            return self.end(failure);
        }
        self.granted.send_replace(grant.clone());
        self.orders.regrant(grant, self.farewell(failure));
    }

    /// The grant that holds now, and each that comes.
    pub(super) fn granted(&self) -> watch::Receiver<Grant> {
        self.granted.subscribe()
    }

    /// Does a part of the session's work; see [`Orders::answering`].
    pub(super) fn answering<T>(&self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        self.orders().answering(work)
    }

    /// Asks it whether it still runs.
    pub fn ask(&self, round: u64) {
        self.orders.ask(round);
    }

    /// The last round that it answered.
    pub fn answered(&self) -> u64 {
        self.orders.answered()
    }

    fn farewell(&self, failure: &Failure) -> Farewell {
        let reference = self.subject.shown_reference();
        let sentence = failure.sentence(&self.typed, reference);
        Farewell { sentence, reason: format!("broker: {}: {}", failure.code.as_str(), failure.chain()) }
    }
}

impl Live {
    pub fn list(&self) -> Vec<Arc<Running>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).running.values().cloned().collect()
    }

    /// Counts a session among those that run until the answer is dropped.
    pub(super) fn enter(self: &Arc<Self>, running: Arc<Running>) -> Entry {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let number = sessions.next;
        sessions.next += 1;
        sessions.running.insert(number, running);
        Entry { live: self.clone(), number }
    }
}

/// A place among the sessions that run.
pub(super) struct Entry {
    live: Arc<Live>,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.live.sessions.lock().unwrap_or_else(PoisonError::into_inner).running.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::access::{Code, GrantRule, RecordMode, Recording, samples};

    fn grant(recording: Recording) -> Grant {
        samples::grant(GrantRule { recording, ..samples::rule() }, std::time::UNIX_EPOCH)
    }

    #[tokio::test]
    async fn what_must_be_recorded_now_and_was_not_from_its_beginning_ends() {
        let terms = |mode, input| Recording { mode, input };
        for (began, now, ends) in [
            (terms(RecordMode::Off, false), terms(RecordMode::BestEffort, false), false),
            (terms(RecordMode::Off, false), terms(RecordMode::Required, false), true),
            (terms(RecordMode::BestEffort, true), terms(RecordMode::Required, false), true),
            (terms(RecordMode::Required, false), terms(RecordMode::Required, true), true),
            (terms(RecordMode::Required, true), terms(RecordMode::Required, false), false),
        ] {
            let running = Running::new(Subject::default(), grant(began), "ins-a".to_owned(), Instant::now());
            running.regrant(grant(now), &Failure::new(Code::SessionExpired, "no longer"));
            let ended = poll_fn(|cx| std::task::Poll::Ready(running.orders().poll(cx).is_ready())).await;
            assert_eq!(ended, ends, "{began:?} {now:?}");
        }
    }
}
