use std::fmt;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::{
    Capabilities, Denied, Destination, FleetId, Glob, Hours, InstanceId, Invalid, Network, OperatorName, Ports, Recording, Target,
    TargetName,
};

/// Whom a grant is for: a name, `@group`, or `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OperatorPattern {
    Anyone,
    Group(String),
    Name(OperatorName),
}

impl OperatorPattern {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match text.strip_prefix('@') {
            _ if text == "*" => Ok(Self::Anyone),
            Some(group) if !group.is_empty() => Ok(Self::Group(group.to_owned())),
            Some(_) => Err(Invalid("\"@\" names no group: write @ and the group's name".to_owned())),
            None => OperatorName::parse(text).map(Self::Name),
        }
    }
}

/// What a grant is for: `fleet/instance` globs; a bare instance glob means any fleet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetPattern {
    fleet: Glob,
    instance: Glob,
}

impl TargetPattern {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let (fleet, instance) = text.split_once('/').unwrap_or((Glob::ANY, text));
        Ok(Self { fleet: Glob::parse(fleet)?, instance: Glob::parse(instance)? })
    }

    pub(super) fn matches(&self, fleet: Option<&FleetId>, instance: &InstanceId) -> bool {
        self.instance.matches(instance.as_str()) && fleet.is_none_or(|fleet| self.fleet.matches(fleet.as_str()))
    }

    pub(super) fn is_for_fleet(&self, fleet: &FleetId) -> bool {
        self.fleet.matches(fleet.as_str())
    }

    pub fn takes(&self, target: &Target) -> bool {
        self.matches(Some(&target.fleet), &target.instance)
    }
}

/// As it is written in the configuration; any fleet is left out.
impl fmt::Display for TargetPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fleet.as_str() {
            Glob::ANY => f.write_str(self.instance.as_str()),
            fleet => write!(f, "{fleet}/{}", self.instance.as_str()),
        }
    }
}

/// One `[[grants]]` table: for whom and for what, when it counts (`hours`, `from`), what it gives (`allow`, `forward_to`, `ports`) and what it
/// demands (`max_session`, `recording`).
#[derive(Debug, Clone)]
pub struct GrantRule {
    pub operators: Vec<OperatorPattern>,
    pub targets: Vec<TargetPattern>,
    pub allow: Capabilities,
    /// Where `forward-local` may go; `None` is anywhere.
    pub forward_to: Option<Vec<Destination>>,
    /// Ports of the target, beside its SSH, that may be reached as raw TCP.
    pub ports: Ports,
    /// Empty: at any time. Else within any of them.
    pub hours: Vec<Hours>,
    /// Empty: from anywhere.
    pub from: Vec<Network>,
    pub max_session: Option<Duration>,
    pub recording: Recording,
}

impl GrantRule {
    /// Whether it could match the name in some fleet.
    pub fn could_match(&self, name: &TargetName) -> bool {
        self.targets.iter().any(|pattern| pattern.matches(name.fleet.as_ref(), &name.instance))
    }

    /// Why it does not count for who comes from there at `at`.
    pub fn counts(&self, source: IpAddr, at: SystemTime) -> Result<(), Denied> {
        match (self.admits(source), self.is_open(at)) {
            (false, _) => Err(Denied::OtherSource),
            (true, false) => Err(Denied::OutsideHours),
            (true, true) => Ok(()),
        }
    }

    /// A rule that counts always and demands nothing.
    pub fn new(operators: Vec<OperatorPattern>, targets: Vec<TargetPattern>, allow: Capabilities) -> Self {
        Self {
            operators,
            targets,
            allow,
            forward_to: None,
            ports: Ports::default(),
            hours: Vec::new(),
            from: Vec::new(),
            max_session: None,
            recording: Recording::default(),
        }
    }

    pub(super) fn is_open(&self, at: SystemTime) -> bool {
        is_open(&self.hours, at)
    }

    pub(super) fn admits(&self, source: IpAddr) -> bool {
        self.from.is_empty() || self.from.iter().any(|network| network.contains(source))
    }
}

pub(super) fn is_open(hours: &[Hours], at: SystemTime) -> bool {
    hours.is_empty() || hours.iter().any(|hours| hours.cover(at))
}
