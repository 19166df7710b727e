//! What a kill, or an audit that takes nothing, leaves behind.

mod panics;

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::echo::Echo;
use super::{good_login, plan, scaled, whole_audit};
use crate::disk::Disk;
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

#[test]
fn while_the_disk_of_the_audit_is_full_no_session_begins_and_afterwards_nothing_is_missing() {
    const SENTENCE: &str = "its audit cannot be written [broker-busy, ref ";
    let mut lab = Lab::with(plan());
    lab.broker = None;
    let disk = Disk::mount(lab.path("disk"), "256k");
    std::fs::remove_file(lab.path("audit.jsonl")).unwrap();
    std::os::unix::fs::symlink(disk.path().join("audit.jsonl"), lab.path("audit.jsonl")).unwrap();
    lab.start_broker();
    let broker = lab.broker().id();
    good_login(&lab);
    let socket = format!("ControlPath={}", lab.path("inner").display());
    let mut running = Echo::start(lab.ssh(&["-o", &socket, "-o", "ControlMaster=yes", "ins-a", "cat"]));
    lab.await_event(|event| event["event"] == "channel.opened" && event["what"] == "cat");
    disk.fill();
    // The file's last block has room for a little more, which ends in the midst of a line.
    let (mut refused, began) = (Vec::new(), Instant::now());
    while refused.len() < 6 {
        assert!(began.elapsed() < Duration::from_secs(60), "{}", lab.log());
        let asked = Instant::now();
        let out = lab.run(&["ins-a", "echo in"]);
        assert!(asked.elapsed() < Duration::from_secs(15), "{:?}", asked.elapsed());
        match text(&out.stderr).split_once(SENTENCE) {
            Some((_, behind)) => refused.push(behind.split_once(']').unwrap().0.to_owned()),
            None => assert!(refused.is_empty() && out.status.success(), "{}", text(&out.stderr)),
        }
        running.assert_alive();
    }
    // What runs may go on to what is new in it, too.
    let out = lab.run(&["-o", &socket, "ins-a", "echo more"]);
    assert_eq!(text(&out.stdout), "more\n", "{}", text(&out.stderr));
    assert!(!lab.audit().iter().any(|event| event["what"] == "echo more"));
    disk.clear();
    let freed = Instant::now();
    while !lab.run(&["ins-a", "echo in"]).status.success() {
        assert!(freed.elapsed() < Duration::from_secs(20), "{}", lab.log());
    }
    running.ends_well();
    let of_running = lab.await_event(|event| event["event"] == "channel.opened" && event["what"] == "echo more")["ref"].clone();
    lab.await_event(|event| event["event"] == "session.closed" && event["ref"] == of_running);
    // By the same process, without a gap or a torn line, and with everybody who was refused.
    assert_eq!(lab.broker().id(), broker);
    let events = lab.audit();
    for reference in refused {
        let told =
            events.iter().any(|event| event["event"] == "target.failed" && event["ref"] == reference && event["code"] == "broker-busy");
        assert!(told, "{reference}: {events:#?}");
    }
    whole_audit(&lab);
}
