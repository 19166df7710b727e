use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;
use tokio::time::Instant;

use super::netblock;

/// Settings of `[penalties]`. What they mean is what `PerSourcePenalties` means to OpenSSH (sshd_config(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PenaltyRules {
    pub crash: Duration,
    pub flood: Duration,
    pub auth_failed: Duration,
    pub no_auth: Duration,
    pub grace_exceeded: Duration,
    /// A source is refused from the moment that this much has come together until all of it is over.
    pub min: Duration,
    /// No source has more ahead of it than this.
    pub max: Duration,
    /// Sources remembered; the one that is over first makes room.
    pub sources: usize,
    pub exempt: Vec<IpNet>,
}

/// How a connection ended that proved nobody. Each connection has one, whatever number of keys it offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offence {
    /// Something of ours panicked over it.
    Crash,
    /// It sent more than any login takes.
    Flood,
    AuthFailed,
    /// It left without trying.
    NoAuth,
    GraceExceeded,
}

impl Offence {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Flood => "flood",
            Self::AuthFailed => "auth-failed",
            Self::NoAuth => "no-auth",
            Self::GraceExceeded => "grace-exceeded",
        }
    }
}

/// Who is refused for a while for what came from there (an IPv4 address, an IPv6 /64).
///
/// **Invariant**: at most [`PenaltyRules::sources`] are remembered, and none beyond its end once another is added.
#[derive(Debug)]
pub(super) struct Penalties {
    rules: PenaltyRules,
    sources: Mutex<Sources>,
}

#[derive(Debug, Default)]
struct Sources {
    by_source: HashMap<IpAddr, Penalty>,
    by_end: BTreeSet<(Instant, IpAddr)>,
}

#[derive(Debug, Clone, Copy)]
struct Penalty {
    ends: Instant,
    /// Once it has reached the minimum it holds to its end.
    enforced: bool,
}

impl Penalties {
    pub(super) fn new(rules: PenaltyRules) -> Self {
        Self { rules, sources: Mutex::default() }
    }

    /// Whether a connection from there is refused.
    pub(super) fn refuses(&self, address: IpAddr, now: Instant) -> bool {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.by_source.get(&netblock::source(address)).is_some_and(|penalty| penalty.enforced && now < penalty.ends)
    }

    /// Adds what an offence costs. When that begins a refusal, for how long.
    pub(super) fn add(&self, address: IpAddr, offence: Offence, now: Instant) -> Option<Duration> {
        let cost = match offence {
            Offence::Crash => self.rules.crash,
            Offence::Flood => self.rules.flood,
            Offence::AuthFailed => self.rules.auth_failed,
            Offence::NoAuth => self.rules.no_auth,
            Offence::GraceExceeded => self.rules.grace_exceeded,
        };
        let address = address.to_canonical();
        if cost.is_zero() || self.rules.exempt.iter().any(|network| network.contains(&address)) {
            return None;
        }
        let source = netblock::source(address);
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.forget_past(now);
        let before = sources.take(source);
        let ends = (before.map_or(now, |penalty| penalty.ends) + cost).min(now + self.rules.max);
        let ahead = ends.duration_since(now);
        let was_enforced = before.is_some_and(|penalty| penalty.enforced);
        let enforced = was_enforced || ahead >= self.rules.min;
        sources.make_room(self.rules.sources);
        sources.put(source, Penalty { ends, enforced });
        (enforced && !was_enforced).then_some(ahead)
    }
}

impl Sources {
    fn forget_past(&mut self, now: Instant) {
        while let Some((ends, source)) = self.by_end.first().copied()
            && ends <= now
        {
            self.by_end.remove(&(ends, source));
            self.by_source.remove(&source);
        }
    }

    fn make_room(&mut self, most: usize) {
        while self.by_source.len() >= most.max(1)
            && let Some((_, source)) = self.by_end.pop_first()
        {
            self.by_source.remove(&source);
        }
    }

    fn take(&mut self, source: IpAddr) -> Option<Penalty> {
        let penalty = self.by_source.remove(&source)?;
        self.by_end.remove(&(penalty.ends, source));
        Some(penalty)
    }

    fn put(&mut self, source: IpAddr, penalty: Penalty) {
        self.by_source.insert(source, penalty);
        self.by_end.insert((penalty.ends, source));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn penalties() -> Penalties {
        Penalties::new(PenaltyRules {
            crash: 90 * SECOND,
            flood: 30 * SECOND,
            auth_failed: 5 * SECOND,
            no_auth: SECOND,
            grace_exceeded: 10 * SECOND,
            min: 15 * SECOND,
            max: 600 * SECOND,
            sources: 4,
            exempt: vec!["198.51.100.0/24".parse().unwrap(), "2001:db8:ff::/48".parse().unwrap()],
        })
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn offences_add_up_until_they_count_and_then_hold_to_their_end() {
        let (penalties, source, start) = (penalties(), ip("192.0.2.1"), Instant::now());
        assert_eq!(penalties.add(source, Offence::AuthFailed, start), None);
        assert_eq!(penalties.add(source, Offence::AuthFailed, start), None);
        assert!(!penalties.refuses(source, start), "ten seconds are below the minimum");
        assert_eq!(penalties.add(source, Offence::AuthFailed, start), Some(15 * SECOND));
        assert!(penalties.refuses(source, start) && penalties.refuses(source, start + 14 * SECOND));
        assert!(!penalties.refuses(ip("192.0.2.2"), start));
        assert_eq!(penalties.add(source, Offence::NoAuth, start + 14 * SECOND), None, "it is refused already");
        assert!(penalties.refuses(source, start + 15 * SECOND));
        assert!(!penalties.refuses(source, start + 16 * SECOND));
        assert_eq!(penalties.add(source, Offence::AuthFailed, start + 16 * SECOND), None, "a new count begins");
        assert!(!penalties.refuses(source, start + 16 * SECOND));
    }

    #[test]
    fn what_comes_slowly_never_counts_and_a_crash_counts_at_once() {
        let (penalties, source, start) = (penalties(), ip("192.0.2.1"), Instant::now());
        for minute in 0..100 {
            assert_eq!(penalties.add(source, Offence::AuthFailed, start + minute * 60 * SECOND), None);
        }
        let now = start + 100 * 60 * SECOND;
        assert_eq!(penalties.add(source, Offence::Crash, now), Some(90 * SECOND));
        for _ in 0..100 {
            penalties.add(source, Offence::Crash, now);
        }
        assert!(penalties.refuses(source, now + 599 * SECOND) && !penalties.refuses(source, now + 600 * SECOND), "ten minutes at most");
    }

    #[test]
    fn a_64_is_one_source_and_the_exempt_have_none() {
        let (penalties, now) = (penalties(), Instant::now());
        penalties.add(ip("2001:db8::1"), Offence::GraceExceeded, now);
        assert!(penalties.add(ip("2001:db8::2"), Offence::GraceExceeded, now).is_some());
        assert!(penalties.refuses(ip("2001:db8::3"), now) && !penalties.refuses(ip("2001:db8:0:1::3"), now));
        penalties.add(ip("::ffff:192.0.2.1"), Offence::Crash, now);
        assert!(penalties.refuses(ip("192.0.2.1"), now));
        for exempt in ["198.51.100.7", "::ffff:198.51.100.7", "2001:db8:ff::1"] {
            assert_eq!(penalties.add(ip(exempt), Offence::Crash, now), None);
            assert!(!penalties.refuses(ip(exempt), now));
        }
        let off = Penalties::new(PenaltyRules { crash: Duration::ZERO, ..penalties.rules });
        assert_eq!(off.add(ip("192.0.2.1"), Offence::Crash, now), None);
    }

    #[test]
    fn the_table_is_bounded_and_who_is_over_first_makes_room() {
        let (penalties, start) = (penalties(), Instant::now());
        for host in 0..100u8 {
            let now = start + u32::from(host) * Duration::from_millis(1);
            penalties.add(IpAddr::from([192, 0, 2, host]), Offence::Crash, now);
        }
        let sources = penalties.sources.lock().unwrap();
        assert_eq!((sources.by_source.len(), sources.by_end.len()), (4, 4));
        drop(sources);
        let refused = (0..100u8).filter(|host| penalties.refuses(IpAddr::from([192, 0, 2, *host]), start + SECOND));
        assert_eq!(refused.collect::<Vec<_>>(), [96, 97, 98, 99]);
        // What is over is forgotten with the next one.
        penalties.add(ip("192.0.2.200"), Offence::NoAuth, start + 200 * SECOND);
        assert_eq!(penalties.sources.lock().unwrap().by_source.len(), 1);
    }
}
