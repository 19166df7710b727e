use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

/// The log tells of those who were turned away at most this often: a flood of connections is not to become a flood of lines.
const TELL: Duration = Duration::from_secs(1);

/// Why a connection is closed before anything was read from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Random early drop, or no place at all.
    Full,
    /// As many from its source or netblock as there may be.
    Share,
    Penalized,
}

impl Refusal {
    /// The words of OpenSSH's server, which its client knows and shows.
    fn line(self) -> &'static [u8] {
        match self {
            Self::Full | Self::Share => b"Exceeded MaxStartups\r\n",
            Self::Penalized => b"Not allowed at this time\r\n",
        }
    }
}

/// Counts who was turned away.
#[derive(Debug, Default)]
pub(super) struct TurnedAway(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    full: u64,
    share: u64,
    penalized: u64,
    told: Option<Instant>,
}

impl TurnedAway {
    /// Tells the peer, as far as that takes no waiting.
    pub(super) fn tell(&self, stream: &TcpStream, source: SocketAddr, refusal: Refusal) {
        let _ = stream.try_write(refusal.line());
        self.count(source, refusal);
    }

    pub(super) fn count(&self, source: SocketAddr, refusal: Refusal) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match refusal {
            Refusal::Full => counts.full += 1,
            Refusal::Share => counts.share += 1,
            Refusal::Penalized => counts.penalized += 1,
        }
        let now = Instant::now();
        if counts.told.is_some_and(|told| now < told + TELL) {
            return;
        }
        counts.told = Some(now);
        let Counts { full, share, penalized, .. } = *counts;
        tracing::info!(%source, ?refusal, full, share, penalized, "turned away; the numbers are of all since the start");
    }
}
