use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::wire::Action;

/// A snapshot of what the client did since it began.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    pub calls: Vec<Calls>,
    pub quotas: Vec<QuotaState>,
    /// Whether the endpoint is asked at all; not while the circuit is open.
    pub is_asked: bool,
}

/// One action's quota now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuotaState {
    pub action: Action,
    /// Calls that wait.
    pub waiting: usize,
    /// Requests that could be sent at once.
    pub free: usize,
    /// Requests a second that are allowed; less than configured after the endpoint refused some.
    pub limit: usize,
}

/// How many attempts of an action ended how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Calls {
    pub action: Action,
    /// `ok`, or a short word for the problem.
    pub outcome: &'static str,
    pub count: u64,
}

/// Counts by action and outcome. Both are few and fixed, so this is bounded.
#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<BTreeMap<(Action, &'static str), u64>>);

impl Counters {
    pub(super) fn count(&self, action: Action, outcome: &'static str) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry((action, outcome)).or_insert(0) += 1;
    }

    pub(super) fn snapshot(&self) -> Vec<Calls> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|((action, outcome), count)| Calls { action: *action, outcome, count: *count }).collect()
    }
}
