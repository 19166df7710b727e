use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What the process is told by signals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Upgrade,
}

pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user2: Signal,
}

impl Signals {
    /// From here on none of them ends the process.
    pub(super) fn catch() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    pub(super) async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.terminate.recv() => Order::Stop,
            _ = self.interrupt.recv() => Order::Stop,
            _ = self.hang_up.recv() => Order::Reload,
            _ = self.user2.recv() => Order::Upgrade,
        }
    }

    /// The next order to stop; what else comes meanwhile is too late.
    pub(super) async fn stop(&mut self) {
        loop {
            match self.next().await {
                Order::Stop => return,
                order => tracing::warn!(?order, "ignored: this process is ending"),
            }
        }
    }
}
