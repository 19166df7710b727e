use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use super::action::Action;

/// When calls arrived, and which of them the quota let pass.
#[derive(Default)]
pub(super) struct Ledger(BTreeMap<Action, Account>);

#[derive(Default)]
struct Account {
    /// Every arrival, oldest first; the oldest are forgotten beyond [`Ledger::MAX_ARRIVALS`].
    arrivals: VecDeque<Instant>,
    /// Those of the last second that the quota let pass.
    admitted: VecDeque<Instant>,
    count: u64,
    throttled: u64,
}

const SECOND: Duration = Duration::from_secs(1);

impl Ledger {
    const MAX_ARRIVALS: usize = 100_000;

    /// Records a call; whether it is within `per_second` calls in the second that ends now.
    pub(super) fn admit(&mut self, action: Action, now: Instant, per_second: usize) -> bool {
        let account = self.0.entry(action).or_default();
        account.count += 1;
        if account.arrivals.len() == Self::MAX_ARRIVALS {
            account.arrivals.pop_front();
        }
        account.arrivals.push_back(now);
        while account.admitted.front().is_some_and(|first| now.duration_since(*first) >= SECOND) {
            account.admitted.pop_front();
        }
        let within = account.admitted.len() < per_second;
        if within {
            account.admitted.push_back(now);
        } else {
            account.throttled += 1;
        }
        within
    }

    pub(super) fn calls(&self, action: Action) -> u64 {
        self.0.get(&action).map_or(0, |account| account.count)
    }

    pub(super) fn throttled(&self) -> u64 {
        self.0.values().map(|account| account.throttled).sum()
    }

    pub(super) fn arrivals(&self, action: Action) -> Vec<Instant> {
        self.0.get(&action).map(|account| account.arrivals.iter().copied().collect()).unwrap_or_default()
    }

    /// The most calls that arrived in any second, throttled ones included.
    pub(super) fn max_in_any_second(&self, action: Action) -> usize {
        let mut window = VecDeque::new();
        let mut most = 0;
        for arrival in self.arrivals(action) {
            while window.front().is_some_and(|first| arrival.duration_since(*first) >= SECOND) {
                window.pop_front();
            }
            window.push_back(arrival);
            most = most.max(window.len());
        }
        most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_in_any_second_and_the_window_slides() {
        let start = Instant::now();
        let mut ledger = Ledger::default();
        let mut at = |ms: u64| ledger.admit(Action::GetInstanceAccess, start + Duration::from_millis(ms), 20);
        assert!((0..10).all(|_| at(0)) && (0..10).all(|_| at(900)));
        // A fixed window would begin anew here.
        assert!(!at(999) && at(1_000));
        assert!((0..9).all(|_| at(1_001)) && !at(1_002));
        assert!(!at(1_899) && at(1_900));
        assert_eq!((ledger.calls(Action::GetInstanceAccess), ledger.throttled()), (34, 3));
        assert_eq!(ledger.max_in_any_second(Action::GetInstanceAccess), 23);
        assert_eq!(ledger.calls(Action::ListFleets), 0);
    }
}
