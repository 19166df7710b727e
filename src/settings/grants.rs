//! `operators.groups` and `[[grants]]`: the policy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use config::{Value, ValueKind};

use super::table::{Table, text_of};
use super::value::{duration, quoted};
use super::zone;
use crate::access::{
    Capabilities, Capability, Destination, Glob, GrantRule, Hours, Network, OperatorName, OperatorPattern, Policy, Ports, RecordMode,
    Recording, TargetPattern,
};

/// What a port of `ports` cannot be.
const SSH_PORT: u16 = 22;
const MIN_SESSION: Duration = Duration::from_secs(1);
const MAX_SESSION: Duration = Duration::from_secs(30 * 24 * 3600);

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
    GrantRule {
        forward_to: forward_to(table, allow),
        ports: ports(table),
        hours: optional_list(table, "hours", |table| {
            table.one_or_list("hours", "days, times and a time zone in quotes, such as \"mon-fri 08:00-20:00 Asia/Shanghai\"", hours)
        }),
        from: optional_list(table, "from", |table| table.list("from", "a network in quotes, such as \"10.0.0.0/8\"", network)),
        max_session: table.text("max_session", "a duration such as \"8h\"", |text| duration(text, MIN_SESSION..=MAX_SESSION)),
        recording: recording(table),
        ..GrantRule::new(operators, targets, allow)
    }
}

/// A list that may be missing but not empty: what an empty one would mean, nobody need guess.
fn optional_list<T>(table: &mut Table<'_>, key: &str, read: impl FnOnce(&mut Table<'_>) -> Option<Vec<T>>) -> Vec<T> {
    let list = read(table);
    if list.as_ref().is_some_and(Vec::is_empty) {
        table.error(key, "is empty: write at least one entry, or leave the key out");
    }
    list.unwrap_or_default()
}

fn forward_to(table: &mut Table<'_>, allow: Capabilities) -> Option<Vec<Destination>> {
    let is_there = table.has("forward_to");
    let parse = |text: &str| Destination::parse(text).map_err(|invalid| invalid.to_string());
    let list = optional_list(table, "forward_to", |table| {
        table.list("forward_to", "a destination in quotes, such as \"db.internal:5432\"", parse)
    });
    if is_there && !allow.contains(Capability::ForwardLocal) {
        table.error("forward_to", "says where forwards may go, but the grant allows none: add \"forward-local\" to allow");
    }
    is_there.then_some(list)
}

fn ports(table: &mut Table<'_>) -> Ports {
    let right = "a port, such as 3389, or a range in quotes, such as \"8000-8100\"";
    let read = |value: &Value| {
        let ports = match &value.kind {
            ValueKind::I64(port) => Ports::parse(&port.to_string()),
            _ => Ports::parse(text_of(value, right)?),
        };
        ports.map_err(|invalid| invalid.to_string())
    };
    let ports: Ports = optional_list(table, "ports", |table| table.values_of("ports", right, read)).into_iter().collect();
    if ports.contains(SSH_PORT) {
        table.error("ports", "holds port 22, which is always the SSH session: leave it out");
    }
    ports
}

fn hours(text: &str) -> Result<Hours, String> {
    Hours::parse(text, zone::named).map_err(|invalid| invalid.to_string())
}

fn network(text: &str) -> Result<Network, String> {
    Network::parse(text).map_err(|invalid| invalid.to_string())
}

fn recording(table: &mut Table<'_>) -> Recording {
    let mode = table
        .text("record", "\"required\", \"best-effort\" or \"off\"", |text| RecordMode::parse(text).map_err(|invalid| invalid.to_string()));
    let recording = Recording { mode: mode.unwrap_or_default(), input: table.flag("record_input").unwrap_or_default() };
    if recording.input && recording.mode == RecordMode::Off {
        table.error("record_input", "has no effect where nothing is recorded: add record = \"required\" or \"best-effort\"");
    }
    recording
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
