//! The request quota of one action: never more than its rate in any sliding second as the endpoint sees arrivals, and fair between
//! operators. There is no task behind it: whoever is first in line waits for the next slot itself.

mod line;
mod window;

#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::time::{Instant, sleep_until};

use crate::access::OperatorName;
use crate::broker::QueuePlace;
use line::{Line, Ticket};
use window::Window;

#[derive(Debug, Error, PartialEq, Eq)]
#[error("the queue for the API quota is full")]
pub(super) struct QueueFull;

#[derive(Debug)]
struct State {
    window: Window,
    line: Line,
}

#[derive(Debug)]
pub(super) struct Quota {
    state: Mutex<State>,
}

impl Quota {
    /// `rate` requests a second; `bound` calls may wait.
    pub(super) fn new(rate: u32, bound: usize) -> Self {
        let rate = usize::try_from(rate).unwrap_or(usize::MAX);
        Self { state: Mutex::new(State { window: Window::new(rate), line: Line::new(bound) }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot. `place` says meanwhile how many go first. Dropping the future leaves the line.
    pub(super) async fn permit(&self, operator: &OperatorName, place: Arc<QueuePlace>) -> Result<Permit<'_>, QueueFull> {
        let waiting = {
            let mut state = self.state();
            let now = Instant::now();
            if state.line.len() == 0 && state.window.take(now).is_ok() {
                return Ok(Permit::new(self));
            }
            let ticket = state.line.join(operator, place).ok_or(QueueFull)?;
            Waiting { quota: self, operator, ticket }
        };
        loop {
            let next = {
                let mut state = self.state();
                let now = Instant::now();
                if state.line.is_first(waiting.ticket.number) {
                    match state.window.take(now) {
                        Ok(()) => {
                            state.line.advance();
                            return Ok(Permit::new(self));
                        }
                        Err(next) => next,
                    }
                } else if state.line.holds(operator, waiting.ticket.number) {
                    None
                } else {
                    return Err(QueueFull);
                }
            };
            let called = waiting.ticket.called.notified();
            match next {
                Some(at) => tokio::select! {
                    () = called => {}
                    () = sleep_until(at) => {}
                },
                None => called.await,
            }
        }
    }

    /// The endpoint refused a request for its limit: slow down for a while.
    pub(super) fn exceeded(&self) {
        self.state().window.exceeded(Instant::now());
    }

    /// Calls that wait for a slot.
    pub(super) fn waiting(&self) -> usize {
        self.state().line.len()
    }

    /// Requests that could be sent at once.
    pub(super) fn free(&self) -> usize {
        self.state().window.free(Instant::now())
    }

    /// Requests a second that are allowed now; less than the configured rate after the endpoint refused some.
    pub(super) fn limit(&self) -> usize {
        self.state().window.limit(Instant::now())
    }
}

/// A place in the line, left when dropped.
struct Waiting<'a> {
    quota: &'a Quota,
    operator: &'a OperatorName,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.quota.state().line.leave(self.operator, self.ticket.number);
    }
}

/// One request's slot. It is given back a second after the request's arrival is certain.
#[derive(Debug)]
pub(super) struct Permit<'a> {
    quota: &'a Quota,
    request: Request,
}

#[derive(Debug, Clone, Copy)]
enum Request {
    Unsent,
    Answered,
    /// It may have arrived, or arrive yet.
    Unanswered,
}

impl<'a> Permit<'a> {
    fn new(quota: &'a Quota) -> Self {
        Self { quota, request: Request::Unanswered }
    }

    /// The answer begins to arrive, so the request did.
    pub(super) fn answered(mut self) {
        self.request = Request::Answered;
    }

    /// No request was sent: the slot is free for another at once.
    pub(super) fn unused(mut self) {
        self.request = Request::Unsent;
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        let mut state = self.quota.state();
        let now = Instant::now();
        match self.request {
            Request::Unsent => state.window.unused(),
            Request::Answered => state.window.answered(now),
            Request::Unanswered => state.window.abandoned(now),
        }
        state.line.call_first();
    }
}
