use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::recent::Recent;
use super::tally::{Tally, TallyPermit};
use super::{Limits, netblock};

/// Descriptors that are not for connections and sessions: the listeners, the cloud API, key files, the audit, pins.
const OWN_DESCRIPTORS: usize = 64;

/// Who may come in before anybody has proven anything.
///
/// **Invariant**: a socket is accepted on a [`ConnectionPermit`] and, until its operator is proven, stands on a [`StartupPermit`] too.
#[derive(Debug)]
pub(super) struct Admission {
    limits: Limits,
    connections: Arc<Semaphore>,
    startups: Arc<Tally<Standing>>,
    recent: Arc<Recent>,
    sources: Arc<Tally<IpAddr>>,
    netblocks: Arc<Tally<IpAddr>>,
}

/// As what a source comes: each has places of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Standing {
    /// An operator was proven from there lately.
    Known,
    Unknown,
}

/// One connection, authenticated or not.
#[derive(Debug)]
pub(super) struct ConnectionPermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

/// One connection that has not authenticated yet, wherever it comes from.
#[derive(Debug)]
pub(super) struct StartupSlot(#[expect(dead_code, reason = "held for its drop")] TallyPermit<Standing>);

/// The same, its source counted.
#[derive(Debug)]
pub(super) struct StartupPermit {
    address: IpAddr,
    recent: Arc<Recent>,
    _startup: StartupSlot,
    _source: TallyPermit<IpAddr>,
    _netblock: TallyPermit<IpAddr>,
}

impl StartupPermit {
    /// An operator is proven: the source is known from now on, and the place is free.
    pub(super) fn proven(self) {
        self.recent.add(self.address, Instant::now());
    }
}

impl Admission {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            connections: Arc::new(Semaphore::new(limits.connections.min(Semaphore::MAX_PERMITS))),
            startups: Tally::new(),
            recent: Arc::default(),
            sources: Tally::new(),
            netblocks: Tally::new(),
        }
    }

    /// Waits for room. What waits meanwhile does so in the kernel's backlog. `None` once the semaphore is closed, which nobody does.
    pub(super) async fn connection(&self) -> Option<ConnectionPermit> {
        Some(ConnectionPermit(self.connections.clone().acquire_owned().await.ok()?))
    }

    /// Random early drop, as `MaxStartups start:rate:full` of sshd_config(5): a flood that fills the places does not keep everybody else
    /// out. Sources known from before do not compete with it at all. `draw` is a random number below 100.
    pub(super) fn startup(&self, address: IpAddr, draw: usize) -> Option<StartupSlot> {
        let Limits { startups: full, startups_drop_from: start, startups_drop_percent: rate, .. } = self.limits;
        if self.recent.knows(address, Instant::now()) {
            return self.startups.take(Standing::Known, full).map(StartupSlot);
        }
        let permit = self.startups.take(Standing::Unknown, full)?;
        let held = self.startups.held(&Standing::Unknown) - 1;
        let refused = match held.checked_sub(start) {
            None => 0,
            Some(above) => rate + (100_usize.saturating_sub(rate)) * above / full.saturating_sub(start).max(1),
        };
        (draw >= refused).then_some(StartupSlot(permit))
    }

    /// Whether this source may have one more connection that has not authenticated.
    pub(super) fn charge_source(&self, startup: StartupSlot, address: IpAddr) -> Option<StartupPermit> {
        let source = self.sources.take(netblock::source(address), self.limits.startups_per_source)?;
        let netblock = self.netblocks.take(netblock::netblock(address), self.limits.startups_per_netblock)?;
        Some(StartupPermit { address, recent: self.recent.clone(), _startup: startup, _source: source, _netblock: netblock })
    }
}

impl Limits {
    /// What can be kept with this many descriptors: half of them for connections, half for the sessions' upstream legs, and the
    /// proportions of who may hold how many before authentication as they are.
    pub(super) fn fitted_to(self, descriptors: u64) -> Self {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let room = (descriptors.saturating_sub(OWN_DESCRIPTORS) / 2).max(8);
        let connections = self.connections.min(room);
        let startups = self.startups.min((connections / 2).max(1));
        let share = |of: usize| match startups < self.startups {
            true => (of.min(self.startups) * startups / self.startups.max(1)).max(1),
            false => of,
        };
        Self {
            connections,
            startups,
            startups_drop_from: share(self.startups_drop_from),
            startups_per_source: share(self.startups_per_source),
            startups_per_netblock: share(self.startups_per_netblock),
            sessions: self.sessions.min(room),
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            connections: 10,
            startups: 8,
            startups_drop_from: 8,
            startups_drop_percent: 30,
            startups_per_source: 2,
            startups_per_netblock: 3,
            attempts: 6,
            sessions: 1,
            sessions_per_operator: 1,
            sessions_per_connection: 1,
            pipe: 1,
        }
    }

    #[test]
    fn a_source_and_its_netblock_have_their_shares_and_others_theirs() {
        let admission = Admission::new(limits());
        let mut held = Vec::new();
        let mut admit = |address: &str| {
            let address = address.parse().unwrap();
            let permit = admission.charge_source(admission.startup(address, 0).unwrap(), address);
            let admitted = permit.is_some();
            held.extend(permit);
            admitted
        };
        assert!(admit("192.0.2.1") && admit("::ffff:192.0.2.1") && !admit("192.0.2.1"));
        assert!(admit("192.0.2.2") && !admit("192.0.2.3"), "three of 192.0.2.0/24");
        assert!(admit("192.0.3.1"));
        assert!(admit("2001:db8:0:1::1") && admit("2001:db8:0:1::2") && !admit("2001:db8:0:1::3"), "two of a /64");
        assert!(admit("2001:db8:0:2::1") && !admit("2001:db8:0:3::1"), "three of a /48");
        held.clear();
        let address = "192.0.2.1".parse().unwrap();
        assert!(admission.charge_source(admission.startup(address, 0).unwrap(), address).is_some());
    }

    #[test]
    fn the_fuller_it_is_the_more_are_dropped_and_none_is_let_in_beyond_full() {
        let limits = Limits { startups: 100, startups_drop_from: 20, startups_drop_percent: 30, ..limits() };
        let admission = Admission::new(limits);
        let (stranger, known) = ("192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap());
        admission.charge_source(admission.startup(known, 0).unwrap(), known).unwrap().proven();
        let let_in = |admission: &Admission| (0..100).filter(|draw| admission.startup(stranger, *draw).is_some()).count();
        let mut held: Vec<_> = Vec::new();
        let mut seen = Vec::new();
        for fill in [0, 19, 20, 60, 99, 100] {
            held.extend((held.len()..fill).map(|_| admission.startup(stranger, 99).unwrap()));
            assert!(admission.startup(known, 0).is_some(), "a known source has places of its own");
            seen.push(let_in(&admission));
        }
        assert_eq!(seen, [100, 100, 70, 35, 1, 0]);
        held.clear();
        assert_eq!(let_in(&admission), 100);
    }

    #[test]
    fn few_descriptors_make_all_limits_smaller_in_proportion() {
        let limits = Limits {
            connections: 10_000,
            startups: 500,
            startups_drop_from: 250,
            startups_per_source: 100,
            startups_per_netblock: 200,
            sessions: 5000,
            ..limits()
        };
        assert_eq!(limits.fitted_to(1 << 20), limits);
        let small = limits.fitted_to(200);
        assert_eq!((small.connections, small.sessions, small.startups), (68, 68, 34));
        assert_eq!((small.startups_drop_from, small.startups_per_source, small.startups_per_netblock), (17, 6, 13));
        let none = limits.fitted_to(0);
        assert!(none.connections >= 1 && none.startups >= 1 && none.startups_per_source >= 1 && none.startups_drop_from >= 1);
    }
}
