use super::grants::{Groups, operator_pattern};
use super::table::Table;
use crate::access::{OperatorPattern, Policy};

/// `operators.administrators`.
pub(super) fn administrators(operators: &mut Table<'_>, groups: &Groups) -> Vec<OperatorPattern> {
    let right = "a name or \"@group\" in quotes";
    let pattern = |text: &str| match operator_pattern(text, groups)? {
        OperatorPattern::Anyone => Err(format!("\"*\" would make everybody an administrator: write {right}")),
        pattern => Ok(pattern),
    };
    operators.list("administrators", right, pattern).unwrap_or_default()
}

/// The policy with its administrators.
pub(super) fn with_administrators(policy: Policy, administrators: Vec<OperatorPattern>, root: &mut Table<'_>) -> Policy {
    policy.with_administrators(administrators).unwrap_or_else(|invalid| {
        root.error("operators.administrators", invalid.to_string());
        Policy::default()
    })
}
