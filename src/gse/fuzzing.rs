//! Fuzz target of the API's answers; see [`crate::fuzzing`].
#![allow(clippy::unwrap_used, reason = "a fuzz target tells what it found by a panic")]

use std::time::Duration;

use super::answer;
use super::attempt::Reply;
use super::problem::Cause;
use crate::access::{FleetId, InstanceId, Target};

/// What no error may quote.
const SECRET: &str = "hunter2";

/// A body, as the answer of every action: a lease is for the target that was asked for, fleets are fleets, and what is wrong is told
/// without the answer's text.
pub fn api_answer(data: &[u8]) {
    let target = Target { fleet: FleetId::parse("fleet-a").unwrap(), instance: InstanceId::parse("ins-a").unwrap() };
    let reply = || Reply::read(data, None);
    match reply() {
        Ok(reply) => {
            assert!(reply.request_id.as_ref().is_none_or(|id| !id.is_empty() && id.len() <= 64 && id.is_ascii()));
        }
        Err(problem) => {
            if matches!(problem.cause, Cause::Malformed(_)) {
                assert!(!format!("{problem} {problem:?}").contains(SECRET));
            }
            let _ = (problem.api_class(), problem.is_transient(), problem.label());
            // The operator reads none of the API's text, only its RequestId.
            let failure = problem.into_failure();
            assert!(failure.text.len() < 1024 && !failure.text.chars().any(char::is_control));
            assert!(failure.chain().len() < 8 * 1024 && !failure.chain().chars().any(char::is_control));
            return;
        }
    }
    match answer::lease(reply().ok().unwrap(), &target, Duration::ZERO, Duration::ZERO) {
        Ok(lease) => {
            assert!(lease.target == target && !lease.secret.is_empty());
            assert!((1..=256).contains(&lease.login.len()) && !lease.login.chars().any(|c| c.is_control() || c.is_whitespace()));
            assert!(lease.operating_system.is_none_or(|text| text.len() <= 4 * 128 && !text.chars().any(char::is_control)));
        }
        Err(problem) => assert!(matches!(problem.cause, Cause::Unfit(_)) && !format!("{:?}", problem.cause).contains(SECRET)),
    }
    for asked in [None, Some(&target.fleet)] {
        let fleets = answer::fleets_of(reply().ok().unwrap(), &target.instance, asked);
        assert!(fleets.is_sorted() && asked.is_none_or(|asked| fleets.iter().all(|fleet| fleet == asked)));
    }
    assert!(answer::fleet_list(reply().ok().unwrap()).iter().all(|fleet| fleet.as_str().starts_with("fleet-")));
}
