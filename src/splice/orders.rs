use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

/// Notices that wait for a session to run again; more at once are dropped.
const MAX_NOTICES: usize = 8;
/// Characters of a notice.
const MAX_NOTICE: usize = 200;

/// Reaches a running session from outside. Clones reach the same session.
#[derive(Clone, Default)]
pub struct Orders(Arc<Shared>);

#[derive(Default)]
struct Shared {
    waker: AtomicWaker,
    given: Mutex<Given>,
}

#[derive(Default)]
struct Given {
    farewell: Option<Farewell>,
    notices: VecDeque<String>,
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
        self.0.given.lock().unwrap_or_else(PoisonError::into_inner).farewell.get_or_insert(farewell);
        self.0.waker.wake();
    }

    /// Shows a line to the operator on every terminal of the session, and nowhere else. It is for information: a session without a
    /// terminal, or one whose operator takes nothing, shows none.
    pub fn notice(&self, text: &str) {
        let line: String = text.chars().filter(|c| !c.is_control()).take(MAX_NOTICE).collect();
        {
            let mut given = self.0.given.lock().unwrap_or_else(PoisonError::into_inner);
            if given.notices.len() >= MAX_NOTICES {
                return;
            }
            given.notices.push_back(line);
        }
        self.0.waker.wake();
    }

    /// For what is not spliced: waits for the end.
    pub async fn ended(&self) -> Farewell {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// For the session: its farewell, once there is one.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Farewell> {
        self.0.waker.register(cx.waker());
        match self.0.given.lock().unwrap_or_else(PoisonError::into_inner).farewell.clone() {
            Some(farewell) => Poll::Ready(farewell),
            None => Poll::Pending,
        }
    }

    /// For the session: what is to be shown.
    pub(crate) fn notices(&self) -> VecDeque<String> {
        std::mem::take(&mut self.0.given.lock().unwrap_or_else(PoisonError::into_inner).notices)
    }
}
