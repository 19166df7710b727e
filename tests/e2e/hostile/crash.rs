//! What a kill, or an audit that takes nothing, leaves behind.

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::{good_login, plan, scaled};
use crate::lab::{Lab, Plan, terminate, text};

#[test]
fn killed_at_any_moment_it_has_told_of_every_session_and_keeps_its_keys_and_pins() {
    let mut lab = Lab::with(plan());
    good_login(&lab);
    let kept = |lab: &Lab| {
        ["state/known_hosts", "state/host_ed25519", "state/ca_ed25519", "state/session_ed25519"]
            .map(|name| std::fs::read(lab.path(name)).unwrap())
    };
    let before = kept(&lab);
    let (kills, sessions) = (scaled(5, 20), scaled(8, 50));
    for kill in 0..kills {
        let mut busy: Vec<Child> = (0..sessions)
            .map(|_| lab.ssh(&["ins-a", "cat /dev/zero"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
            .collect();
        // In the midst of the logins, or of what they carry.
        std::thread::sleep(Duration::from_millis([150, 400, 800, 1500][kill % 4]));
        let mut broker = lab.broker.take().unwrap();
        broker.signal(Signal::KILL);
        broker.wait(Duration::from_secs(10));
        for session in &mut busy {
            terminate(session);
        }
        lab.start_broker();
        good_login(&lab);
    }
    assert_eq!(kept(&lab), before);
    // Each line is whole, each process's numbers have no gap, and each session that was anything has its start.
    let whole = std::fs::read_to_string(lab.path("audit.jsonl")).unwrap();
    assert!(whole.ends_with('\n'));
    let events = lab.audit();
    let mut expected = (String::new(), 0);
    for event in &events {
        let process = event["process"].as_str().unwrap();
        expected = if expected.0 == process { (expected.0, expected.1 + 1) } else { (process.to_owned(), 1) };
        assert_eq!(event["seq"], expected.1, "{event}");
    }
    let references = |name: &str| -> BTreeSet<&str> {
        events.iter().filter(|event| event["event"] == name).map(|event| event["ref"].as_str().unwrap()).collect()
    };
    let started = references("session.started");
    for name in ["lease.fetched", "host_key.pinned", "session.opened", "channel.opened", "session.closed"] {
        assert!(references(name).is_subset(&started), "{name}");
    }
    // The instance has let nobody in of whom the audit does not know.
    let accepted = std::fs::read_to_string(lab.path("ins-a.log")).unwrap().matches("Accepted publickey").count();
    assert!(accepted <= started.len(), "{accepted} logins, {} starts", started.len());
    assert!(started.len() > kills, "{}", started.len());
}

#[test]
fn while_the_audit_takes_nothing_no_session_begins_and_afterwards_nothing_is_missing() {
    let mut lab = Lab::with(Plan { audit_to_pipe: true, extra: String::new(), ..plan() });
    let text_of = |lab: &Lab| std::fs::read_to_string(lab.path("broker.toml")).unwrap();
    let small = text_of(&lab).replace("path = \"stdout\"\n", "path = \"stdout\"\nqueue = 20\n");
    crate::lab::private(&lab.path("broker.toml"), small.as_bytes());
    lab.restart_broker();
    good_login(&lab);
    // Fill the pipe, and the queue before it, by what costs little.
    let mut refused = String::new();
    let started = Instant::now();
    while !refused.contains("its audit cannot be written [broker-busy, ref ") {
        assert!(started.elapsed() < Duration::from_secs(100), "{refused}");
        let all: Vec<_> = (0..8)
            .map(|_| {
                let many = "for i in 1 2 3 4 5 6 7 8; do ssh -F \"$0\" -W no-target:22 broker & done; wait";
                lab.program(60, "sh")
                    .arg("-c")
                    .arg(many)
                    .arg(lab.path("ssh_config"))
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap()
            })
            .collect();
        all.into_iter().for_each(|mut child| drop(child.wait()));
        let probe = Instant::now();
        refused = text(&lab.run(&["ins-a", "true"]).stderr);
        assert!(probe.elapsed() < Duration::from_secs(30), "{refused}");
    }
    // Somebody reads again: sessions begin, and every number is there.
    let mut pipe = lab.audit_pipe();
    let reader = std::thread::spawn(move || {
        let mut all = String::new();
        pipe.read_to_string(&mut all).unwrap();
        all
    });
    let deadline = Instant::now() + Duration::from_secs(20);
    while !lab.run(&["ins-a", "true"]).status.success() {
        assert!(Instant::now() < deadline, "{}", lab.log());
    }
    let mut broker = lab.broker.take().unwrap();
    broker.signal(Signal::TERM);
    assert_eq!(broker.wait(Duration::from_secs(20)), Some(0));
    drop(broker);
    let all = reader.join().unwrap();
    lab.hear(all.as_bytes());
    for (index, line) in all.lines().enumerate() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["seq"], index + 1, "{line}");
    }
    assert!(all.ends_with('\n') && all.contains("its audit cannot be written"));
}
