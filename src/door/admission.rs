use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use super::tally::{Tally, TallyPermit};

/// Who may come in before anybody has proven anything.
///
/// **Invariant**: an accepted socket stands on a [`ConnectionPermit`] and, until its operator is proven, on a [`StartupPermit`].
#[derive(Debug)]
pub(super) struct Admission {
    limits: Limits,
    connections: Arc<Semaphore>,
    startups: Arc<Semaphore>,
    sources: Arc<Tally<IpAddr>>,
}

/// One connection, authenticated or not.
#[derive(Debug)]
pub(super) struct ConnectionPermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// One connection that has not authenticated yet.
#[derive(Debug)]
pub(super) struct StartupPermit {
    _startup: OwnedSemaphorePermit,
    _source: TallyPermit<IpAddr>,
    _netblock: TallyPermit<IpAddr>,
}

/// Both slots that an accept needs, taken before it.
#[derive(Debug)]
pub(super) struct Entry {
    connection: ConnectionPermit,
    startup: OwnedSemaphorePermit,
}

impl Admission {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            connections: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
            startups: Arc::new(Semaphore::new(limits.startups.min(Semaphore::MAX_PERMITS))),
            sources: Tally::new(),
        }
    }

    /// Waits for room. What waits meanwhile does so in the kernel's backlog. `None` once the semaphores are closed, which nobody does.
    pub(super) async fn entry(&self) -> Option<Entry> {
        let connection = ConnectionPermit(self.connections.clone().acquire_owned().await.ok()?);
        let startup = self.startups.clone().acquire_owned().await.ok()?;
        Some(Entry { connection, startup })
    }

    /// Whether this source may have one more connection that has not authenticated.
    pub(super) fn admit(&self, entry: Entry, source: IpAddr) -> Option<(ConnectionPermit, StartupPermit)> {
        // The unmasked and the masked addresses of IPv6 differ only by their prefix, which no two keys of one tally share: a /64 is never
        // all of its /48 unless it is the first, and then the larger count is the right one for both only with the larger limit.
        let source_permit = self.sources.take(masked(source, 32, 64), self.limits.startups_per_source)?;
        let netblock_permit = self.sources.take(netblock_key(source), self.limits.startups_per_netblock)?;
        Some((entry.connection, StartupPermit { _startup: entry.startup, _source: source_permit, _netblock: netblock_permit }))
    }
}
