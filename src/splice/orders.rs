use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::access::Grant;

/// Reaches a running session from outside. Clones reach the same session.
#[derive(Clone, Default)]
pub struct Orders(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waker: AtomicWaker,
    farewell: Mutex<Option<Farewell>>,
    regrant: Mutex<Option<Regrant>>,
    asked: AtomicU64,
    answered: AtomicU64,
}

/// A grant in place of the one that the session began with, and what is said when something that it lacks is in use.
pub(super) struct Regrant {
    pub(super) grant: Grant,
    pub(super) farewell: Farewell,
}

/// Why the broker ends a session that both sides would have gone on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// What the operator reads.
    pub sentence: String,
    /// What the audit and the log read.
    pub reason: String,
}

impl Orders {
    /// The first farewell counts; the session ends as soon as it runs again.
    pub fn end(&self, farewell: Farewell) {
        self.0.farewell.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(farewell);
        self.0.waker.wake();
    }

    /// From now on the session is held to this grant; it ends with the farewell when it uses what the grant lacks.
    pub fn regrant(&self, grant: Grant, farewell: Farewell) {
        *self.0.regrant.lock().unwrap_or_else(PoisonError::into_inner) = Some(Regrant { grant, farewell });
        self.0.waker.wake();
    }

    /// Asks the session whether it still runs.
    pub fn ask(&self, round: u64) {
        self.0.asked.store(round, Ordering::Relaxed);
        self.0.waker.wake();
    }

    /// The last round that it answered.
    pub fn answered(&self) -> u64 {
        self.0.answered.load(Ordering::Relaxed)
    }

    /// For the session: the grant that came, once.
    pub(super) fn take_regrant(&self) -> Option<Regrant> {
        self.0.regrant.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// For the session: its farewell, once there is one.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Farewell> {
        self.0.waker.register(cx.waker());
        self.0.answered.store(self.0.asked.load(Ordering::Relaxed), Ordering::Relaxed);
        match self.0.farewell.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(farewell) => Poll::Ready(farewell),
            None => Poll::Pending,
        }
    }
}
