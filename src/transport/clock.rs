use std::time::Duration;

use tokio::time::Instant;

use super::{Leg, TransportError};

/// How often a leg that moves is looked after, and how long one that does not keeps its memory.
pub const TICK: Duration = Duration::from_secs(5);
/// The same for one that does not move.
pub const IDLE_TICK: Duration = Duration::from_secs(60);

/// Deadlines of a leg's keys.
#[derive(Debug, Clone, Copy)]
pub struct KeyLimits {
    /// A key exchange, from its first message to its last.
    pub kex: Duration,
    /// New keys are asked for after this (RFC 4253, 9: an hour).
    pub rekey_interval: Duration,
}

impl Default for KeyLimits {
    fn default() -> Self {
        Self { kex: Duration::from_secs(60), rekey_interval: Duration::from_secs(3600) }
    }
}

/// How long a leg has its keys, and how long it has been about new ones, as far as somebody looked.
#[derive(Debug, Default)]
pub struct KeyClock {
    kex_since: Option<Instant>,
    keys_since: Option<Instant>,
}

impl KeyClock {
    /// Asks for new keys when it is time, and ends a key exchange that takes too long.
    pub fn look(&mut self, leg: &mut Leg, now: Instant, limits: KeyLimits) -> Result<(), TransportError> {
        if leg.in_kex() {
            self.keys_since = None;
            let since = *self.kex_since.get_or_insert(now);
            return if now.duration_since(since) > limits.kex { Err(TransportError::Deadline("a key exchange")) } else { Ok(()) };
        }
        self.kex_since = None;
        let since = *self.keys_since.get_or_insert(now);
        if now.duration_since(since) > limits.rekey_interval {
            leg.start_kex()?;
        }
        Ok(())
    }
}
