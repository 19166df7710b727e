//! Whom the operator's client trusts, and whom the broker trusts.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::lab::{Lab, Plan, Sshd, keygen, text};

/// What `ssh -vv` tells of the certificate that it was shown: the names in it and the key under it.
fn certificate(lab: &Lab, arguments: &[&str]) -> (Vec<String>, String) {
    let out = lab.run(&[&["-vv"], arguments, &["true"]].concat());
    let said = text(&out.stderr);
    assert!(out.status.success(), "{said}");
    let after = |mark: &str| said.lines().filter_map(|line| line.trim_end().split_once(mark)).map(|(_, rest)| rest.to_owned()).collect();
    let names: Vec<String> = after("Server host certificate hostname: ");
    let keys: Vec<String> = after("Server host certificate: ssh-ed25519-cert-v01@openssh.com ");
    assert_eq!(keys.len(), 1, "{said}");
    (names, keys[0].split(',').next().unwrap().to_owned())
}

fn fingerprint(key: &Path) -> String {
    let out = Command::new("ssh-keygen").arg("-lf").arg(key).output().unwrap();
    text(&out.stdout).split(' ').nth(1).unwrap().to_owned()
}

#[test]
fn a_strict_client_needs_the_authority_and_the_door_and_is_never_asked() {
    let lab = Lab::start();
    let known = fs::read_to_string(lab.path("known_hosts")).unwrap();
    let lines: Vec<_> = known.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert_eq!(lines.get(..2).unwrap(), [&format!("[127.0.0.1]:{}", lab.address.port()), "@cert-authority"]);
    let out = lab.run(&["-o", "BatchMode=no", "-o", "StrictHostKeyChecking=yes", "ins-a", "echo in"]);
    assert_eq!((text(&out.stdout), text(&out.stderr)), ("in\n".to_owned(), String::new()));
    assert_eq!(fs::read_to_string(lab.path("known_hosts")).unwrap(), known);
    // Without the authority's line the same client goes no further.
    let door = lab.path("door");
    fs::write(&door, known.lines().next().unwrap()).unwrap();
    let out = lab.run(&["-o", &format!("UserKnownHostsFile={}", door.display()), "ins-a", "echo in"]);
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(255), String::new()));
    assert!(text(&out.stderr).contains("Host key verification failed"), "{}", text(&out.stderr));
}

#[test]
fn the_certificate_holds_the_name_that_was_typed_and_no_other_and_the_key_outlives_the_broker() {
    let mut lab = Lab::start();
    let (names, key) = certificate(&lab, &["ins-a"]);
    assert_eq!(names, ["ins-a"]);
    assert_eq!(key, fingerprint(&lab.path("state/session_ed25519.pub")));
    assert_eq!(certificate(&lab, &["ins-a.fleet-lab-1"]).0, ["ins-a.fleet-lab-1"]);
    assert_eq!(certificate(&lab, &["-J", "broker", "INS-A.prod"]).0, ["ins-a.prod", "ins-a.fleet-lab-1"]);
    for other in ["ins-b", "ins-a.prod", "ins-aa"] {
        let out = lab.run(&["-o", &format!("HostKeyAlias={other}"), "ins-a", "echo in"]);
        let said = text(&out.stderr);
        assert_eq!((out.status.code(), text(&out.stdout)), (Some(255), String::new()), "{said}");
        assert!(said.contains("name is not a listed principal"), "{said}");
    }
    lab.restart_broker();
    assert_eq!(certificate(&lab, &["ins-a"]), (vec!["ins-a".to_owned()], key));
}

#[test]
fn the_first_host_key_is_pinned_and_another_gets_no_attempt_to_log_in() {
    let spec = Sshd::new("ins-a", "127.0.0.1").option("LogLevel DEBUG");
    let mut lab = Lab::with(Plan { instances: vec![spec.clone()], ..Plan::default() });
    let log = |lab: &Lab| fs::read_to_string(lab.path("ins-a.log")).unwrap();
    assert!(lab.run(&["ins-a", "true"]).status.success());
    assert!(log(&lab).contains("userauth-request for user root"));
    let pinned = fingerprint(&lab.path("ins-a.host_ed25519.pub"));
    assert_eq!(lab.await_event(|event| event["event"] == "host_key.pinned")["fingerprint"], pinned.as_str());
    let pins = lab.path("state/known_hosts");
    let found = Command::new("ssh-keygen").args(["-l", "-F", "ins-a", "-f"]).arg(&pins).output().unwrap();
    assert!(text(&found.stdout).contains(&pinned), "{}", text(&found.stdout));

    let before = log(&lab).len();
    lab.rebuild(0, &spec);
    let offered = fingerprint(&lab.path("ins-a.host_ed25519.pub"));
    let out = lab.run(&["ins-a", "true"]);
    let said = text(&out.stderr);
    assert_eq!(out.status.code(), Some(255));
    let sentence = format!(
        "ssh-broker: ins-a: the instance's host key has changed: {pinned} is pinned, {offered} was offered [instance-hostkey, ref "
    );
    assert!(said.contains(&sentence), "{said}");
    let event = lab.await_event(|event| event["event"] == "host_key.mismatch");
    assert_eq!((&event["pinned"], &event["offered"]), (&pinned.as_str().into(), &offered.as_str().into()));
    let since = log(&lab).split_off(before);
    assert!(since.contains("SSH2_MSG_KEXINIT received") && !since.contains("userauth-request"), "{since}");
    assert!(fs::read_to_string(&pins).unwrap().lines().count() == 1);

    // A restart forgets nothing; a pin that is taken out is.
    lab.restart_broker();
    assert!(text(&lab.run(&["ins-a", "true"]).stderr).contains("[instance-hostkey, ref "));
    lab.broker = None;
    fs::write(&pins, "").unwrap();
    lab.start_broker();
    assert!(lab.run(&["ins-a", "true"]).status.success());
}

#[test]
fn a_strict_broker_takes_only_keys_that_are_pinned_and_asks_for_their_kind() {
    let keys = tempfile::tempdir().unwrap();
    let mut spec = Sshd::new("ins-a", "127.0.0.1");
    for kind in ["ed25519", "rsa"] {
        keygen(&keys.path().join(kind), &["-t", kind]);
        spec = spec.option(&format!("HostKey {}", keys.path().join(kind).display()));
    }
    let mut lab = Lab::with(Plan { instances: vec![spec], extra: "host_keys = \"strict\"\n".to_owned(), ..Plan::default() });
    let said = text(&lab.run(&["ins-a", "true"]).stderr);
    let offered = fingerprint(&keys.path().join("ed25519.pub"));
    let sentence = format!("the instance's host key {offered} is not pinned, and this broker takes no new ones [instance-hostkey, ref ");
    assert!(said.contains(&sentence), "{said}");
    assert!(!lab.path("state/known_hosts").exists());
    // Left to itself the broker would have been shown the other key.
    let rsa = fs::read_to_string(keys.path().join("rsa.pub")).unwrap();
    fs::write(lab.path("state/known_hosts"), format!("ins-a {rsa}")).unwrap();
    lab.restart_broker();
    assert!(lab.run(&["ins-a", "true"]).status.success(), "{}", lab.log());
    let opened = lab.await_event(|event| event["event"] == "session.opened");
    assert!(opened["upstream"].as_str().unwrap().contains(" rsa-sha2-512 "), "{opened}");
}
