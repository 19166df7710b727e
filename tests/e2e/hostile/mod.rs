//! Attackers from three sides: unauthenticated peers, an operator beyond the grants, a compromised instance. Each test is bounded, and ends
//! with [`unharmed`]: nothing panicked, the broker lives, the audit has no gap, a good login succeeds quickly. When its lab ends, what has
//! left the broker is searched for the lab's secrets ([`plan`]).
//!
//! `HEAVY=1` multiplies what is thrown at the broker; see the README.

mod admission;
mod client;
mod cloud;
mod crash;
mod crowds;
mod echo;
mod evil;
mod inner;
mod instance;
mod malformed;
mod names;
mod operator;
mod peer;
mod proofs;
mod secrets;

use std::time::{Duration, Instant};

use crate::lab::{Lab, Plan, text};

/// What the labs of these tests are made with: the broker's log tells all that it can, and nothing that leaves the broker holds a secret.
pub fn plan() -> Plan {
    Plan { log_level: "trace", searched: true, ..Plan::default() }
}

/// `n`, or with `HEAVY=1` as many as `heavy`.
pub fn scaled(n: usize, heavy: usize) -> usize {
    if std::env::var_os("HEAVY").is_some_and(|value| value == "1") { heavy } else { n }
}

/// A login from `ssh` to a command's output, and what it took.
pub fn good_login(lab: &Lab) -> Duration {
    let started = Instant::now();
    let out = lab.run(&["ins-a", "echo in"]);
    assert_eq!(text(&out.stdout), "in\n", "{}\n{}", text(&out.stderr), lab.log());
    started.elapsed()
}

/// What a login may take: two seconds, or on a machine that is busy with other things four times what it takes when nobody attacks.
pub fn bound(lab: &Lab) -> Duration {
    let calm = (0..3).map(|_| good_login(lab)).max().unwrap();
    Duration::from_secs(2).max(calm * 4)
}

/// Nothing panicked, the process lives, the audit is whole, and a good login succeeds within `bound`.
pub fn unharmed(lab: &Lab, bound: Duration) {
    // The machine has other things to do too: what the attack has slowed is slow every time.
    let mut took = vec![good_login(lab)];
    while took.last().is_some_and(|took| *took > bound) && took.len() < 4 {
        took.push(good_login(lab));
    }
    assert!(took.iter().any(|took| *took <= bound), "good logins took {took:?}, more than {bound:?}");
    let log = lab.log();
    let panicked = log.lines().find(|line| line.contains("panicked") || line.contains("a panic"));
    assert!(panicked.is_none(), "{panicked:?}");
    assert!(std::path::Path::new(&format!("/proc/{}", lab.broker().id())).exists());
    whole_audit(lab);
}

/// One JSON object a line, numbered without a gap.
pub fn whole_audit(lab: &Lab) {
    for (index, event) in lab.audit().iter().enumerate() {
        assert_eq!(event["seq"], index + 1, "{event}");
    }
}
