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
    /// Startups by /32 or /64.
    sources: Arc<Tally<IpAddr>>,
    /// Startups by /24 or /48.
    netblocks: Arc<Tally<IpAddr>>,
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
            netblocks: Tally::new(),
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
        let source_permit = self.sources.take(masked(source, 32, 64), self.limits.startups_per_source)?;
        let netblock_permit = self.netblocks.take(masked(source, 24, 48), self.limits.startups_per_netblock)?;
        Some((entry.connection, StartupPermit { _startup: entry.startup, _source: source_permit, _netblock: netblock_permit }))
    }

    /// Resolves when no connection is left.
    pub(super) async fn empty(&self) {
        let all = u32::try_from(self.limits.connections.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let _ = self.connections.acquire_many(all).await;
    }
}

/// The address with only its first bits left. An IPv4 address in IPv6 clothes counts as what it is.
fn masked(source: IpAddr, v4_bits: u32, v6_bits: u32) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V4(address) => Ipv4Addr::from(address.to_bits() & u32::MAX.checked_shl(32 - v4_bits).unwrap_or(0)).into(),
        IpAddr::V6(address) => Ipv6Addr::from(address.to_bits() & u128::MAX.checked_shl(128 - v6_bits).unwrap_or(0)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        connections: 6,
        startups: 5,
        startups_per_source: 2,
        startups_per_netblock: 3,
        attempts: 6,
        sessions: 1,
        sessions_per_operator: 1,
        sessions_per_connection: 1,
        pipe: 1,
    };

    #[tokio::test]
    async fn startups_are_bounded_by_source_and_netblock_and_come_back() {
        let admission = Admission::new(LIMITS);
        let admit = async |source: &str| {
            let entry = admission.entry().await.unwrap();
            admission.admit(entry, source.parse().unwrap())
        };
        let mut held = vec![admit("192.0.2.1").await.unwrap(), admit("::ffff:192.0.2.1").await.unwrap()];
        assert!(admit("192.0.2.1").await.is_none());
        held.push(admit("192.0.2.2").await.unwrap());
        assert!(admit("192.0.2.3").await.is_none());
        held.push(admit("2001:db8::1").await.unwrap());
        held.push(admit("2001:db8::ffff").await.unwrap());
        // Five startups are out: the sixth waits until one is given back by authentication.
        tokio::time::timeout(std::time::Duration::from_millis(20), admission.entry()).await.unwrap_err();
        let (connection, startup) = held.pop().unwrap();
        drop(startup);
        assert!(admit("2001:db8:0:1::1").await.is_some());
        assert!(admit("2001:db8::2").await.is_some());
        drop((connection, held));
        admission.empty().await;
    }
}
