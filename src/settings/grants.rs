//! `operators.groups` and `[[grants]]`: the policy.

use std::collections::{BTreeMap, BTreeSet};

use super::table::Table;
use super::value::quoted;
use crate::access::{Capabilities, Capability, Glob, GrantRule, OperatorName, OperatorPattern, Policy, TargetPattern};

pub(super) type Groups = BTreeMap<String, BTreeSet<OperatorName>>;

pub(super) fn groups(mut table: Table<'_>) -> Groups {
    let mut groups = Groups::new();
    for name in table.names() {
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_name) {
            table.error(&name, "is not a group name: 1 to 64 letters, digits, '.', '_' and '-', without the @");
        }
        let operator = |text: &str| OperatorName::parse(text).map_err(|invalid| invalid.to_string());
        let members = table.list(&name, "an operator's name in quotes", operator).unwrap_or_default();
        groups.insert(name, members.into_iter().collect());
    }
    groups
}

/// Reads every `[[grants]]` table. The rules hold no group that is not there.
pub(super) fn policy(root: &mut Table<'_>, groups: Groups) -> Policy {
    if !root.has("grants") {
        root.warn("grants", "is missing: nobody can reach anything until a [[grants]] table says who may reach what");
    }
    let rules = root.tables("grants", |table| rule(table, &groups));
    match Policy::new(groups, rules) {
        Ok(policy) => policy,
        Err(invalid) => {
            root.error("grants", invalid.to_string());
            Policy::default()
        }
    }
}

fn rule(table: &mut Table<'_>, groups: &Groups) -> GrantRule {
    let right = "a name, \"@group\" or \"*\" in quotes";
    let operators = required_list(table, "operators", right, |text| operator_pattern(text, groups));
    let targets = required_list(table, "targets", "a glob in quotes, such as \"ins-*\" or \"fleet-qp3g3caa-*/ins-*\"", target_pattern);
    let allow = table
        .list("allow", "a capability in quotes, such as \"shell\"", |text| Capability::parse(text).map_err(|invalid| invalid.to_string()));
    if allow.as_ref().is_some_and(Vec::is_empty) {
        table.error("allow", "is empty: write what the grant allows, or leave the key out for [\"shell\", \"exec\", \"sftp\"]");
    }
    let allow = allow.map_or_else(Capabilities::default_allow, Capabilities::from_iter);
    GrantRule { operators, targets, allow }
}

fn required_list<T>(table: &mut Table<'_>, key: &str, right: &str, parse: impl FnMut(&str) -> Result<T, String>) -> Vec<T> {
    if !table.has(key) {
        table.error(key, format!("is missing: write a list, each entry {right}"));
    }
    let list = table.list(key, right, parse);
    if list.as_ref().is_some_and(Vec::is_empty) {
        table.error(key, format!("is empty, so the grant grants nothing: write a list, each entry {right}"));
    }
    list.unwrap_or_default()
}

pub(super) fn operator_pattern(text: &str, groups: &Groups) -> Result<OperatorPattern, String> {
    let pattern = OperatorPattern::parse(text).map_err(|invalid| invalid.to_string())?;
    if let OperatorPattern::Group(group) = &pattern
        && !groups.contains_key(group)
    {
        let near = groups.keys().map(|known| (strsim::damerau_levenshtein(group, known), known)).min();
        let known: Vec<_> = groups.keys().map(|known| format!("@{known}")).collect();
        return Err(match near {
            None => format!("{} is no group, and operators.groups has none: add it there", quoted(text)),
            Some((distance, known)) if distance <= 2 => {
                format!("{} is no group of operators.groups: did you mean \"@{known}\"?", quoted(text))
            }
            Some(_) => format!("{} is no group of operators.groups, which has {}", quoted(text), known.join(", ")),
        });
    }
    Ok(pattern)
}

/// Refuses, beyond what is no glob, globs that cannot match any id: such a grant would grant nothing and say nothing.
fn target_pattern(text: &str) -> Result<TargetPattern, String> {
    let right = "write \"ins-*\" for instances of any fleet, \"fleet-qp3g3caa-*/ins-*\" for those of some fleets";
    let pattern = TargetPattern::parse(text).map_err(|invalid| format!("{invalid}: {right}"))?;
    let (fleet, instance) = text.split_once('/').unwrap_or((Glob::ANY, text));
    if !can_match(fleet, "fleet-") {
        return Err(format!("{} matches no fleet, for their ids (not aliases) begin with fleet-: {right}", quoted(text)));
    }
    if !can_match(instance, "ins-") {
        let whole_fleet =
            if instance.starts_with("fleet-") { format!("; for a whole fleet write \"{instance}/*\"") } else { String::new() };
        return Err(format!("{} matches no instance, for their ids begin with ins-: {right}{whole_fleet}", quoted(text)));
    }
    Ok(pattern)
}

/// Whether a glob can match an id with this prefix, judged by its literal beginning.
fn can_match(glob: &str, prefix: &str) -> bool {
    let literal = glob.split(['*', '?']).next().unwrap_or(glob);
    let has_wildcard = literal.len() < glob.len();
    literal.len() > prefix.len() && literal.starts_with(prefix)
        || has_wildcard && (prefix.starts_with(literal) || literal.starts_with(prefix))
}
