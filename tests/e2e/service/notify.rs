use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::supervisor::Supervisor;
use crate::lab::{Lab, Plan, text};

#[test]
fn ready_status_and_watchdog_are_told() {
    let mut supervisor = Supervisor::new();
    let environment = vec![("WATCHDOG_USEC", "600000".to_owned())];
    let lab = supervisor.lab(Plan { environment, ..Plan::default() });
    assert!(lab.path("audit.jsonl").exists(), "the audit is there before READY");
    let mut session = lab.ssh(&["ins-a", "sleep 30"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    supervisor.hear("STATUS=1 sessions, 1 connections");
    supervisor.hear("WATCHDOG=1");
    crate::lab::terminate(&mut session);
    supervisor.hear("STATUS=0 sessions, 0 connections");
    supervisor.hear("WATCHDOG=1");
}

#[test]
fn handed_over_sockets_win_over_the_configuration() {
    let mut lab = Lab::start();
    lab.broker = None;
    let elsewhere = "127.0.0.9:1";
    let here = lab.address.to_string();
    lab.edit(|text| text.replace(&here, elsewhere));
    let log = std::fs::File::create(lab.path("activated.log")).unwrap();
    let activated = Command::new("systemd-socket-activate")
        .args(["-l", &here])
        .arg(lab.program_path())
        .args(["serve", "--config"])
        .arg(lab.path("broker.toml"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    lab.broker = Some(activated.into());
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(lab.address).is_err() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    let out = lab.run(&["ins-a", "echo activated"]);
    let log = std::fs::read_to_string(lab.path("activated.log")).unwrap();
    assert_eq!(text(&out.stdout), "activated\n", "{}{log}", text(&out.stderr));
    assert!(TcpStream::connect(elsewhere).is_err());
}
