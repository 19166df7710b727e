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
    Closed {
        failures: u32,
    },
    Open {
        outage: Outage,
        /// When the next probe may go.
        probe_at: Instant,
        failed_at: Instant,
    },
}

/// The circuit breaker before the endpoint.
///
/// Closed → open after [`Circuit::FAILURES`] consecutive failures, or at once when the service is gone. Open, it lets one request a second
/// pass as a probe, whatever became of those before: one that hangs keeps nobody from finding out that the endpoint answers again. The
/// first probe that succeeds closes it.
#[derive(Debug)]
pub(super) struct Circuit {
    state: Mutex<State>,
    /// Counts openings, so that who waits in the queue can stop waiting.
    openings: watch::Sender<u64>,
}

impl Circuit {
    pub(super) const FAILURES: u32 = 5;
    /// Between two probes.
    const PAUSE: Duration = Duration::from_secs(1);
    /// The same when the endpoint says that the service is no more.
    const PAUSE_GONE: Duration = Duration::from_secs(30);
    /// How long nobody must have found the endpoint failing until it is taken to be up.
    const DOUBT: Duration = Duration::from_secs(30);

    pub(super) fn new() -> Self {
        Self { state: Mutex::new(State::Closed { failures: 0 }), openings: watch::Sender::new(0) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether queueing up makes sense: not while open, but when a probe is due.
    pub(super) fn check(&self) -> Result<(), Outage> {
        match *self.state() {
            State::Open { outage, probe_at, .. } if Instant::now() < probe_at => Err(outage),
            State::Closed { .. } | State::Open { .. } => Ok(()),
        }
    }

    /// What is told of the endpoint. Where nobody asks, nothing is known: a broker that is sent nobody while it is not up must come back.
    pub(super) fn is_up(&self) -> bool {
        match *self.state() {
            State::Closed { .. } => true,
            State::Open { failed_at, .. } => failed_at.elapsed() >= Self::DOUBT,
        }
    }

    /// Changes when the circuit opens after this call.
    pub(super) fn openings(&self) -> watch::Receiver<u64> {
        self.openings.subscribe()
    }

    /// Lets one request pass, as a probe when one is due.
    pub(super) fn admit(&self) -> Result<Pass<'_>, Outage> {
        let now = Instant::now();
        match &mut *self.state() {
            State::Closed { .. } => Ok(Pass { circuit: self, probe: false }),
            State::Open { probe_at, .. } if now >= *probe_at => {
                *probe_at = now + Self::PAUSE;
                Ok(Pass { circuit: self, probe: true })
            }
            State::Open { outage, .. } => Err(*outage),
        }
    }

    fn open(&self, state: &mut State, outage: Outage, pause: Duration) {
        let now = Instant::now();
        if matches!(state, State::Closed { .. }) {
            tracing::warn!(?outage, "the cloud API does not answer; it is asked once a while until it does");
            self.openings.send_modify(|openings| *openings += 1);
        }
        *state = State::Open { outage, probe_at: now + pause, failed_at: now };
    }
}

/// One request's way through. Dropped without a verdict (the asker went away), it counts as neither.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    circuit: &'a Circuit,
    probe: bool,
}

impl Pass<'_> {
    /// The endpoint answered.
    pub(super) fn succeeded(self) {
        let mut state = self.circuit.state();
        match *state {
            State::Closed { .. } => *state = State::Closed { failures: 0 },
            State::Open { .. } if self.probe => {
                tracing::info!("the cloud API answers again");
                *state = State::Closed { failures: 0 };
            }
            State::Open { .. } => {}
        }
    }

    /// No connection, no answer in time, or an answer of 500 and above.
    pub(super) fn failed(self) {
        let mut state = self.circuit.state();
        match &mut *state {
            State::Closed { failures } if *failures + 1 >= Circuit::FAILURES => {
                self.circuit.open(&mut state, Outage::Unreachable, Circuit::PAUSE)
            }
            State::Closed { failures } => *failures += 1,
            // The next probe does not wait for what became of this one.
            State::Open { outage, failed_at, .. } if self.probe => (*outage, *failed_at) = (Outage::Unreachable, Instant::now()),
            State::Open { .. } => {}
        }
    }

    pub(super) fn gone(self) {
        let mut state = self.circuit.state();
        if self.probe || matches!(*state, State::Closed { .. }) {
            self.circuit.open(&mut state, Outage::Gone, Circuit::PAUSE_GONE);
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
        circuit.admit().unwrap().failed();
        assert_eq!(circuit.admit().err(), Some(Outage::Unreachable), "one probe at a time");
        sleep(Circuit::PAUSE).await;
        circuit.admit().unwrap().succeeded();
        circuit.admit().unwrap().succeeded();
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_goes_every_second_though_others_hang_and_any_that_succeeds_closes_it() {
        let circuit = Circuit::new();
        (0..Circuit::FAILURES).for_each(|_| circuit.admit().unwrap().failed());
        let (began, mut hanging) = (Instant::now(), Vec::new());
        while began.elapsed() < Duration::from_secs(10) {
            hanging.extend(circuit.admit());
            sleep(Duration::from_millis(50)).await;
        }
        assert!((9..=10).contains(&hanging.len()), "{}", hanging.len());
        // One that comes to its time-out moves nothing.
        hanging.remove(0).failed();
        sleep(Circuit::PAUSE).await;
        // Nor does one whose asker has gone.
        let _ = circuit.admit().unwrap();
        hanging.remove(0).succeeded();
        assert_eq!(circuit.check(), Ok(()));
        hanging.into_iter().for_each(Pass::failed);
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_told_to_be_up_when_nobody_has_found_otherwise_for_a_while() {
        let circuit = Circuit::new();
        assert!(circuit.is_up());
        (0..Circuit::FAILURES).for_each(|_| circuit.admit().unwrap().failed());
        sleep(Circuit::DOUBT / 2).await;
        circuit.admit().unwrap().failed();
        sleep(Circuit::DOUBT / 2).await;
        assert!(!circuit.is_up());
        sleep(Circuit::DOUBT / 2).await;
        assert!(circuit.is_up());
    }

    #[tokio::test(start_paused = true)]
    async fn a_service_that_is_gone_opens_it_at_once_and_stragglers_do_not_close_it() {
        let circuit = Circuit::new();
        let straggler = circuit.admit().unwrap();
        circuit.admit().unwrap().gone();
        straggler.succeeded();
        for _ in 0..2 {
            assert_eq!(circuit.check(), Err(Outage::Gone));
            sleep(Circuit::PAUSE_GONE - Duration::from_millis(1)).await;
            assert_eq!(circuit.check(), Err(Outage::Gone));
            sleep(Duration::from_millis(1)).await;
            circuit.admit().unwrap().gone();
        }
    }
}
