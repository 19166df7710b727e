use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Ends a running session from outside. Clones reach the same session.
#[derive(Clone, Default)]
pub struct Orders(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waker: AtomicWaker,
    farewell: Mutex<Option<Farewell>>,
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

    /// For the session: its farewell, once there is one.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Farewell> {
        self.0.waker.register(cx.waker());
        match self.0.farewell.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            Some(farewell) => Poll::Ready(farewell),
            None => Poll::Pending,
        }
    }
}
