//! A compromised instance hurts its own session alone, for a bounded time and with bounded memory.

use std::time::{Duration, Instant};

use ssh_broker::transport::msg::{DEBUG, EXT_INFO, IGNORE};

use super::evil::{Act, Deed, Evil, PASSWORD};
use super::{bound, plan, unharmed};
use crate::lab::{Lab, Plan, text};

/// Of the broker, until it gives an instance up.
const HANDSHAKE: Duration = Duration::from_secs(3);

fn lab() -> Lab {
    let extra = format!("connect_timeout = \"3s\"\nhandshake_timeout = \"{}s\"\n[cache]\nlease_ttl = \"1s\"\n", HANDSHAKE.as_secs());
    Lab::with(Plan { extra, ..plan() })
}

fn is_evil(event: &serde_json::Value) -> bool {
    event["target"].as_str().is_some_and(|target| target.starts_with("ins-evil-"))
}

/// What the operator read, and how long it took.
struct Visit {
    said: String,
    code: Option<i32>,
    took: Duration,
}

/// Visits the evil instance of this number.
fn visit(lab: &Lab, number: usize, act: Act) -> Visit {
    let evil = Evil::start(lab, number, act);
    let started = Instant::now();
    let target = format!("ins-evil-{number}");
    let out = lab.program(40, "ssh").arg("-F").arg(lab.path("ssh_config")).args([&target, "id"]).output().unwrap();
    drop(evil);
    lab.hear(&out.stdout);
    lab.hear(&out.stderr);
    Visit { said: text(&out.stderr), code: out.status.code(), took: started.elapsed() }
}

/// Several of them at the same time, each at an instance of its own.
fn visits(lab: &Lab, acts: &[Act]) -> Vec<(Act, Visit)> {
    let visit_all = |(round, acts): (usize, &[Act])| -> Vec<(Act, Visit)> {
        std::thread::scope(|scope| {
            let number = |position: usize| round * 6 + position;
            let visits: Vec<_> =
                acts.iter().enumerate().map(|(at, act)| scope.spawn(move || (*act, visit(lab, number(at), *act)))).collect();
            visits.into_iter().map(|visit| visit.join().unwrap()).collect()
        })
    };
    acts.chunks(6).enumerate().flat_map(visit_all).collect()
}

#[test]
fn whatever_it_does_before_the_login_ends_in_time_with_a_sentence() {
    let lab = lab();
    let bound = bound(&lab);
    let before = lab.broker().rss();
    let acts = [
        Act::Silence,
        Act::EndlessLines,
        Act::EndlessLine,
        Act::Trickle,
        Act::StallBehindKexinit,
        Act::IgnoreFlood,
        Act::Plain(&[0; 64]),
        Act::Plain(&[0xff; 64]),
        Act::Plain(&[0, 4, 0, 1, 4, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        Act::Plain(b"\0\0\0\x0c\x0a\x15\0\0\0\0\0\0\0\0\0\0"),
        Act::Noise,
        Act::EndlessBanners,
        Act::EndlessPrompts,
        Act::ManyPrompts,
        Act::AuthFlood(IGNORE),
        Act::AuthFlood(DEBUG),
        Act::AuthFlood(EXT_INFO),
        Act::WantsMore,
        Act::WantsNewPassword,
        Act::SuccessUnasked,
        Act::StallInAuth,
    ];
    for (act, Visit { said, code, took }) in visits(&lab, &acts) {
        assert_eq!(code, Some(255), "{act:?}: {said}");
        assert!(said.contains("[instance-unreachable, ref ") || said.contains("[instance-login, ref "), "{act:?}: {said}");
        assert!(!said.contains(PASSWORD), "{act:?}: {said}");
        assert!(took < HANDSHAKE + 2 * bound, "{act:?} took {took:?}");
    }
    let after = lab.broker().rss();
    assert!(after < before + 24 * 1024, "resident memory grew from {before} to {after} KiB");
    unharmed(&lab, bound);
}

#[test]
fn a_connection_that_is_cut_at_any_step_ends_its_own_session_alone() {
    let lab = lab();
    let bound = bound(&lab);
    // Version, KEXINIT, reply, NEWKEYS, EXT_INFO, service, success: a server's first kilobytes.
    let steps = [0, 1, 10, 23, 24, 40, 200, 500, 1000, 1100, 1200, 1300, 1400, 1500, 1600, 2000].map(Act::CloseAfter);
    for (act, Visit { said, code, took }) in visits(&lab, &steps) {
        assert_eq!(code, Some(255), "{act:?}: {said}");
        assert!(!said.is_empty() && took < HANDSHAKE + 2 * bound, "{act:?} took {took:?}: {said}");
    }
    unharmed(&lab, bound);
}

#[test]
fn whatever_it_does_in_its_session_others_do_not_feel() {
    let lab = lab();
    let bound = bound(&lab);
    let before = lab.broker().rss();
    let deeds = [
        Deed::Close,
        Deed::ForgedReplies,
        Deed::Flood(IGNORE),
        Deed::Flood(DEBUG),
        Deed::Flood(EXT_INFO),
        Deed::GiantWindows,
        Deed::AtTheLimit,
        Deed::BeyondTheLimit,
        Deed::RekeyStorm,
        Deed::Unknown,
    ];
    std::thread::scope(|scope| {
        let lab = &lab;
        let visited = scope.spawn(move || visits(lab, &deeds.map(Act::Session)));
        // Beside them.
        while !visited.is_finished() {
            unharmed(lab, 2 * bound);
        }
        for (act, Visit { said, code, took }) in visited.join().unwrap() {
            assert_ne!(code, Some(124), "{act:?} did not end in {took:?}: {said}");
            assert!(!said.contains(PASSWORD), "{act:?}: {said}");
        }
    });
    let after = lab.broker().rss();
    assert!(after < before + 32 * 1024, "resident memory grew from {before} to {after} KiB");
    lab.await_event(|event| event["event"] == "session.closed" && is_evil(event));
    unharmed(&lab, bound);
}

#[test]
fn channels_that_nobody_asked_for_are_refused_and_told() {
    let lab = lab();
    let bound = bound(&lab);
    let Visit { said, code, .. } = visit(&lab, 0, Act::Session(Deed::Opens));
    assert_eq!(code, Some(0), "{said}");
    lab.await_event(|event| event["event"] == "session.closed" && is_evil(event));
    let refused: Vec<_> = lab.audit().into_iter().filter(|event| event["event"] == "channel.refused").collect();
    let by_broker: Vec<_> = refused.iter().filter(|event| event["by"] == "broker").map(|event| event["kind"].as_str().unwrap()).collect();
    for kind in ["forwarded-tcpip", "x11", "auth-agent@openssh.com", "session", "direct-tcpip"] {
        assert!(by_broker.contains(&kind), "{kind} is not among {refused:#?}");
    }
    assert!(lab.audit().iter().filter(|event| event["event"] == "channel.opened" && is_evil(event)).count() == 1);
    unharmed(&lab, bound);
}
