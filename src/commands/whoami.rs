use serde::Serialize;

use super::Asked;
use super::answer::{Answer, Exit, Report};
use super::plain::plain;
use super::table::Table;
use crate::access::{GrantRule, RecordMode, Restrictions};

/// One grant as its operator is told of it.
#[derive(Serialize)]
pub(super) struct GrantShown {
    pub(super) targets: Vec<String>,
    pub(super) allow: Vec<&'static str>,
    /// When and how far it counts, and what it demands.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) conditions: Vec<String>,
}

impl GrantShown {
    pub(super) fn of(rule: &GrantRule) -> Self {
        let targets = rule.targets.iter().map(ToString::to_string).collect();
        Self { targets, allow: rule.allow.names(), conditions: conditions(rule) }
    }
}

fn conditions(rule: &GrantRule) -> Vec<String> {
    let mut conditions = Vec::new();
    if !rule.hours.is_empty() {
        conditions.push("at set hours".to_owned());
    }
    if !rule.from.is_empty() {
        conditions.push("from set networks".to_owned());
    }
    if !rule.ports.is_empty() {
        conditions.push(format!("TCP ports {}", rule.ports));
    }
    if rule.forward_to.is_some() {
        conditions.push("forwards to set destinations".to_owned());
    }
    if let Some(longest) = rule.max_session {
        conditions.push(format!("{} at most", humantime::format_duration(longest)));
    }
    if rule.recording.mode != RecordMode::Off {
        conditions.push(format!("recorded ({})", rule.recording.mode.name()));
    }
    conditions
}

/// A line for each grant.
pub(super) fn grant_lines(grants: &[GrantShown], indent: &str) -> String {
    let mut table = Table::bare();
    for grant in grants {
        table.row([grant.targets.join(" "), grant.allow.join(" "), grant.conditions.join(", ")]);
    }
    table.lines(indent)
}

pub(super) fn grants(asked: &Asked) -> Vec<GrantShown> {
    asked.policy.grants_of(&asked.operator.name).map(GrantShown::of).collect()
}

/// What a key takes away, as authorized_keys spells it.
pub(super) fn restrictions(restrictions: Restrictions) -> Vec<&'static str> {
    let Restrictions { no_pty, no_port_forwarding, no_agent_forwarding, no_x11_forwarding } = restrictions;
    let all = [
        (no_pty, "no-pty"),
        (no_port_forwarding, "no-port-forwarding"),
        (no_agent_forwarding, "no-agent-forwarding"),
        (no_x11_forwarding, "no-x11-forwarding"),
    ];
    all.into_iter().filter(|(taken, _)| *taken).map(|(_, name)| name).collect()
}

#[derive(Serialize)]
struct WhoAmI<'a> {
    operator: &'a str,
    key: &'a str,
    source: String,
    groups: Vec<&'a str>,
    administrator: bool,
    restrictions: Vec<&'static str>,
    grants: Vec<GrantShown>,
}

impl Report for WhoAmI<'_> {
    fn page(&self) -> String {
        let or_none = |words: &[&str]| if words.is_empty() { "none".to_owned() } else { words.join(" ") };
        let mut table = Table::bare();
        let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
        row("operator", self.operator.to_owned());
        row("key", plain(self.key));
        row("source", self.source.clone());
        row("groups", or_none(&self.groups));
        row("restrictions", or_none(&self.restrictions));
        row("administrator", if self.administrator { "yes" } else { "no" }.to_owned());
        row("grants", if self.grants.is_empty() { "none" } else { "" }.to_owned());
        table.lines("") + &grant_lines(&self.grants, "  ")
    }
}

pub(super) fn whoami(asked: &Asked) -> Answer {
    let operator = &asked.operator;
    let report = WhoAmI {
        operator: operator.name.as_str(),
        key: &operator.key,
        source: operator.source.to_string(),
        groups: asked.policy.groups_of(&operator.name),
        administrator: asked.administrator,
        restrictions: restrictions(operator.restrictions),
        grants: grants(asked),
    };
    Answer::of(&report, Exit::Done)
}
