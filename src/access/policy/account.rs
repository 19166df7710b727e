//! What a policy says about one operator, for whoever asks for it.

use super::{FleetId, GrantRule, Invalid, OperatorName, OperatorPattern, Policy};

impl Policy {
    /// Names who may look after the broker itself. Everybody is nobody in particular: `*` is refused.
    pub fn with_administrators(mut self, administrators: Vec<OperatorPattern>) -> Result<Self, Invalid> {
        for pattern in &administrators {
            match pattern {
                OperatorPattern::Anyone => {
                    return Err(Invalid("\"*\" would make everybody an administrator: write names or groups".to_owned()));
                }
                OperatorPattern::Group(group) if !self.groups.contains_key(group) => {
                    return Err(Invalid(format!("@{group} is no group of operators.groups")));
                }
                OperatorPattern::Group(_) | OperatorPattern::Name(_) => {}
            }
        }
        self.administrators = administrators;
        Ok(self)
    }

    pub fn is_administrator(&self, operator: &OperatorName) -> bool {
        self.administrators.iter().any(|pattern| self.means(pattern, operator))
    }

    /// Whether the pattern is for this operator.
    pub(super) fn means(&self, pattern: &OperatorPattern, operator: &OperatorName) -> bool {
        match pattern {
            OperatorPattern::Anyone => true,
            OperatorPattern::Group(group) => self.groups.get(group).is_some_and(|members| members.contains(operator)),
            OperatorPattern::Name(name) => name == operator,
        }
    }

    /// The groups that the operator is in, in alphabetical order.
    pub fn groups_of(&self, operator: &OperatorName) -> Vec<&str> {
        self.groups.iter().filter(|(_, members)| members.contains(operator)).map(|(group, _)| group.as_str()).collect()
    }

    /// The rules that are for this operator, in the order of the configuration.
    pub fn grants_of<'a>(&'a self, operator: &'a OperatorName) -> impl Iterator<Item = &'a GrantRule> {
        self.rules_for(operator)
    }

    /// Whether some grant of this operator is for instances of this fleet.
    pub fn could_reach_in(&self, operator: &OperatorName, fleet: &FleetId) -> bool {
        self.rules_for(operator).flat_map(|rule| &rule.targets).any(|pattern| pattern.is_for_fleet(fleet))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Capabilities, FleetAliases, InstanceId, Target, TargetName, TargetPattern};

    fn name(text: &str) -> OperatorName {
        OperatorName::parse(text).unwrap()
    }

    fn policy() -> Policy {
        let groups = [("oncall", "bob"), ("night", "bob"), ("day", "alice")];
        let groups = groups.map(|(group, member)| (group.to_owned(), [name(member)].into_iter().collect()));
        let rule = |operators: &str, target: &str| {
            let operators = vec![OperatorPattern::parse(operators).unwrap()];
            GrantRule::new(operators, vec![TargetPattern::parse(target).unwrap()], Capabilities::default_allow())
        };
        Policy::new(groups.into_iter().collect(), vec![rule("@oncall", "fleet-a-*/ins-g*"), rule("alice", "ins-*")]).unwrap()
    }

    #[test]
    fn administrators_are_names_and_groups_that_are_there() {
        let patterns = |texts: &[&str]| texts.iter().map(|text| OperatorPattern::parse(text).unwrap()).collect::<Vec<_>>();
        assert!(!policy().is_administrator(&name("alice")));
        let policy = policy().with_administrators(patterns(&["carol", "@oncall"])).unwrap();
        assert_eq!(["alice", "bob", "carol"].map(|operator| policy.is_administrator(&name(operator))), [false, true, true]);
        for bad in ["*", "@nobody"] {
            assert!(policy.clone().with_administrators(patterns(&[bad])).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_operators_own_part_of_the_policy_is_told() {
        let (policy, bob) = (policy(), name("bob"));
        assert_eq!(policy.groups_of(&bob), ["night", "oncall"]);
        let targets: Vec<String> = policy.grants_of(&bob).flat_map(|rule| &rule.targets).map(ToString::to_string).collect();
        assert_eq!(targets, ["fleet-a-*/ins-g*"]);
        let fleet = |text: &str| FleetId::parse(text).unwrap();
        assert!(policy.could_reach_in(&bob, &fleet("fleet-a-1")) && !policy.could_reach_in(&bob, &fleet("fleet-b")));
        assert!(policy.could_reach_in(&name("alice"), &fleet("fleet-b")) && !policy.could_reach_in(&name("carol"), &fleet("fleet-b")));
        let rule = policy.grants_of(&bob).next().unwrap();
        let typed = |text: &str| TargetName::parse(text, &FleetAliases::default()).unwrap();
        assert!(rule.could_match(&typed("ins-gx")) && !rule.could_match(&typed("ins-gx.fleet-b")));
        let target = Target { fleet: fleet("fleet-a-1"), instance: InstanceId::parse("ins-gx").unwrap() };
        assert!(rule.targets[0].takes(&target));
        assert_eq!(TargetPattern::parse("ins-*").unwrap().to_string(), "ins-*");
    }
}
