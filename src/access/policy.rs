mod account;

use std::collections::{BTreeMap, BTreeSet};

use super::{Capabilities, Capability, FleetId, Glob, InstanceId, Invalid, Operator, OperatorName, Target, TargetName};

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

    fn matches(&self, fleet: Option<&FleetId>, instance: &InstanceId) -> bool {
        self.instance.matches(instance.as_str()) && fleet.is_none_or(|fleet| self.fleet.matches(fleet.as_str()))
    }
}

/// One `[[grants]]` table.
#[derive(Debug, Clone)]
pub struct GrantRule {
    pub operators: Vec<OperatorPattern>,
    pub targets: Vec<TargetPattern>,
    pub allow: Capabilities,
}

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

    /// Whether some grant of this operator could match the name in some fleet. When not, nothing is asked of the cloud API.
    pub fn could_reach(&self, operator: &Operator, name: &TargetName) -> bool {
        self.rules_for(&operator.name).flat_map(|rule| &rule.targets).any(|pattern| pattern.matches(name.fleet.as_ref(), &name.instance))
    }

    /// The decision. Everything that matching grants allow, together, less what the operator's own key restricts.
    pub fn decide(&self, operator: &Operator, target: &Target) -> Option<Grant> {
        let mut matching = self
            .rules_for(&operator.name)
            .filter(|rule| rule.targets.iter().any(|pattern| pattern.matches(Some(&target.fleet), &target.instance)))
            .map(|rule| rule.allow);
        let first = matching.next()?;
        let mut allow = matching.fold(first, Capabilities::union);
        let restrictions = operator.restrictions;
        if restrictions.no_port_forwarding {
            allow = allow.without(Capability::ForwardLocal).without(Capability::ForwardRemote);
        }
        if restrictions.no_agent_forwarding {
            allow = allow.without(Capability::Agent);
        }
        if restrictions.no_x11_forwarding {
            allow = allow.without(Capability::X11);
        }
        Some(Grant { operator: operator.clone(), target: target.clone(), allow, pty: !restrictions.no_pty })
    }
}

/// Proof that the policy said yes to this operator on this target.
///
/// **Invariant**: only [`Policy::decide`] makes one, and leasing and connecting take one.
#[derive(Debug, Clone)]
pub struct Grant {
    operator: Operator,
    target: Target,
    allow: Capabilities,
    pty: bool,
}

impl Grant {
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    pub fn allows(&self, capability: Capability) -> bool {
        self.allow.contains(capability)
    }

    pub fn allows_pty(&self) -> bool {
        self.pty
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{FleetAliases, Restrictions};

    fn operator(name: &str) -> Operator {
        Operator {
            name: OperatorName::parse(name).unwrap(),
            key: "SHA256:x".into(),
            source: "192.0.2.1:1".parse().unwrap(),
            restrictions: Restrictions::default(),
        }
    }

    fn rule(operators: &[&str], targets: &[&str], allow: Capabilities) -> GrantRule {
        GrantRule {
            operators: operators.iter().map(|o| OperatorPattern::parse(o).unwrap()).collect(),
            targets: targets.iter().map(|t| TargetPattern::parse(t).unwrap()).collect(),
            allow,
        }
    }

    fn target(fleet: &str, instance: &str) -> Target {
        Target { fleet: FleetId::parse(fleet).unwrap(), instance: InstanceId::parse(instance).unwrap() }
    }

    fn name(text: &str) -> TargetName {
        TargetName::parse(text, &FleetAliases::default()).unwrap()
    }

    fn policy(rules: Vec<GrantRule>) -> Policy {
        let oncall = [OperatorName::parse("bob").unwrap()].into_iter().collect();
        Policy::new([("oncall".to_owned(), oncall)].into_iter().collect(), rules).unwrap()
    }

    #[test]
    fn what_no_rule_grants_is_denied() {
        let policy = policy(vec![rule(&["alice"], &["fleet-a-*/ins-*"], Capabilities::default_allow())]);
        assert!(policy.decide(&operator("alice"), &target("fleet-a-1", "ins-x")).is_some());
        assert!(policy.decide(&operator("alice"), &target("fleet-b-1", "ins-x")).is_none());
        assert!(policy.decide(&operator("bob"), &target("fleet-a-1", "ins-x")).is_none());
        assert!(Policy::default().decide(&operator("alice"), &target("fleet-a-1", "ins-x")).is_none());
    }

    #[test]
    fn a_name_without_a_fleet_could_be_in_any() {
        let policy = policy(vec![rule(&["@oncall"], &["fleet-a-*/ins-g*"], Capabilities::default_allow())]);
        assert!(policy.could_reach(&operator("bob"), &name("ins-gx")));
        assert!(policy.could_reach(&operator("bob"), &name("ins-gx.fleet-a-1")));
        assert!(!policy.could_reach(&operator("bob"), &name("ins-gx.fleet-b-1")));
        assert!(!policy.could_reach(&operator("bob"), &name("ins-x")));
        assert!(!policy.could_reach(&operator("alice"), &name("ins-gx")));
    }

    #[test]
    fn matching_grants_add_up_and_the_keys_restrictions_take_away() {
        let forwards = [Capability::ForwardLocal, Capability::Agent].into_iter().collect();
        let policy = policy(vec![rule(&["*"], &["ins-*"], Capabilities::default_allow()), rule(&["alice"], &["ins-*"], forwards)]);
        let mut alice = operator("alice");
        let grant = policy.decide(&alice, &target("fleet-a", "ins-x")).unwrap();
        assert!(grant.allows(Capability::Shell) && grant.allows(Capability::ForwardLocal) && grant.allows_pty());
        alice.restrictions = Restrictions::ALL;
        let grant = policy.decide(&alice, &target("fleet-a", "ins-x")).unwrap();
        assert!(grant.allows(Capability::Shell) && !grant.allows(Capability::ForwardLocal));
        assert!(!grant.allows(Capability::Agent) && !grant.allows_pty());
    }

    #[test]
    fn a_rule_for_a_group_that_is_not_there_is_refused() {
        let error = Policy::new(BTreeMap::new(), vec![rule(&["@oncal"], &["ins-*"], Capabilities::NONE)]).unwrap_err();
        assert!(error.to_string().contains("@oncal"), "{error}");
    }
}
