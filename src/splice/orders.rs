use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::access::Grant;
use crate::tasks::leave;

/// Notices that wait for a session to run again; more at once are dropped.
const MAX_NOTICES: usize = 8;
/// Characters of a notice.
const MAX_NOTICE: usize = 200;

/// Reaches a running session from outside. Clones reach the same session.
#[derive(Clone, Default)]
pub struct Orders(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// Something was ordered or asked since the session looked last. It stands alone: a session looks at it with all that moves.
    is_new: AtomicBool,
    answered: AtomicU64,
    desk: Mutex<Desk>,
}

#[derive(Default)]
struct Desk {
    /// Stays when it is used: the session leaves it once.
    waker: Option<Waker>,
    asked: u64,
    given: Option<Box<Given>>,
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
        let mut desk = self.desk();
        desk.asked = round;
        self.tell(&desk);
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

    /// Does a part of a session's work, and answers as long as that turns: also when what it carried has ended, and it waits for its
    /// recording or the audit to take the end. A slow disk is no reason to end a broker.
    pub(crate) fn answering<T>(self, work: impl Future<Output = T>) -> impl Future<Output = T> {
        let mut work = Box::pin(work);
        poll_fn(move |cx| {
            let _ = self.poll(cx);
            work.as_mut().poll(cx)
        })
    }

    /// The farewell, once there is one; all else stays.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Farewell> {
        self.look(cx, |given| given.as_ref().and_then(|given| given.farewell.clone()).map_or(Poll::Pending, Poll::Ready))
    }

    /// For the session: all that came, once.
    pub(super) fn take(&self, cx: &Context<'_>) -> Option<Box<Given>> {
        self.look(cx, Option::take)
    }

    /// For the session, when it has left this waker: whether there is something to take or to answer.
    pub(super) fn has_news(&self) -> bool {
        self.0.is_new.load(Ordering::Acquire)
    }

    fn give(&self, give: impl FnOnce(&mut Given)) {
        let mut desk = self.desk();
        give(desk.given.get_or_insert_default());
        self.tell(&desk);
    }

    fn tell(&self, desk: &Desk) {
        self.0.is_new.store(true, Ordering::Release);
        desk.waker.iter().for_each(Waker::wake_by_ref);
    }

    #[cfg(test)]
    pub(crate) fn notices(&self) -> VecDeque<String> {
        self.desk().given.as_mut().map(|given| std::mem::take(&mut given.notices)).unwrap_or_default()
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Also leaves the waker, and answers who asked.
    fn look<T>(&self, cx: &Context<'_>, see: impl FnOnce(&mut Option<Box<Given>>) -> T) -> T {
        let mut desk = self.desk();
        leave(&mut desk.waker, cx);
        self.0.is_new.store(false, Ordering::Relaxed);
        self.0.answered.store(desk.asked, Ordering::Relaxed);
        see(&mut desk.given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_question_and_every_order_wakes_the_session_and_is_news_until_it_looks() {
        let orders = Orders::default();
        let session = tokio::spawn({
            let orders = orders.clone();
            async move {
                let mut lines = Vec::new();
                while lines.len() < 3 {
                    let notices = poll_fn(|cx| match orders.take(cx) {
                        Some(given) => Poll::Ready(given.notices),
                        None => Poll::Pending,
                    });
                    lines.extend(notices.await);
                }
                lines
            }
        });
        for round in 1..4 {
            tokio::task::yield_now().await;
            assert!(!orders.has_news());
            orders.ask(round);
            assert!(orders.has_news() && orders.answered() < round);
            while orders.answered() < round {
                tokio::task::yield_now().await;
            }
            orders.notice(&format!("line {round}"));
        }
        assert_eq!(session.await.unwrap(), ["line 1", "line 2", "line 3"]);
    }
}
