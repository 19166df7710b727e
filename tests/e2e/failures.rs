//! Every way this can fail, as the operator reads it in plain `ssh -J` output.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use ssh_broker::demo::{Action, Fault, Times};

use crate::lab::{Lab, Plan, Sshd, text};

/// The sentence with its code, once as a banner or as the reason of the disconnect; nothing that an operator must not read.
fn reads(lab: &Lab, target: &str, code: &str, words: &str) -> String {
    let started = Instant::now();
    let out = lab.run(&["-J", "broker", target, "true"]);
    let took = started.elapsed();
    let errors = text(&out.stderr);
    assert_eq!(out.status.code(), Some(255), "{errors}");
    assert!(errors.contains(&format!("ssh-broker: {}: ", target.to_lowercase())), "{errors}");
    assert!(errors.contains(words), "{words:?} is not in: {errors}");
    assert!(errors.contains(&format!("[{code}, ref ")), "{code} is not in: {errors}");
    for secret in [crate::lab::API_KEY, "BEGIN OPENSSH", &lab.endpoint.url(), "Response"] {
        assert!(!errors.contains(secret), "{errors}");
    }
    assert!(took < Duration::from_secs(25), "{took:?}");
    errors
}

#[test]
fn unknown_and_forbidden_read_the_same_and_cost_no_call_without_a_grant() {
    let grants = "[[grants]]\noperators = [\"alice\"]\ntargets = [\"ins-a*\"]\n";
    let lab = Lab::with(Plan { extra: grants.to_owned(), ..Plan::default() });
    let strip = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with("ssh-broker:")).unwrap();
        line.replace(name, "X").split(", ref").next().unwrap().to_owned()
    };
    let forbidden = reads(&lab, "ins-b", "target-refused", "no such instance, or not yours to reach");
    assert_eq!(lab.endpoint.calls(Action::DescribeInstances) + lab.endpoint.calls(Action::GetInstanceAccess), 0);
    let unknown = reads(&lab, "ins-a-unknown", "target-refused", "no such instance, or not yours to reach");
    assert_eq!(strip(&forbidden, "ins-b"), strip(&unknown, "ins-a-unknown"));
    assert!(lab.run(&["ins-a", "true"]).status.success());
    // The reference ties the sentence to the audit.
    let reference = forbidden.split(", ref ").nth(1).unwrap().split(']').next().unwrap().to_owned();
    let denied = lab.await_event(|event| event["ref"] == reference.as_str());
    assert_eq!((&denied["event"], &denied["operator"]), (&"target.denied".into(), &"alice".into()));
}

#[test]
fn a_name_that_is_no_target_is_told_what_one_looks_like() {
    let lab = Lab::start();
    for name in ["web01", "127.0.0.1", "metadata.tencentyun.com", "ins-a.unknown-alias", "ins_a"] {
        let out = lab.run(&["-J", "broker", name, "true"]);
        let errors = text(&out.stderr);
        assert!(errors.contains("it must be ins-…") || errors.contains("it must be ins-\\342\\200\\246"), "{errors}");
        assert!(errors.contains("[target-name, ref "), "{errors}");
    }
    assert_eq!(lab.endpoint.calls(Action::DescribeInstances), 0);
    // Another port than 22 is no target either; there is nobody to speak SSH with.
    let out = lab.run(&["-W", "ins-a:80", "broker"]);
    assert!(text(&out.stderr).contains("administratively prohibited"), "{}", text(&out.stderr));
    // And the broker itself has no shell: it has words of its own.
    let out = lab.run(&["broker", "id"]);
    assert_eq!((out.status.code(), text(&out.stdout).as_str()), (Some(2), ""));
}

#[test]
fn what_the_cloud_api_does_wrong_has_its_own_sentence() {
    let cases = [
        (Fault::Error("UnauthorizedOperation".to_owned()), "api-denied", "misconfigured"),
        (Fault::Error("AuthFailure.SignatureFailure".to_owned()), "api-denied", "misconfigured"),
        (Fault::Error("ResourceNotFound.InstanceNotFound".to_owned()), "target-refused", "no such instance"),
        (Fault::Error("InternalError".to_owned()), "api-unavailable", "cloud API"),
        (Fault::Body("{\"Response\":{}}".to_owned()), "api-unavailable", "cloud API"),
        (Fault::HugeBody(10 << 20), "api-unavailable", "cloud API"),
        (Fault::WrongIds, "api-unavailable", "cloud API"),
        (Fault::Redirect("http://127.0.0.1:1/".to_owned()), "api-unavailable", "cloud API"),
        (Fault::Error("ActionOffline".to_owned()), "api-offline", "cloud API"),
    ];
    for (fault, code, words) in cases {
        // A fresh broker each time: neither the cache nor the circuit remembers the case before.
        let lab = Lab::start();
        lab.endpoint.fault(Action::GetInstanceAccess, fault.clone(), Times::UntilCleared);
        let errors = reads(&lab, "ins-a", code, words);
        assert!(!errors.contains("AKIDlab"), "{errors}");
    }
}

#[test]
fn one_bad_answer_is_retried_and_nobody_notices() {
    let lab = Lab::start();
    for fault in [Fault::Status(500), Fault::Reset, Fault::HalfBody, Fault::Error("InternalError".to_owned())] {
        lab.endpoint.fault(Action::GetInstanceAccess, fault, Times::Next(1));
    }
    // Each in its turn, one call after the other.
    let out = lab.run(&["ins-a", "echo in"]);
    assert_eq!(text(&out.stdout), "in\n", "{}", text(&out.stderr));
}

#[test]
fn an_instance_that_is_not_there_or_does_not_speak_ssh_has_its_own_sentence() {
    // Nothing listens; something listens and says nothing; something speaks, but not SSH.
    let silent = TcpListener::bind("127.0.0.3:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let web = TcpListener::bind(("127.0.0.4", port)).unwrap();
    std::thread::spawn(move || {
        for stream in web.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), b"HTTP/1.1 400 Bad Request\r\n\r\n".repeat(100).as_slice());
        }
    });
    let extra = "connect_timeout = \"2s\"\nhandshake_timeout = \"2s\"\n".to_owned();
    let lab = Lab::with(Plan { instances: vec![Sshd::new("ins-a", "127.0.0.1")], extra, port, ..Plan::default() });
    for (name, address) in
        [("ins-gone", "127.0.0.2"), ("ins-silent", "127.0.0.3"), ("ins-web", "127.0.0.4"), ("ins-metadata", "169.254.0.23")]
    {
        lab.endpoint.change(|inventory| {
            let known = inventory.find(crate::lab::FLEET, "ins-a").unwrap();
            let record = ssh_broker::demo::InstanceRecord {
                fleet: known.fleet.clone(),
                instance: name.to_owned(),
                address: address.parse().unwrap(),
                login: known.login.clone(),
                secret: known.secret.clone(),
                operating_system: known.operating_system.clone(),
                status: known.status.clone(),
            };
            inventory.insert(record);
        });
    }
    reads(&lab, "ins-gone", "instance-unreachable", "nothing listens on the instance's port");
    reads(&lab, "ins-silent", "instance-unreachable", "did not finish the SSH handshake within 2 s");
    reads(&lab, "ins-web", "instance-unreachable", "key exchange with the instance");
    let errors = reads(&lab, "ins-metadata", "instance-unreachable", "not one that this broker may connect to");
    assert!(!errors.contains("169.254"), "{errors}");
    assert!(lab.run(&["ins-a", "true"]).status.success());
}

#[test]
fn a_refused_login_and_an_unusable_secret_have_their_own_sentences() {
    let lab = Lab::start();
    std::fs::write(lab.path("ins-a.authorized"), "").unwrap();
    reads(&lab, "ins-a", "instance-login", "refused the login");
    let lab = Lab::start();
    let secret = b"-----BEGIN OPENSSH PRIVATE KEY-----\nbm90IGEga2V5\n-----END OPENSSH PRIVATE KEY-----\n".to_vec();
    lab.endpoint.change(|inventory| inventory.instance_mut("ins-a").unwrap().secret = ssh_broker::access::Secret::new(secret).into());
    let errors = reads(&lab, "ins-a", "instance-login", "secret from the cloud API cannot be used");
    assert!(!errors.contains("bm90"), "{errors}");
}

#[test]
fn sessions_beyond_the_operators_share_are_told_which_share() {
    let lab = Lab::with(Plan { extra: "[limits]\nsessions_per_operator = 1\n".to_owned(), ..Plan::default() });
    let mut first = lab.ssh(&["ins-a", "echo in; sleep 20"]).stdout(std::process::Stdio::piped()).spawn().unwrap();
    lab.await_event(|event| event["event"] == "channel.opened");
    reads(&lab, "ins-a", "broker-busy", "this operator has 1 sessions open already");
    crate::lab::terminate(&mut first);
    lab.await_event(|event| event["event"] == "session.closed");
    assert!(lab.run(&["ins-a", "true"]).status.success());
}
