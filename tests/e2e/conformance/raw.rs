//! Messages that no usual client sends, and an instance that is no OpenSSH.

use std::process::{Command, Stdio};

use super::{Outcome, same};
use crate::clients::in_venv;
use crate::lab::{Lab, Plan, Process, Sshd};

/// A Python program of this directory, with the lab's files and what is needed for the way.
#[track_caller]
pub fn python(lab: &Lab, script: &str, way: &str, more: &[&str]) -> Outcome {
    let mut python = lab.program(90, in_venv("python3").to_str().unwrap());
    python.arg(format!("{}/tests/e2e/conformance/{script}", env!("CARGO_MANIFEST_DIR")));
    python.arg(lab.path("ssh_config")).arg(way).arg(lab.ssh_port.to_string()).arg(lab.path("ins-a.login")).args(more);
    Outcome::of(&python.output().unwrap())
}

/// Puts an instance on asyncssh, which tells what it is asked for, into the place of the first.
pub fn another_instance(lab: &mut Lab) {
    lab.replace_first(|lab| {
        let mut python = Command::new(in_venv("python3"));
        python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/conformance/instance.py")).arg(lab.ssh_port.to_string());
        python.arg(lab.path("ins-a.host_ed25519")).arg(lab.path("ins-a.authorized"));
        Process::from(python.stdin(Stdio::null()).spawn().unwrap())
    });
}

#[test]
fn messages_are_answered_in_their_order_with_the_same_bytes() {
    // Channels of unknown types are the instance's to refuse.
    let lab = Lab::with(Plan { allow: r#""exec", "forward-local", "forward-remote", "any""#, ..Plan::default() });
    let outcome = same("raw messages", |way| python(&lab, "raw.py", way, &[]));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
}

#[test]
fn every_status_signal_size_and_end_of_sshd_arrives() {
    // The shells of 512 commands read no set-up of this machine's.
    let instance = Sshd::new("ins-a", "127.0.0.1").option("SetEnv HOME=/nonexistent");
    let lab = Lab::with(Plan { instances: vec![instance], ..Plan::default() });
    let outcome = same("events", |way| python(&lab, "events.py", way, &["sshd"]));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    let statuses: Vec<String> = (0..256).map(|status| status.to_string()).collect();
    let rows: String = statuses.chunks(16).map(|row| format!("[{}]\n", row.join(", "))).collect();
    assert!(outcome.shown().starts_with(&rows), "{outcome:?}");
}

#[test]
fn breaks_signals_sizes_and_exit_signals_reach_their_side_unchanged() {
    let mut lab = Lab::start();
    another_instance(&mut lab);
    let outcome = same("events", |way| python(&lab, "events.py", way, &["asyncssh"]));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    for expected in ["break 1234", "('SEGV', True, 'with_core', 'en')", "global 82"] {
        assert!(outcome.shown().contains(expected), "{expected}: {outcome:?}");
    }
}
