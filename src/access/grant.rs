use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::rule::is_open;
use super::{Capabilities, Capability, Destination, GrantRule, Hours, Operator, Ports, Recording, Restrictions, Target};

/// The smallest step of a schedule.
const MINUTE: Duration = Duration::from_secs(60);

/// What rules give, together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Terms {
    allow: Capabilities,
    forward_to: Destinations,
    ports: Ports,
}

/// Where `forward-local` may go.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Destinations {
    Anywhere,
    Only(Vec<Destination>),
}

impl Default for Destinations {
    fn default() -> Self {
        Self::Only(Vec::new())
    }
}

impl Terms {
    pub(super) fn of(rule: &GrantRule) -> Self {
        // A rule without the capability says nothing of where it may go.
        let forward_to = match (&rule.forward_to, rule.allow.contains(Capability::ForwardLocal)) {
            (_, false) => Destinations::default(),
            (None, true) => Destinations::Anywhere,
            (Some(list), true) => Destinations::Only(list.clone()),
        };
        Self { allow: rule.allow, forward_to, ports: rule.ports.clone() }
    }

    pub(super) fn union(mut self, other: &Self) -> Self {
        self.allow = self.allow.union(other.allow);
        self.ports = self.ports.union(&other.ports);
        self.forward_to = match (self.forward_to, &other.forward_to) {
            (Destinations::Anywhere, _) | (_, Destinations::Anywhere) => Destinations::Anywhere,
            (Destinations::Only(mut all), Destinations::Only(more)) => {
                all.extend(more.iter().cloned());
                Destinations::Only(all)
            }
        };
        self
    }

    fn includes(&self, other: &Self) -> bool {
        let goes_there = match (&self.forward_to, &other.forward_to) {
            (Destinations::Anywhere, _) => true,
            (Destinations::Only(_), Destinations::Anywhere) => false,
            (Destinations::Only(all), Destinations::Only(some)) => some.iter().all(|destination| all.contains(destination)),
        };
        goes_there && self.allow.union(other.allow) == self.allow && self.ports.includes(&other.ports)
    }

    /// Less what the operator's own key restricts.
    fn restricted(mut self, restrictions: Restrictions) -> Self {
        if restrictions.no_port_forwarding {
            self.allow = self.allow.without(Capability::ForwardLocal).without(Capability::ForwardRemote);
            self.forward_to = Destinations::default();
            self.ports = Ports::default();
        }
        if restrictions.no_agent_forwarding {
            self.allow = self.allow.without(Capability::Agent);
        }
        if restrictions.no_x11_forwarding {
            self.allow = self.allow.without(Capability::X11);
        }
        self
    }
}

/// Proof that the policy said yes to this operator on this target.
///
/// **Invariant**: only [`super::Policy::decide`] makes one, and leasing and connecting take one.
#[derive(Debug, Clone)]
pub struct Grant {
    operator: Operator,
    target: Target,
    terms: Terms,
    pty: bool,
    max_session: Option<Duration>,
    recording: Recording,
    /// When each rule for this operator on this target from this address counts, and what it gives; empty when they all count always.
    timed: Arc<[(Vec<Hours>, Terms)]>,
}

impl Grant {
    /// `rules` are those for this operator, target and address, whatever the time; some count at `at`.
    pub(super) fn new(operator: &Operator, target: &Target, rules: &[&GrantRule], at: SystemTime) -> Self {
        let open: Vec<_> = rules.iter().filter(|rule| rule.is_open(at)).collect();
        let terms = open.iter().fold(Terms::default(), |all, rule| all.union(&Terms::of(rule)));
        let is_timed = rules.iter().any(|rule| !rule.hours.is_empty());
        let timed = rules.iter().filter(|_| is_timed).map(|rule| (rule.hours.clone(), Terms::of(rule))).collect();
        Self {
            operator: operator.clone(),
            target: target.clone(),
            terms: terms.restricted(operator.restrictions),
            pty: !operator.restrictions.no_pty,
            max_session: open.iter().filter_map(|rule| rule.max_session).min(),
            recording: open.iter().fold(Recording::default(), |all, rule| all.strictest(rule.recording)),
            timed,
        }
    }

    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub fn allows(&self, capability: Capability) -> bool {
        self.terms.allow.contains(capability)
    }

    /// All that it allows.
    pub fn capabilities(&self) -> Capabilities {
        self.terms.allow
    }

    pub fn allows_pty(&self) -> bool {
        self.pty
    }

    /// Whether a local forward may go to this host and port, both as the operator gave them.
    pub fn allows_destination(&self, host: &str, port: u32) -> bool {
        self.allows_some(|destination| destination.covers(host, port))
    }

    /// Whether a local forward may go to this socket.
    pub fn allows_path(&self, path: &str) -> bool {
        self.allows_some(|destination| destination.covers_path(path))
    }

    fn allows_some(&self, covers: impl Fn(&Destination) -> bool) -> bool {
        match &self.terms.forward_to {
            Destinations::Anywhere => true,
            Destinations::Only(list) => list.iter().any(covers),
        }
    }

    /// The target's ports, beside its SSH, that may be reached as raw TCP.
    pub fn ports(&self) -> &Ports {
        &self.terms.ports
    }

    /// One of them.
    pub fn port(&self, port: u16) -> Option<GrantedPort> {
        self.terms.ports.contains(port).then_some(GrantedPort(port))
    }

    pub fn recording(&self) -> Recording {
        self.recording
    }

    /// How long a session may last.
    pub fn max_session(&self) -> Option<Duration> {
        self.max_session
    }

    /// Whether the passing of time can end it.
    pub fn has_hours(&self) -> bool {
        !self.timed.is_empty()
    }

    /// Whether the rules that count at `at` still give all that this grant gives.
    pub fn holds(&self, at: SystemTime) -> bool {
        if self.timed.is_empty() {
            return true;
        }
        let open = self.timed.iter().filter(|(hours, _)| is_open(hours, at));
        let given = open.fold(Terms::default(), |all, (_, terms)| all.union(terms));
        given.restricted(self.operator.restrictions).includes(&self.terms)
    }

    /// How long it still holds, when that is less than `horizon`. Local clocks are asked minute by minute, so a change to or from summer
    /// time in between counts.
    pub fn ends_within(&self, at: SystemTime, horizon: Duration) -> Option<Duration> {
        if !self.holds(at) {
            return Some(Duration::ZERO);
        }
        if self.timed.is_empty() {
            return None;
        }
        let since_epoch = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let into_minute = Duration::from_secs(since_epoch.as_secs() % 60) + Duration::from_nanos(since_epoch.subsec_nanos().into());
        let mut ahead = MINUTE.saturating_sub(into_minute);
        while ahead < horizon {
            if !self.holds(at + ahead) {
                return Some(ahead);
            }
            ahead += MINUTE;
        }
        None
    }
}

/// Proof that a grant has this port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantedPort(u16);

impl GrantedPort {
    pub fn number(self) -> u16 {
        self.0
    }
}
