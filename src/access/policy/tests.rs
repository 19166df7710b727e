use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::access::samples::{operator, target};
use crate::access::{
    Capabilities, Capability, Destination, FleetAliases, GrantedPort, Hours, Network, Ports, RecordMode, Recording, Restrictions,
    TargetPattern, Utc,
};

fn rule(operators: &[&str], targets: &[&str], allow: Capabilities) -> GrantRule {
    GrantRule::new(
        operators.iter().map(|o| OperatorPattern::parse(o).unwrap()).collect(),
        targets.iter().map(|t| TargetPattern::parse(t).unwrap()).collect(),
        allow,
    )
}

/// For everyone and everything.
fn allowing(allow: &[Capability]) -> GrantRule {
    rule(&["*"], &["*"], allow.iter().copied().collect())
}

fn hours(text: &str) -> Vec<Hours> {
    vec![Hours::parse(text, |_| Some(Arc::new(Utc))).unwrap()]
}

/// A Monday, in UTC.
fn at(hour: u64, minute: u64, second: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_704_067_200 + hour * 3600 + minute * 60 + second)
}

fn name(text: &str) -> TargetName {
    TargetName::parse(text, &FleetAliases::default()).unwrap()
}

fn policy(rules: Vec<GrantRule>) -> Policy {
    let oncall = [OperatorName::parse("bob").unwrap()].into_iter().collect();
    Policy::new([("oncall".to_owned(), oncall)].into_iter().collect(), rules).unwrap()
}

fn granted(rules: Vec<GrantRule>, at: SystemTime) -> Result<Grant, Denied> {
    policy(rules).decide(&operator("alice"), &target("fleet-a", "ins-x"), at)
}

#[test]
fn what_no_rule_grants_is_denied() {
    let policy = policy(vec![rule(&["alice"], &["fleet-a-*/ins-*"], Capabilities::default_allow())]);
    let decide = |name: &str, fleet: &str| policy.decide(&operator(name), &target(fleet, "ins-x"), at(0, 0, 0)).map(drop);
    assert_eq!(decide("alice", "fleet-a-1"), Ok(()));
    assert_eq!(decide("alice", "fleet-b-1"), Err(Denied::NoGrant));
    assert_eq!(decide("bob", "fleet-a-1"), Err(Denied::NoGrant));
    assert!(Policy::default().decide(&operator("alice"), &target("fleet-a-1", "ins-x"), at(0, 0, 0)).is_err());
}

#[test]
fn a_name_without_a_fleet_could_be_in_any() {
    let policy = policy(vec![rule(&["@oncall"], &["fleet-a-*/ins-g*"], Capabilities::default_allow())]);
    let could = |operator_name: &str, text: &str| policy.could_reach(&operator(operator_name), &name(text), at(0, 0, 0)).is_ok();
    assert!(could("bob", "ins-gx") && could("bob", "ins-gx.fleet-a-1"));
    assert!(!could("bob", "ins-gx.fleet-b-1") && !could("bob", "ins-x") && !could("alice", "ins-gx"));
}

#[test]
fn matching_grants_add_up_and_the_keys_restrictions_take_away() {
    let mut forwards = rule(&["alice"], &["ins-*"], [Capability::ForwardLocal, Capability::Agent].into_iter().collect());
    forwards.ports = Ports::parse("3389").unwrap();
    let policy = policy(vec![rule(&["*"], &["ins-*"], Capabilities::default_allow()), forwards]);
    let mut alice = operator("alice");
    let decide = |alice: &Operator| policy.decide(alice, &target("fleet-a", "ins-x"), at(0, 0, 0)).unwrap();
    let grant = decide(&alice);
    assert!(grant.allows(Capability::Shell) && grant.allows(Capability::ForwardLocal) && grant.allows_pty());
    assert!(grant.ports().contains(3389) && grant.allows_destination("anything", 1));
    alice.restrictions = Restrictions::ALL;
    let grant = decide(&alice);
    assert!(grant.allows(Capability::Shell) && !grant.allows(Capability::ForwardLocal));
    assert!(!grant.allows(Capability::Agent) && !grant.allows_pty());
    assert!(grant.ports().is_empty() && !grant.allows_destination("anything", 1));
}

#[test]
fn a_rule_for_a_group_that_is_not_there_is_refused() {
    let error = Policy::new(BTreeMap::new(), vec![rule(&["@oncal"], &["ins-*"], Capabilities::NONE)]).unwrap_err();
    assert!(error.to_string().contains("@oncal"), "{error}");
}

#[test]
fn a_grant_whose_hours_or_networks_do_not_match_does_not_count() {
    let mut office = allowing(&[Capability::Shell]);
    office.hours = hours("mon-fri 08:00-20:00 UTC");
    let mut home = allowing(&[Capability::Agent]);
    home.from = vec![Network::parse("10.0.0.0/8").unwrap()];
    assert_eq!(granted(vec![home.clone()], at(9, 0, 0)).unwrap_err(), Denied::OtherSource);
    assert_eq!(granted(vec![office.clone()], at(20, 0, 0)).unwrap_err(), Denied::OutsideHours);
    assert_eq!(granted(vec![office.clone(), home.clone()], at(7, 59, 59)).unwrap_err(), Denied::OutsideHours);
    let grant = granted(vec![office.clone(), home.clone()], at(8, 0, 0)).unwrap();
    assert!(grant.allows(Capability::Shell) && !grant.allows(Capability::Agent));
    home.from.push(Network::parse("192.0.2.0/24").unwrap());
    let policy = policy(vec![office, home]);
    assert!(policy.could_reach(&operator("alice"), &name("ins-x"), at(3, 0, 0)).is_ok());
    let grant = policy.decide(&operator("alice"), &target("fleet-a", "ins-x"), at(3, 0, 0)).unwrap();
    assert!(!grant.allows(Capability::Shell) && grant.allows(Capability::Agent));
}

#[test]
fn what_grants_give_adds_up_and_what_they_demand_must_all_be_met() {
    let mut one = allowing(&[Capability::ForwardLocal]);
    one.forward_to = Some(vec![Destination::parse("db.internal:5432").unwrap()]);
    one.ports = Ports::parse("3389").unwrap();
    one.max_session = Some(Duration::from_secs(3600));
    one.recording = Recording { mode: RecordMode::BestEffort, input: true };
    // Without the capability there is nothing to say of where it may go.
    let mut two = allowing(&[Capability::Shell]);
    two.ports = Ports::parse("8000-8100").unwrap();
    two.max_session = Some(Duration::from_secs(60));
    two.recording = Recording { mode: RecordMode::Required, input: false };
    let three = allowing(&[Capability::Exec]);
    let grant = granted(vec![one.clone(), two, three], at(0, 0, 0)).unwrap();
    assert!(grant.allows_destination("db.internal", 5432) && !grant.allows_destination("db.internal", 22) && !grant.allows_path("/x"));
    assert!(grant.ports().contains(3389) && grant.ports().contains(8000));
    assert_eq!(grant.max_session(), Some(Duration::from_secs(60)));
    assert_eq!(grant.recording(), Recording { mode: RecordMode::Required, input: true });
    let anywhere = granted(vec![one, allowing(&[Capability::ForwardLocal])], at(0, 0, 0)).unwrap();
    assert!(anywhere.allows_destination("db.internal", 22) && anywhere.allows_path("/x"));
}

#[test]
fn a_port_is_reached_only_where_some_grant_that_counts_has_it() {
    let mut office = allowing(&[]);
    office.ports = Ports::parse("3389").unwrap();
    office.hours = hours("mon-fri 08:00-20:00 UTC");
    let policy = policy(vec![office, allowing(&[Capability::Shell])]);
    let mut alice = operator("alice");
    let could = |alice: &Operator, port, at| policy.could_reach_port(alice, &name("ins-x"), port, at);
    assert_eq!(could(&alice, 3389, at(9, 0, 0)), Ok(()));
    assert_eq!(could(&alice, 3390, at(9, 0, 0)), Err(Denied::Port(3390)));
    assert_eq!(could(&alice, 3389, at(21, 0, 0)), Err(Denied::Port(3389)));
    let granted = policy.decide(&alice, &target("fleet-a", "ins-x"), at(9, 0, 0)).unwrap();
    assert_eq!(granted.port(3389).map(GrantedPort::number), Some(3389));
    assert!(granted.port(22).is_none());
    alice.restrictions = Restrictions::ALL;
    assert_eq!(could(&alice, 3389, at(9, 0, 0)), Err(Denied::Port(3389)));
}

#[test]
fn a_grant_ends_when_the_rules_that_count_give_less_than_it() {
    let mut office = allowing(&[Capability::Shell]);
    office.hours = hours("mon-fri 08:00-20:00 UTC");
    let mut night = allowing(&[Capability::Shell, Capability::Exec]);
    night.hours = hours("mon-fri 19:00-23:30 UTC");
    let always = allowing(&[Capability::Exec]);
    let horizon = Duration::from_secs(600);

    let alone = granted(vec![office.clone(), always.clone()], at(12, 0, 0)).unwrap();
    assert!(alone.has_hours() && alone.holds(at(19, 59, 59)) && !alone.holds(at(20, 0, 0)));
    assert_eq!(alone.ends_within(at(19, 50, 0), horizon), None);
    assert_eq!(alone.ends_within(at(19, 50, 1), horizon), Some(Duration::from_secs(599)));
    assert_eq!(alone.ends_within(at(19, 59, 59) + Duration::from_millis(500), horizon), Some(Duration::from_millis(500)));
    assert_eq!(alone.ends_within(at(21, 0, 0), horizon), Some(Duration::ZERO));

    // The one that begins later goes on where the first ends.
    let both = granted(vec![office.clone(), night.clone(), always.clone()], at(12, 0, 0)).unwrap();
    assert_eq!(both.ends_within(at(19, 55, 0), horizon), None);
    assert_eq!(both.ends_within(at(23, 25, 0), horizon), Some(Duration::from_secs(300)));

    let only_always = granted(vec![office, always.clone()], at(21, 0, 0)).unwrap();
    assert!(only_always.holds(at(12, 0, 0)) && only_always.holds(at(22, 0, 0)));
    assert!(!granted(vec![always], at(0, 0, 0)).unwrap().has_hours());
}
