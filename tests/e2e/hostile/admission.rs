//! Who may come in, before anybody has proven anything.

use std::process::Output;

use super::peer::{Peer, VERSION};
use super::{bound, plan, unharmed};
use crate::lab::{Lab, Plan, keygen, text};

fn with(extra: &str) -> Lab {
    Lab::with(Plan { extra: extra.to_owned(), ..plan() })
}

/// A login with these keys from `source`, which the broker does not know.
fn fails(lab: &Lab, source: &str, keys: &[&str]) -> Output {
    let mut ssh = lab.program(20, "ssh");
    ssh.args(["-F", "none", "-b", source, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]);
    ssh.args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-p", &lab.address.port().to_string()]);
    for key in keys {
        ssh.arg("-i").arg(lab.path(key));
    }
    ssh.args(["-W", "ins-a:22", "-l", "alice", "127.0.0.1"]).output().unwrap()
}

#[test]
fn a_source_that_fails_to_log_in_is_refused_for_a_while_and_others_are_not() {
    let lab = with("[penalties]\nauth_failed = \"10s\"\nmin = \"30s\"\nexempt = [\"127.0.0.99\"]\n");
    let bound = bound(&lab);
    for key in ["one", "two", "three"] {
        keygen(&lab.path(key), &["-t", "ed25519"]);
    }
    // Three keys offered by one client are one failure: after two of these the source has twenty seconds of thirty.
    for _ in 0..2 {
        let out = fails(&lab, "127.0.0.66", &["one", "two", "three"]);
        assert!(text(&out.stderr).contains("Permission denied (publickey)"), "{}", text(&out.stderr));
    }
    assert_eq!(Peer::from("127.0.0.66", lab.address).line(), "SSH-2.0-ssh-broker");
    for _ in 0..4 {
        fails(&lab, "127.0.0.66", &["one"]);
    }
    let event = lab.await_event(|event| event["event"] == "source.penalized");
    assert_eq!(event["offence"], "auth-failed");
    assert!(event["source"].as_str().unwrap().starts_with("127.0.0.66:") && event["refused_s"].as_f64().unwrap() > 25.0, "{event}");
    assert_eq!(Peer::from("127.0.0.66", lab.address).line(), "Not allowed at this time");
    // The right key does not help from there; the neighbour, and who is exempt, are let in.
    let out = lab.run(&["-o", "ProxyJump=none", "-b", "127.0.0.66", "broker"]);
    assert!(!out.status.success() && !text(&out.stderr).contains("PTY"), "{}", text(&out.stderr));
    assert_eq!(Peer::from("127.0.0.67", lab.address).line(), "SSH-2.0-ssh-broker");
    for _ in 0..4 {
        fails(&lab, "127.0.0.99", &["one"]);
    }
    assert_eq!(Peer::from("127.0.0.99", lab.address).line(), "SSH-2.0-ssh-broker");
    assert_eq!(lab.audit().iter().filter(|event| event["event"] == "source.penalized").count(), 1);
    unharmed(&lab, bound);
}

#[test]
fn leaving_without_a_try_and_staying_too_long_cost_too() {
    let extra = "[penalties]\nno_auth = \"10s\"\ngrace_exceeded = \"60s\"\n".to_owned();
    let lab = Lab::with(Plan { extra, listen: "login_grace = \"2s\"\n".to_owned(), ..plan() });
    for _ in 0..2 {
        assert_eq!(Peer::from("127.0.0.66", lab.address).line(), "SSH-2.0-ssh-broker");
    }
    let event = lab.await_event(|event| event["event"] == "source.penalized");
    assert_eq!(event["offence"], "no-auth");
    assert_eq!(Peer::from("127.0.0.66", lab.address).line(), "Not allowed at this time");
    assert!(Peer::from("127.0.0.67", lab.address).until_closed().is_some());
    lab.await_event(|event| event["offence"] == "grace-exceeded");
    assert_eq!(Peer::from("127.0.0.67", lab.address).line(), "Not allowed at this time");
    unharmed(&lab, bound(&lab));
}

/// A PROXY protocol header of version 2 for a TCP connection over IPv4.
fn proxy_header(source: [u8; 4]) -> Vec<u8> {
    [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c", &source[..], &[127, 0, 0, 1, 0x30, 0x39, 0, 22]].concat()
}

#[test]
fn only_a_listed_balancer_may_say_where_a_connection_comes_from() {
    let lab = Lab::with(Plan { listen: "proxy_protocol_from = [\"127.0.0.88\"]\n".to_owned(), ..plan() });
    let bound = bound(&lab);
    // From anybody else it is no SSH.
    let mut stranger = Peer::from("127.0.0.66", lab.address);
    let _ = stranger.say(&[&proxy_header([192, 0, 2, 7])[..], VERSION].concat());
    assert_eq!(stranger.until_closed().unwrap(), b"SSH-2.0-ssh-broker\r\n");
    // A balancer that does not say it is not served.
    let mut silent = Peer::from("127.0.0.88", lab.address);
    let _ = silent.say(VERSION);
    assert_eq!(silent.until_closed().unwrap(), b"");
    // What it says counts for admission, the audit and `from=`.
    let penalized = || {
        for _ in 0..20 {
            let mut peer = Peer::from("127.0.0.88", lab.address);
            let _ = peer.say(&proxy_header([192, 0, 2, 7]));
            if peer.line().is_empty() {
                return true;
            }
        }
        false
    };
    assert!(penalized(), "who leaves without a try twenty times is refused");
    let event = lab.await_event(|event| event["event"] == "source.penalized");
    assert_eq!(event["source"], "192.0.2.7:12345");
    let mut other = Peer::from("127.0.0.88", lab.address);
    other.say(&[&proxy_header([192, 0, 2, 8])[..], VERSION].concat()).unwrap();
    assert_eq!(other.line(), "SSH-2.0-ssh-broker");
    unharmed(&lab, bound);
}
