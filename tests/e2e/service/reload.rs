use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::supervisor::Supervisor;
use crate::lab::{Lab, Plan, keygen, private, text};

const GRANTS: &str = "[[grants]]\noperators = [\"alice\"]\ntargets = [\"ins-*\"]\nallow = [\"shell\", \"exec\", \"sftp\"]\n\
                      [[grants]]\noperators = [\"bob\"]\ntargets = [\"ins-*\"]\n";

fn plan(extra: &str) -> Plan {
    Plan { extra: format!("{GRANTS}{extra}"), ..Plan::default() }
}

fn reload(supervisor: &mut Supervisor) -> String {
    supervisor.signal(Signal::HUP);
    let begun = supervisor.hear("RELOADING=1");
    assert!(begun.contains("MONOTONIC_USEC="), "{begun}");
    supervisor.hear("READY=1")
}

/// A session of this operator's that stays, and what it says to standard error.
fn stay(lab: &Lab, operator: &str, mark: u32) -> Child {
    let command = format!("sleep 6{mark}");
    let mut ssh = lab.program(90, "ssh");
    ssh.arg("-F").arg(jump_config(lab, operator)).args(["ins-a", &command]);
    let session = ssh.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    lab.await_event(|event| event["event"] == "channel.opened" && event["what"] == command.as_str());
    session
}

/// The lab's configuration for another operator.
fn jump_config(lab: &Lab, operator: &str) -> std::path::PathBuf {
    let path = lab.path(&format!("ssh_config.{operator}"));
    let text = std::fs::read_to_string(lab.path("ssh_config")).unwrap();
    std::fs::write(&path, text.replace("User alice", &format!("User {operator}"))).unwrap();
    path
}

fn ended(session: Child) -> String {
    let out = session.wait_with_output().unwrap();
    assert!(!out.status.success());
    text(&out.stderr)
}

fn goes_on(session: &mut Child) {
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(session.try_wait().unwrap(), None);
}

#[test]
fn sessions_end_that_the_new_policy_refuses_and_no_others() {
    let mut supervisor = Supervisor::new();
    let lab = supervisor.lab(plan(""));
    let (mut alice, bob) = (stay(&lab, "alice", 1), stay(&lab, "bob", 2));
    lab.edit(|text| text.replace("operators = [\"bob\"]", "operators = [\"carol\"]"));
    let began = Instant::now();
    reload(&mut supervisor);
    let said = ended(bob);
    assert!(said.contains("you may no longer reach this instance [session-expired, ref "), "{said}");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    goes_on(&mut alice);

    // What is not in use may go; what is ends the session.
    lab.edit(|text| text.replace("\"shell\", \"exec\", \"sftp\"", "\"exec\""));
    reload(&mut supervisor);
    goes_on(&mut alice);
    lab.edit(|text| text.replace("allow = [\"exec\"]", "allow = [\"sftp\"]"));
    reload(&mut supervisor);
    let said = ended(alice);
    assert!(said.contains("you may no longer do what this session does [session-expired, ref "), "{said}");
    let closed = lab.await_event(|event| event["event"] == "session.closed" && event["operator"] == "alice");
    assert!(closed["reason"].as_str().unwrap().starts_with("broker: session-expired"), "{closed}");
}

#[test]
fn operators_that_are_gone_lose_sessions_and_connections() {
    let mut supervisor = Supervisor::new();
    let mut lab = supervisor.lab(plan(""));
    keygen(&lab.path("second"), &["-t", "ed25519"]);
    let bob = std::fs::read(lab.path("second.pub")).unwrap();
    private(&lab.path("operators").join("bob"), &bob);
    let mut config = std::fs::read_to_string(lab.path("ssh_config")).unwrap();
    config = config.replace("User alice", "User bob").replace("/operator\n", "/second\n");
    std::fs::write(lab.path("ssh_config.second"), config).unwrap();
    let mut alice = stay(&lab, "alice", 1);
    let config = lab.path("ssh_config.second").display().to_string();
    let mut idle = lab.program(60, "ssh");
    // A connection that carries nothing.
    let mut idle = idle.args(["-F", &config, "-N", "broker"]).stderr(Stdio::null()).spawn().unwrap();
    lab.await_event(|event| event["event"] == "operator.authenticated" && event["operator"] == "bob");
    std::fs::write(lab.path("revoked"), &bob).unwrap();
    lab.edit(|text| text.replace("[operators]\n", &format!("[operators]\nrevoked_keys = \"{}\"\n", lab.path("revoked").display())));
    reload(&mut supervisor);
    assert!(!idle.wait().unwrap().success());
    goes_on(&mut alice);
    std::fs::remove_file(lab.path("operators").join("alice")).unwrap();
    reload(&mut supervisor);
    let said = ended(alice);
    assert!(said.contains("your key no longer lets you in [session-expired, ref "), "{said}");
    lab.broker = None;
}

#[test]
fn a_bad_file_keeps_what_was_and_says_so() {
    let mut supervisor = Supervisor::new();
    let lab = supervisor.lab(plan("[metrics]\naddress = \"127.0.0.1:0\"\n"));
    let good = std::fs::read_to_string(lab.path("broker.toml")).unwrap();
    let mut alice = stay(&lab, "alice", 1);
    for bad in
        [format!("{good}\n[grant]\n"), good.replace("ins-*", "ins-**/x/y"), good.replace("region = \"ap-shanghai\"", ""), "]".to_owned()]
    {
        lab.edit(|_| bad);
        let said = reload(&mut supervisor);
        assert!(said.contains("the last reload was refused: "), "{said}");
        assert!(lab.run(&["ins-a", "true"]).status.success());
    }
    assert!(lab.log().contains("what counted before still does"));
    goes_on(&mut alice);
    lab.edit(|_| good.replace("[audit]", "[cache]\ncapacity = 7\n[audit]"));
    let said = reload(&mut supervisor);
    assert!(!said.contains("refused"), "{said}");
    assert!(lab.log().contains("counts from the next start or upgrade on key=\"[cache]\""), "{}", lab.log());
    crate::lab::terminate(&mut alice);
}

#[test]
fn an_administrator_reloads_over_ssh_and_reads_what_came_of_it() {
    let mut supervisor = Supervisor::new();
    let lab = supervisor.lab(plan(""));
    let out = lab.run(&["broker", "reload"]);
    assert!(!out.status.success(), "alice is no administrator yet: {}", text(&out.stdout));
    lab.edit(|text| text.replace("[operators]\n", "[operators]\nadministrators = [\"alice\"]\n"));
    reload(&mut supervisor);
    let out = lab.run(&["broker", "reload"]);
    assert!(out.status.success() && text(&out.stdout).contains("is in force"), "{}{}", text(&out.stdout), text(&out.stderr));
    lab.edit(|text| format!("{text}\n[grant]\n"));
    let out = lab.run(&["broker", "reload"]);
    let said = text(&out.stdout) + &text(&out.stderr);
    assert!(!out.status.success() && said.contains("what counted before still does") && said.contains("grant"), "{said}");
}

#[test]
fn what_a_key_restricts_counts_for_connections_that_are_open() {
    let mut supervisor = Supervisor::new();
    let lab = supervisor.lab(plan(""));
    let (config, control) = (lab.path("ssh_config").display().to_string(), lab.path("control").display().to_string());
    let mut master = lab.program(60, "ssh");
    let mut master = master.args(["-F", &config, "-M", "-S", &control, "-N", "broker"]).stderr(Stdio::null()).spawn().unwrap();
    let began = Instant::now();
    while !lab.path("control").exists() {
        assert!(began.elapsed() < Duration::from_secs(30), "no shared connection");
        std::thread::sleep(Duration::from_millis(20));
    }
    let whoami = || text(&lab.program(30, "ssh").args(["-F", &config, "-S", &control, "broker", "whoami"]).output().unwrap().stdout);
    let said = whoami();
    assert!(said.contains("restrictions") && !said.contains("no-port-forwarding"), "{said}");
    let file = lab.path("operators").join("alice");
    let key = std::fs::read_to_string(&file).unwrap();
    private(&file, format!("restrict {key}").as_bytes());
    reload(&mut supervisor);
    let said = whoami();
    assert!(said.contains("no-port-forwarding"), "{said}");
    crate::lab::terminate(&mut master);
}
