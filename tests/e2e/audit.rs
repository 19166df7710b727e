//! Who was where, when, doing what.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;

use crate::hostile::plan;
use crate::lab::{Lab, Plan, text};

#[test]
fn a_session_is_told_from_login_to_end_under_one_reference() {
    let lab = Lab::start();
    assert!(lab.run(&["ins-a", "echo hello; exit 0"]).status.success());
    let closed = lab.await_event(|event| event["event"] == "session.closed");
    let events = lab.audit();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    let expected = [
        "operator.authenticated",
        "session.started",
        "lease.fetched",
        "host_key.pinned",
        "session.opened",
        "channel.opened",
        "channel.closed",
        "session.closed",
    ];
    assert_eq!(names, expected);
    for (index, event) in events.iter().enumerate() {
        assert_eq!(event["seq"], index + 1);
        assert_eq!(event["operator"], "alice");
        assert!(event["key"].as_str().unwrap().starts_with("SHA256:"), "{event}");
        if index > 0 {
            assert_eq!((&event["ref"], &event["target"]), (&closed["ref"], &"ins-a".into()));
        }
    }
    assert_eq!((&events[5]["kind"], &events[5]["what"]), (&"exec".into(), &"echo hello; exit 0".into()));
    assert_eq!((&events[6]["exit_status"], &events[6]["bytes_down"]), (&0.into(), &6.into()));
    assert_eq!(closed["login"], "root");
    assert!(closed["request_id"].as_str().is_some_and(|id| id.len() > 8), "{closed}");
}

#[test]
fn who_is_not_an_operator_is_refused_and_told() {
    let lab = Lab::start();
    crate::lab::keygen(&lab.path("stranger"), &["-t", "ed25519"]);
    let key = lab.path("stranger").display().to_string();
    for (user, reason) in [("alice", "no such key"), ("mallory", "no such key"), ("root.x", "no such key")] {
        let mut ssh = lab.program(20, "ssh");
        ssh.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes", "-i", &key]);
        ssh.args(["-p", &lab.address.port().to_string(), "-W", "ins-a:22", "-l", user, "127.0.0.1"]);
        let out = ssh.output().unwrap();
        assert!(text(&out.stderr).contains("Permission denied (publickey)"), "{}", text(&out.stderr));
        let refused = lab.await_event(|event| event["event"] == "operator.refused" && event["claimed"] == user);
        assert!(refused["reason"].as_str().unwrap().contains(reason), "{refused}");
    }
}

#[test]
fn no_secret_is_in_log_audit_or_process_at_any_level() {
    // They are sought when it ends.
    let lab = Lab::with(plan());
    assert!(lab.run(&["ins-a", "true"]).status.success());
    lab.endpoint.fault(
        ssh_broker::demo::Action::GetInstanceAccess,
        ssh_broker::demo::Fault::Error("InternalError".to_owned()),
        ssh_broker::demo::Times::Next(1),
    );
    lab.rotate("ins-a");
    assert!(lab.run(&["ins-a", "true"]).status.success());
    assert!(lab.log().contains("TRACE"), "the log is not at trace level");
}

#[test]
fn sigterm_ends_sessions_writes_their_ends_and_exits_with_zero() {
    let mut lab = Lab::with(Plan { extra: "[service]\nstop_timeout = \"1s\"".to_owned(), ..Plan::default() });
    let mut session = lab.ssh(&["ins-a", "sleep 30"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    lab.await_event(|event| event["event"] == "channel.opened");
    let mut broker = lab.broker.take().unwrap();
    broker.signal(Signal::TERM);
    assert_eq!(broker.wait(Duration::from_secs(10)), Some(0), "{}", lab.log());
    let names: Vec<String> = lab.audit().iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect();
    assert!(names.ends_with(&["channel.closed".to_owned(), "session.closed".to_owned()]), "{names:?}");
    assert!(!session.wait().unwrap().success());
}
