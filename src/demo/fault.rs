use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::action::Action;

/// What the simulated endpoint does instead of answering.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// HTTP 200 with this error code, as the real service refuses.
    Error(String),
    /// This HTTP status with a body that is not JSON.
    Status(u16),
    /// HTTP 200 with this body.
    Body(String),
    /// The request is read and never answered.
    Hang,
    /// The connection is reset.
    Reset,
    /// Half of the right answer, then the end of the connection.
    HalfBody,
    /// A well-formed answer of so many bytes, in chunks, without a Content-Length.
    HugeBody(u64),
    /// The right answer, about another fleet and instance than was asked for.
    WrongIds,
    /// A redirection to this URL.
    Redirect(String),
}

/// For how many calls a fault lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    Next(u32),
    UntilCleared,
}

/// The faults that are still to come, in the order they were set, for each action.
#[derive(Default)]
pub(super) struct Script {
    faults: BTreeMap<Action, VecDeque<(Fault, Times)>>,
    latency: BTreeMap<Action, Duration>,
}

impl Script {
    /// Faults that may wait for their turn, for one action.
    const MAX: usize = 1_000;

    pub(super) fn push(&mut self, action: Action, fault: Fault, times: Times) {
        let faults = self.faults.entry(action).or_default();
        if faults.len() < Self::MAX {
            faults.push_back((fault, times));
        }
    }

    pub(super) fn set_latency(&mut self, action: Action, latency: Duration) {
        self.latency.insert(action, latency);
    }

    pub(super) fn latency(&self, action: Action) -> Duration {
        self.latency.get(&action).copied().unwrap_or_default()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// The fault of this call.
    pub(super) fn next(&mut self, action: Action) -> Option<Fault> {
        let faults = self.faults.get_mut(&action)?;
        loop {
            match faults.front_mut()? {
                (_, Times::Next(0)) => {
                    faults.pop_front();
                }
                (fault, Times::Next(left)) => {
                    *left -= 1;
                    return Some(fault.clone());
                }
                (fault, Times::UntilCleared) => return Some(fault.clone()),
            }
        }
    }
}
