use std::io::Read;
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::lab::{Lab, Plan, text};

fn lab(stop_timeout: &str) -> Lab {
    Lab::with(Plan { extra: format!("[service]\nstop_timeout = \"{stop_timeout}\""), ..Plan::default() })
}

fn session(lab: &Lab, command: &str) -> Child {
    let session = lab.ssh(&["ins-a", command]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    lab.await_event(|event| event["event"] == "channel.opened" && event["what"] == command);
    session
}

fn refuses_connections(lab: &Lab) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(lab.address).is_ok() {
        assert!(Instant::now() < deadline, "still listening: {}", lab.log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn sessions_go_on_to_their_end_and_nobody_new_comes_in() {
    let mut lab = lab("50s");
    let go = lab.path("go").display().to_string();
    let command = format!("until [ -e {go} ]; do sleep 0.1; done; echo late");
    let late = session(&lab, &command);
    let mut broker = lab.broker.take().unwrap();
    broker.signal(Signal::TERM);
    refuses_connections(&lab);
    std::fs::write(lab.path("go"), b"").unwrap();
    let out = late.wait_with_output().unwrap();
    assert_eq!((text(&out.stdout).as_str(), out.status.code()), ("late\n", Some(0)), "{}", text(&out.stderr));
    assert_eq!(broker.wait(Duration::from_secs(20)), Some(0), "{}", lab.log());
    let events = lab.audit();
    let count = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!(count("session.opened"), count("session.closed"));
}

#[test]
fn who_stays_too_long_reads_why() {
    let mut lab = lab("1s");
    let mut session = session(&lab, "sleep 60");
    let mut broker = lab.broker.take().unwrap();
    broker.signal(Signal::TERM);
    let mut said = String::new();
    session.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(said.contains("ssh-broker: ins-a: the broker stops [broker-draining, ref "), "{said}");
    assert!(!session.wait().unwrap().success());
    assert_eq!(broker.wait(Duration::from_secs(20)), Some(0), "{}", lab.log());
    let closed = lab.await_event(|event| event["event"] == "session.closed");
    assert!(closed["reason"].as_str().unwrap().starts_with("broker: broker-draining"), "{closed}");
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut lab = lab("10m");
    let mut session = session(&lab, "sleep 60");
    let mut broker = lab.broker.take().unwrap();
    broker.signal(Signal::TERM);
    refuses_connections(&lab);
    broker.signal(Signal::TERM);
    assert_eq!(broker.wait(Duration::from_secs(20)), Some(0), "{}", lab.log());
    assert!(!session.wait().unwrap().success());
    lab.await_event(|event| event["event"] == "session.closed");
}
