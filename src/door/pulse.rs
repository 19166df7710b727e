use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

/// Asks the loops of the door, those that accept and those that connections run in, whether they still turn. A loop that is stuck, or ended
/// unasked, answers no more.
#[derive(Debug)]
pub struct Pulse {
    rounds: watch::Sender<u64>,
    /// The last round that each loop answered.
    answers: Mutex<Vec<Arc<AtomicU64>>>,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { rounds: watch::Sender::new(0), answers: Mutex::default() }
    }

    pub(super) fn join(&self) -> Beat {
        let rounds = self.rounds.subscribe();
        let answer = Arc::new(AtomicU64::new(*rounds.borrow()));
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer.clone());
        Beat { rounds, answer }
    }

    /// Begins a round.
    pub fn ask(&self) {
        self.rounds.send_modify(|round| *round += 1);
    }

    /// Whether every loop has answered the last round.
    pub fn answered(&self) -> bool {
        let round = *self.rounds.borrow();
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).iter().all(|answer| answer.load(Ordering::Relaxed) >= round)
    }
}

/// One loop's side.
#[derive(Debug)]
pub(super) struct Beat {
    rounds: watch::Receiver<u64>,
    answer: Arc<AtomicU64>,
}

impl Beat {
    /// The loop ends as it should: it is not waited for any more.
    pub(super) fn leave(self) {
        self.answer.store(u64::MAX, Ordering::Relaxed);
    }

    /// For as long as it is polled it answers; it never ends.
    pub(super) async fn answer(&mut self) {
        loop {
            self.answer.store(*self.rounds.borrow_and_update(), Ordering::Relaxed);
            if self.rounds.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_loop_that_is_stuck_or_gone_does_not_answer() {
        let pulse = Pulse::new();
        let (mut turns, mut sticks) = (pulse.join(), pulse.join());
        let turning = tokio::spawn(async move { turns.answer().await });
        pulse.ask();
        tokio::task::yield_now().await;
        assert!(!pulse.answered(), "only one of two has");
        let sticking = tokio::spawn(async move { sticks.answer().await });
        tokio::task::yield_now().await;
        assert!(pulse.answered());
        sticking.abort();
        pulse.ask();
        tokio::task::yield_now().await;
        assert!(!pulse.answered());
        turning.abort();
    }
}
