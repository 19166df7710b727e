//! An operator, a rule and a grant for tests.

use std::time::SystemTime;

use super::{
    Capabilities, FleetId, Grant, GrantRule, InstanceId, Operator, OperatorName, OperatorPattern, Policy, Restrictions, Target,
    TargetPattern,
};

pub(crate) fn operator(name: &str) -> Operator {
    Operator {
        name: OperatorName::parse(name).unwrap(),
        key: "SHA256:x".into(),
        source: "192.0.2.1:1".parse().unwrap(),
        restrictions: Restrictions::default(),
    }
}

/// For everyone and everything, what a rule allows that says nothing of it.
pub(crate) fn rule() -> GrantRule {
    GrantRule::new(vec![OperatorPattern::Anyone], vec![TargetPattern::parse("*").unwrap()], Capabilities::default_allow())
}

pub(crate) fn target(fleet: &str, instance: &str) -> Target {
    Target { fleet: FleetId::parse(fleet).unwrap(), instance: InstanceId::parse(instance).unwrap() }
}

/// What this rule alone gives alice on ins-a in fleet-a.
pub(crate) fn grant(rule: GrantRule, at: SystemTime) -> Grant {
    let policy = Policy::new(Default::default(), vec![rule]).unwrap();
    policy.decide(&operator("alice"), &target("fleet-a", "ins-a"), at).unwrap()
}
