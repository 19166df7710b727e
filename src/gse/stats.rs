use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::wire::Action;

/// A snapshot of what the client did since it began.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// How many attempts of an action ended how: `ok`, or a short word for the problem.
    pub calls: Vec<(Action, &'static str, u64)>,
    /// Calls that wait for the quota now.
    pub waiting: usize,
}

/// Counts by action and outcome. Both are few and fixed, so this is bounded.
#[derive(Debug, Default)]
pub(super) struct Counters(Mutex<BTreeMap<(&'static str, &'static str), (Action, u64)>>);

impl Counters {
    pub(super) fn count(&self, action: Action, outcome: &'static str) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.entry((action.name(), outcome)).or_insert((action, 0)).1 += 1;
    }

    pub(super) fn snapshot(&self) -> Vec<(Action, &'static str, u64)> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|((_, outcome), (action, count))| (*action, *outcome, *count)).collect()
    }
}
