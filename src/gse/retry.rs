use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Retries are at most a tenth of the calls, and a small reserve: when everything fails, retrying everything would only add to it.
#[derive(Debug)]
pub(super) struct RetryBudget {
    /// In tenths of a retry.
    tenths: Mutex<u32>,
}

impl RetryBudget {
    const RESERVE: u32 = 10;

    pub(super) fn new() -> Self {
        Self { tenths: Mutex::new(Self::RESERVE * 10) }
    }

    /// A call was made: a tenth of a retry is earned.
    pub(super) fn earn(&self) {
        let mut tenths = self.tenths.lock().unwrap_or_else(PoisonError::into_inner);
        *tenths = (*tenths + 1).min(Self::RESERVE * 10);
    }

    /// Takes one retry, when there is one.
    pub(super) fn spend(&self) -> bool {
        let mut tenths = self.tenths.lock().unwrap_or_else(PoisonError::into_inner);
        let rest = tenths.checked_sub(10);
        *tenths = rest.unwrap_or(*tenths);
        rest.is_some()
    }
}

/// Pauses between attempts: doubling, between half and all of it at random.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(200);
    const MAX: Duration = Duration::from_secs(1);

    pub(super) fn new() -> Self {
        Self { next: Self::FIRST }
    }

    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(Self::MAX);
        pause / 2 + (pause / 2).mul_f64(random_fraction())
    }
}

/// Uniform in 0..1.
fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    // Without randomness the pauses are merely not spread out.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        return 0.5;
    }
    f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_tenth_of_the_calls_and_a_reserve() {
        let budget = RetryBudget::new();
        let mut retries = 0;
        for _ in 0..1000 {
            budget.earn();
            while budget.spend() {
                retries += 1;
            }
        }
        assert!((100..=100 + RetryBudget::RESERVE).contains(&retries), "{retries}");
    }

    #[test]
    fn pauses_double_up_to_the_most() {
        let mut backoff = Backoff::new();
        for expected in [200, 400, 800, 1000, 1000] {
            let pause = backoff.pause().as_millis();
            assert!(pause >= expected / 2 && pause <= expected, "{pause} of {expected}");
        }
    }
}
