mod account;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::SystemTime;

use super::{FleetId, Grant, GrantRule, InstanceId, Invalid, Operator, OperatorName, OperatorPattern, Target, TargetName};

/// Who may reach what: grants only, so what no rule grants is denied.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    groups: BTreeMap<String, BTreeSet<OperatorName>>,
    rules: Vec<GrantRule>,
    administrators: Vec<OperatorPattern>,
}

impl Policy {
    /// Refuses a rule that names a group that is not there: it would grant nothing and say nothing.
    pub fn new(groups: BTreeMap<String, BTreeSet<OperatorName>>, rules: Vec<GrantRule>) -> Result<Self, Invalid> {
        for pattern in rules.iter().flat_map(|rule| &rule.operators) {
            if let OperatorPattern::Group(group) = pattern
                && !groups.contains_key(group)
            {
                let known: Vec<_> = groups.keys().map(String::as_str).collect();
                return Err(Invalid(format!("@{group} is no group: operators.groups has [{}]", known.join(", "))));
            }
        }
        Ok(Self { groups, rules, administrators: Vec::new() })
    }

    fn rules_for<'a>(&'a self, operator: &'a OperatorName) -> impl Iterator<Item = &'a GrantRule> {
        self.rules.iter().filter(move |rule| rule.operators.iter().any(|pattern| self.means(pattern, operator)))
    }

    /// Whether some grant that counts now could match the name in some fleet. When not, nothing is asked of the cloud API.
    pub fn could_reach(&self, operator: &Operator, name: &TargetName, at: SystemTime) -> Result<(), Denied> {
        self.counting(operator, name.fleet.as_ref(), &name.instance, at).map(drop)
    }

    /// The same, for a port of the target beside its SSH.
    pub fn could_reach_port(&self, operator: &Operator, name: &TargetName, port: u16, at: SystemTime) -> Result<(), Denied> {
        let rules = self.counting(operator, name.fleet.as_ref(), &name.instance, at)?;
        let has_port = |rule: &&GrantRule| rule.is_open(at) && rule.ports.contains(port);
        match !operator.restrictions.no_port_forwarding && rules.iter().any(has_port) {
            true => Ok(()),
            false => Err(Denied::Port(port)),
        }
    }

    /// The decision: what all matching grants that count at `at` give, together, less what the operator's own key restricts.
    ///
    /// What grants give adds up: capabilities, destinations, ports. What they demand must all be met: the strictest recording, the shortest
    /// session.
    pub fn decide(&self, operator: &Operator, target: &Target, at: SystemTime) -> Result<Grant, Denied> {
        let rules = self.counting(operator, Some(&target.fleet), &target.instance, at)?;
        Ok(Grant::new(operator, target, &rules, at))
    }

    /// The rules for this operator, target and address, whatever the time, if some of them count at `at`.
    fn counting<'a>(
        &'a self,
        operator: &'a Operator,
        fleet: Option<&FleetId>,
        instance: &InstanceId,
        at: SystemTime,
    ) -> Result<Vec<&'a GrantRule>, Denied> {
        let matches = |rule: &&GrantRule| rule.targets.iter().any(|pattern| pattern.matches(fleet, instance));
        let mut rules: Vec<_> = self.rules_for(&operator.name).filter(matches).collect();
        if rules.is_empty() {
            return Err(Denied::NoGrant);
        }
        rules.retain(|rule| rule.admits(operator.source.ip()));
        if rules.is_empty() {
            return Err(Denied::OtherSource);
        }
        match rules.iter().any(|rule| rule.is_open(at)) {
            true => Ok(rules),
            false => Err(Denied::OutsideHours),
        }
    }
}

/// Why policy says no: for the audit alone. To the operator all of them read the same, as does a target that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    NoGrant,
    /// There are grants, but for other addresses.
    OtherSource,
    OutsideHours,
    /// There is a grant, but not for this port.
    Port(u16),
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoGrant => f.write_str("no grant matches"),
            Self::OtherSource => f.write_str("its grants are for other addresses"),
            Self::OutsideHours => f.write_str("outside its hours"),
            Self::Port(port) => write!(f, "no grant allows port {port}"),
        }
    }
}

impl std::error::Error for Denied {}

#[cfg(test)]
mod tests;
