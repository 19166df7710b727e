//! The units as systemd reads them, and whether what they forbid is what the daemon does not do.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};
use std::time::Duration;

use rustix::process::Signal;

use super::supervisor::Supervisor;
use crate::lab::{Plan, text};

const UNITS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/systemd");

fn analyze(arguments: &[&str]) -> Output {
    Command::new("systemd-analyze").args(arguments).output().unwrap()
}

#[test]
fn they_verify_without_a_word() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["ssh-broker.service", "ssh-broker.socket"] {
        let unit = fs::read_to_string(format!("{UNITS}/{name}")).unwrap();
        // Here the binary is where it was built.
        fs::write(dir.path().join(name), unit.replace("/usr/bin/ssh-broker", env!("CARGO_BIN_EXE_ssh-broker"))).unwrap();
    }
    let path = |name: &str| dir.path().join(name).display().to_string();
    let out = analyze(&["verify", "--man=no", "--recursive-errors=no", &path("ssh-broker.service"), &path("ssh-broker.socket")]);
    let said: Vec<String> = text(&out.stderr).lines().filter(|line| line.contains("ssh-broker")).map(str::to_owned).collect();
    assert!(out.status.success() && said.is_empty(), "{}", text(&out.stderr));
}

#[test]
fn the_service_is_exposed_no_more_than_said() {
    let unit = format!("{UNITS}/ssh-broker.service");
    let out = analyze(&["security", "--offline=true", "--threshold=12", &unit]);
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
}

/// The system calls of a filter's words, as `systemd-analyze syscall-filter` tells them.
fn expand(words: &[&str], sets: &BTreeMap<String, Vec<String>>) -> BTreeSet<String> {
    let mut calls = BTreeSet::new();
    for word in words {
        match sets.get(*word) {
            Some(members) => calls.extend(expand(&members.iter().map(String::as_str).collect::<Vec<_>>(), sets)),
            None => drop(calls.insert((*word).to_owned())),
        }
    }
    calls
}

fn filter_sets() -> BTreeMap<String, Vec<String>> {
    let mut sets: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut name = String::new();
    for line in text(&analyze(&["syscall-filter"]).stdout).lines() {
        match line.strip_prefix("    ") {
            Some(member) if !member.starts_with('#') => sets.entry(name.clone()).or_default().push(member.trim().to_owned()),
            Some(_) => {}
            None => name = line.trim().to_owned(),
        }
    }
    sets
}

/// Runs a login, a reload and an upgrade under `strace`.
#[test]
fn the_filter_lets_through_what_the_daemon_calls() {
    let unit = fs::read_to_string(format!("{UNITS}/ssh-broker.service")).unwrap();
    let sets = filter_sets();
    assert!(sets.len() > 20);
    let mut allowed = BTreeSet::new();
    for words in unit.lines().filter_map(|line| line.strip_prefix("SystemCallFilter=")) {
        match words.strip_prefix('~') {
            None => allowed.extend(expand(&words.split(' ').collect::<Vec<_>>(), &sets)),
            Some(words) => expand(&words.split(' ').collect::<Vec<_>>(), &sets).iter().for_each(|call| {
                allowed.remove(call);
            }),
        }
    }

    let mut supervisor = Supervisor::new();
    let mut lab = supervisor.lab(Plan { extra: "[service]\nstop_timeout = \"1s\"\n".to_owned(), ..Plan::default() });
    lab.broker = None;
    let binary = fs::read_link(lab.program_path()).unwrap();
    symlink(&binary, lab.path("real")).unwrap();
    let calls = lab.path("calls").display().to_string();
    let wrapper = format!("#!/bin/sh\nexec strace -f -qq -c -U name -o {calls}.$$ {} \"$@\"\n", lab.path("real").display());
    fs::remove_file(lab.program_path()).unwrap();
    fs::write(lab.program_path(), wrapper).unwrap();
    fs::set_permissions(lab.program_path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    lab.start_broker();
    let strace = lab.broker().id();
    supervisor.hear("READY=1");
    let traced = fs::read_to_string(format!("/proc/{strace}/task/{strace}/children")).unwrap();
    supervisor.become_main(traced.split_whitespace().next().unwrap().parse().unwrap());
    assert!(lab.run(&["ins-a", "true"]).status.success(), "{}", lab.log());
    supervisor.signal(Signal::HUP);
    supervisor.hear("READY=1");
    supervisor.signal(Signal::USR2);
    supervisor.hear("MAINPID=");
    supervisor.hear("READY=1");
    assert!(lab.run(&["ins-a", "true"]).status.success(), "{}", lab.log());
    supervisor.signal(Signal::TERM);
    assert_eq!(lab.broker.as_mut().unwrap().wait(Duration::from_secs(60)), Some(0), "{}", lab.log());
    let table = fs::read_to_string(format!("{calls}.{strace}")).unwrap();
    let is_call =
        |line: &String| line.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !["", "syscall", "total"].contains(&line.as_str());
    let called: BTreeSet<String> = table.lines().map(|line| line.trim().to_owned()).filter(is_call).collect();
    assert!(called.contains("accept4") && called.contains("execve") && called.len() > 40, "{table}");
    let forbidden: Vec<_> = called.difference(&allowed).collect();
    assert!(forbidden.is_empty(), "{forbidden:?}");
}
