use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Service, notify};
use crate::session::Running;

/// How often it looks when nobody asks for it.
const PERIOD: Duration = Duration::from_secs(10);
/// How many sessions are asked in a round.
const ASKED: usize = 16;
/// How often it looks for the answers.
const LOOK: Duration = Duration::from_millis(20);

/// Asks, round by round, whether the accept loops and the sessions still turn, and only then feeds systemd's watchdog: it is no timer.
pub(super) struct Watchdog {
    service: Arc<Service>,
    round: u64,
    alive: Arc<AtomicBool>,
}

impl Watchdog {
    pub(super) fn new(service: Arc<Service>) -> Self {
        Self { service, round: 0, alive: Arc::new(AtomicBool::new(true)) }
    }

    /// Whether the last round was answered.
    pub(super) fn alive(&self) -> Arc<AtomicBool> {
        self.alive.clone()
    }

    pub(super) async fn run(mut self) {
        let enabled = sd_notify::watchdog_enabled();
        // Two rounds before systemd loses patience, each with half of its period to be answered in.
        let period = enabled.map_or(PERIOD, |limit| (limit / 3).max(Duration::from_millis(10)));
        loop {
            let alive = self.ask(period / 2).await;
            self.alive.store(alive, Ordering::Relaxed);
            match (alive, enabled) {
                (true, Some(_)) => notify::alive(),
                (true, None) => {}
                (false, _) => tracing::error!("the accept loops or all sessions do not answer"),
            }
            sleep(period).await;
        }
    }

    /// One round.
    async fn ask(&mut self, patience: Duration) -> bool {
        self.round += 1;
        let pulse = self.service.door.pulse();
        pulse.ask();
        // Any of them will do: one that is stuck is no reason to end all others. With none, a task of its own stands for them.
        let asked = self.some_sessions();
        asked.iter().for_each(|session| session.ask(self.round));
        let probe = tokio::spawn(async {});
        let deadline = Instant::now() + patience;
        loop {
            let sessions = match asked.is_empty() {
                true => probe.is_finished(),
                false => asked.iter().any(|session| session.answered() >= self.round || Arc::strong_count(session) == 1),
            };
            if sessions && pulse.answered() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            sleep(LOOK.min(patience / 4)).await;
        }
    }

    /// Others in every round.
    fn some_sessions(&self) -> Vec<Arc<Running>> {
        let live = self.service.live.list();
        let skip = usize::try_from(self.round).unwrap_or(0).wrapping_mul(ASKED) % live.len().max(1);
        live.iter().cycle().skip(skip).take(ASKED.min(live.len())).cloned().collect()
    }
}
