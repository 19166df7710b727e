use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::access::Grant;

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
    /// In a place of its own: most often there is nothing, and a session looks with all that moves.
    given: Mutex<Option<Box<Given>>>,
    asked: AtomicU64,
    answered: AtomicU64,
}

/// What was ordered since the session looked last.
#[derive(Default)]
pub(super) struct Given {
    pub(super) farewell: Option<Farewell>,
    /// What is to be shown.
    pub(super) notices: VecDeque<String>,
    pub(super) regrant: Option<Regrant>,
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
        self.give(|given| {
            given.farewell.get_or_insert(farewell);
        });
    }

    /// From now on the session is held to this grant; it ends with the farewell when it uses what the grant lacks.
    pub fn regrant(&self, grant: Grant, farewell: Farewell) {
        self.give(|given| given.regrant = Some(Regrant { grant, farewell }));
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

    /// Shows a line to the operator on every terminal of the session, and nowhere else. It is for information: a session without a
    /// terminal, or one whose operator takes nothing, shows none.
    pub fn notice(&self, text: &str) {
        let line: String = text.chars().filter(|c| !c.is_control()).take(MAX_NOTICE).collect();
        self.give(|given| {
            if given.notices.len() < MAX_NOTICES {
                given.notices.push_back(line);
            }
        });
    }

    /// For what is not spliced: waits for the end.
    pub async fn ended(&self) -> Farewell {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// The farewell, once there is one; all else stays.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Farewell> {
        self.look(cx, |given| given.as_ref().and_then(|given| given.farewell.clone()).map_or(Poll::Pending, Poll::Ready))
    }

    /// For the session: all that came, once.
    pub(super) fn take(&self, cx: &Context<'_>) -> Option<Box<Given>> {
        self.look(cx, Option::take)
    }

    fn give(&self, give: impl FnOnce(&mut Given)) {
        give(self.0.given.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default());
        self.0.waker.wake();
    }

    #[cfg(test)]
    pub(crate) fn notices(&self) -> VecDeque<String> {
        let mut given = self.0.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.as_mut().map(|given| std::mem::take(&mut given.notices)).unwrap_or_default()
    }

    /// Also leaves the waker, and answers who asked.
    fn look<T>(&self, cx: &Context<'_>, see: impl FnOnce(&mut Option<Box<Given>>) -> T) -> T {
        self.0.waker.register(cx.waker());
        self.0.answered.store(self.0.asked.load(Ordering::Relaxed), Ordering::Relaxed);
        see(&mut self.0.given.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
