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
        let source = source.to_canonical();
        let source_permit = self.sources.take(masked(source, 32, 64), self.limits.startups_per_source)?;
        let netblock_permit = self.netblocks.take(masked(source, 24, 48), self.limits.startups_per_netblock)?;
        Some((entry.connection, StartupPermit { _startup: entry.startup, _source: source_permit, _netblock: netblock_permit }))
    }
}

/// The network of an address, by the length of its prefix.
fn masked(address: IpAddr, v4: u32, v6: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => Ipv4Addr::from(u32::from(address) & u32::MAX.checked_shl(32 - v4).unwrap_or(u32::MAX)).into(),
        IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & u128::MAX.checked_shl(128 - v6).unwrap_or(u128::MAX)).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            connections: 10,
            startups: 8,
            startups_per_source: 2,
            startups_per_netblock: 3,
            attempts: 6,
            sessions: 1,
            sessions_per_operator: 1,
            sessions_per_connection: 1,
            pipe: 1,
        }
    }

    #[tokio::test]
    async fn a_source_and_its_netblock_have_their_shares_and_others_theirs() {
        let admission = Admission::new(limits());
        let mut held = Vec::new();
        let mut admit = async |address: &str| {
            let entry = admission.entry().await.unwrap();
            let permits = admission.admit(entry, address.parse().unwrap());
            let admitted = permits.is_some();
            held.extend(permits);
            admitted
        };
        assert!(admit("192.0.2.1").await && admit("::ffff:192.0.2.1").await && !admit("192.0.2.1").await);
        assert!(admit("192.0.2.2").await && !admit("192.0.2.3").await, "three of 192.0.2.0/24");
        assert!(admit("192.0.3.1").await);
        assert!(admit("2001:db8:0:1::1").await && admit("2001:db8:0:1::2").await && !admit("2001:db8:0:1::3").await, "two of a /64");
        assert!(admit("2001:db8:0:2::1").await && !admit("2001:db8:0:3::1").await, "three of a /48");
        held.clear();
        assert!(admission.admit(admission.entry().await.unwrap(), "192.0.2.1".parse().unwrap()).is_some());
    }
}
