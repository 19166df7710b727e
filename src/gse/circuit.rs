use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// Why nothing is sent to the endpoint for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outage {
    /// Call after call did not get an answer.
    Unreachable,
    /// The endpoint says that the service is no more.
    Gone,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed { failures: u32 },
    Open { outage: Outage, until: Instant, pause: Duration },
    Probing { outage: Outage, pause: Duration },
}

/// The circuit breaker before the endpoint.
///
/// Closed → open after [`Circuit::FAILURES`] consecutive failures, or at once when the service is gone; open → one probe after a pause, which
/// doubles with every probe that fails; the probe's success closes it.
#[derive(Debug)]
pub(super) struct Circuit {
    state: Mutex<State>,
    /// Counts openings, so that who waits in the queue can stop waiting.
    openings: watch::Sender<u64>,
}

impl Circuit {
    pub(super) const FAILURES: u32 = 5;
    const PAUSE: Duration = Duration::from_secs(2);
    const MAX_PAUSE: Duration = Duration::from_secs(30);

    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::Closed { failures: 0 }), openings: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether queueing up makes sense: not while open, but when a probe is due.
    pub(super) fn check(&self) -> Result<(), Outage> {
        match *self.state() {
            State::Open { outage, until, .. } if Instant::now() < until => Err(outage),
            State::Probing { outage, .. } => Err(outage),
            State::Closed { .. } | State::Open { .. } => Ok(()),
        }
    }

    /// Changes when the circuit opens after this call.
    pub(super) fn openings(&self) -> watch::Receiver<u64> {
        self.openings.subscribe()
    }

    /// Lets one request pass, as a probe when one is due.
    pub(super) fn admit(&self) -> Result<Pass<'_>, Outage> {
        let mut state = self.state();
        match *state {
            State::Closed { .. } => Ok(Pass { circuit: self, probe: false }),
            State::Open { outage, until, pause } if Instant::now() >= until => {
                *state = State::Probing { outage, pause };
                Ok(Pass { circuit: self, probe: true })
            }
            State::Open { outage, .. } | State::Probing { outage, .. } => Err(outage),
        }
    }

    fn open(&self, state: &mut State, outage: Outage, pause: Duration) {
        tracing::warn!(?outage, ?pause, "the cloud API is not asked for a while");
        *state = State::Open { outage, until: Instant::now() + pause, pause };
        self.openings.send_modify(|openings| *openings += 1);
    }
}

/// One request's way through. Dropped without a verdict (the asker went away), it counts as neither; a probe may then be tried again.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    circuit: &'a Circuit,
    probe: bool,
}

impl Pass<'_> {
    /// The endpoint answered.
    pub(super) fn succeeded(mut self) {
        let mut state = self.circuit.state();
        if self.probe || matches!(*state, State::Closed { .. }) {
            *state = State::Closed { failures: 0 };
        }
        self.probe = false;
    }

    /// No connection, no answer in time, or an answer of 500 and above.
    pub(super) fn failed(mut self) {
        let mut state = self.circuit.state();
        match *state {
            State::Closed { failures } if failures + 1 >= Circuit::FAILURES => {
                self.circuit.open(&mut state, Outage::Unreachable, Circuit::PAUSE)
            }
            State::Closed { failures } => *state = State::Closed { failures: failures + 1 },
            State::Probing { pause, .. } if self.probe => {
                self.circuit.open(&mut state, Outage::Unreachable, (pause * 2).min(Circuit::MAX_PAUSE));
            }
            State::Open { .. } | State::Probing { .. } => {}
        }
        self.probe = false;
    }

    pub(super) fn gone(mut self) {
        let mut state = self.circuit.state();
        if self.probe || matches!(*state, State::Closed { .. }) {
            self.circuit.open(&mut state, Outage::Gone, Circuit::MAX_PAUSE);
        }
        self.probe = false;
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe {
            let mut state = self.circuit.state();
            if let State::Probing { outage, pause } = *state {
                *state = State::Open { outage, until: Instant::now(), pause };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_one_probe_closes_it() {
        let circuit = Circuit::new();
        let mut openings = circuit.openings();
        for _ in 0..Circuit::FAILURES - 1 {
            circuit.admit().unwrap().failed();
        }
        circuit.admit().unwrap().succeeded();
        for _ in 0..Circuit::FAILURES {
            assert!(!openings.has_changed().unwrap());
            circuit.admit().unwrap().failed();
        }
        openings.changed().await.unwrap();
        assert_eq!((circuit.check(), circuit.admit().err()), (Err(Outage::Unreachable), Some(Outage::Unreachable)));

        sleep(Circuit::PAUSE).await;
        let probe = circuit.admit().unwrap();
        assert_eq!(circuit.admit().err(), Some(Outage::Unreachable), "one probe at a time");
        drop(probe);
        circuit.admit().expect("a probe that was given up is tried again").failed();
        sleep(Circuit::PAUSE).await;
        assert!(circuit.check().is_err(), "the pause doubles");
        sleep(Circuit::PAUSE).await;
        circuit.admit().unwrap().succeeded();
        circuit.admit().unwrap().succeeded();
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_gone_opens_it_at_once_and_stragglers_do_not_close_it() {
        let circuit = Circuit::new();
        let straggler = circuit.admit().unwrap();
        circuit.admit().unwrap().gone();
        straggler.succeeded();
        assert_eq!(circuit.check(), Err(Outage::Gone));
        sleep(Circuit::MAX_PAUSE).await;
        assert_eq!(circuit.check(), Ok(()));
    }
}
