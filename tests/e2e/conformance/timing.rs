//! An instance that is slow to let anyone in, and one that stops.

use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;

use super::{Case, Outcome, same};
use crate::lab::{Lab, Plan, Process, Sshd, pattern, text, until};

/// Starts an `sshd` for each connection, a second and a half after it was made.
fn late_sshd(listener: &TcpListener, config: &Path) {
    for stream in listener.incoming() {
        let (stream, config) = (stream.unwrap(), config.to_owned());
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(1500));
            let of = |stream: &TcpStream| Stdio::from(OwnedFd::from(stream.try_clone().unwrap()));
            let mut sshd = Command::new("/usr/sbin/sshd");
            let _ = sshd.arg("-i").arg("-f").arg(config).stdin(of(&stream)).stdout(of(&stream)).stderr(Stdio::null()).status();
        });
    }
}

#[test]
fn what_is_sent_before_the_instance_is_ready_arrives() {
    let mut lab = Lab::start();
    drop(lab.sshds.remove(0));
    let config = lab.path("ins-a.config");
    // For a single connection, sshd asks for no address to listen on.
    let lines = fs::read_to_string(&config).unwrap();
    fs::write(&config, lines.lines().filter(|line| !line.starts_with("ListenAddress")).map(|line| format!("{line}\n")).collect::<String>())
        .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, lab.ssh_port)).unwrap();
    std::thread::spawn(move || late_sshd(&listener, &config));
    for (name, given) in [("a line", b"line\n".to_vec()), ("64 KiB", pattern(64 << 10)), ("3 MiB", pattern(3 << 20))] {
        let outcome = Case::new(name, "cat; exit 3").stdin(given.clone()).code(3).check(&lab);
        assert!(outcome.stdout == given, "{name}: {outcome:?}");
    }
    Case::new("an end and nothing else", "wc -c").check(&lab);
    Case::new("keys typed ahead", "").options(&["-T"]).stdin("echo typed ahead\nexit 2\n").code(2).check(&lab);
}

#[test]
fn keepalives_of_both_sides_are_answered() {
    let options = ["ClientAliveInterval 1", "ClientAliveCountMax 2"];
    let instance = options.iter().fold(Sshd::new("ins-a", "127.0.0.1"), |sshd, line| sshd.option(line));
    let lab = Lab::with(Plan { instances: vec![instance], ..Plan::default() });
    let alive = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2"];
    let outcome = same("keepalives", |way| Outcome::of(&lab.run(&[&alive[..], &[way, "sleep 4; echo alive; exit 3"]].concat())));
    assert_eq!((outcome.code, outcome.shown().as_str()), (Some(3), "alive\n"));
}

/// The operator's own keepalives reach the instance: the broker does not answer in its place.
#[test]
fn an_instance_that_stops_is_found_out_by_keepalives() {
    let lab = Lab::start();
    let outcome = same("a stopped instance", |way| {
        let options = ["-o", "ServerAliveInterval=1", "-o", "ServerAliveCountMax=2"];
        // The process that serves this connection stops itself.
        Outcome::of(&lab.run(&[&options[..], &[way, "echo in; sleep 0.5; kill -STOP $PPID; sleep 20"]].concat()))
    });
    assert_eq!((outcome.code, outcome.shown().as_str()), (Some(255), "in\n"), "{outcome:?}");
    assert!(outcome.stderr.contains("Timeout, server TARGET not responding."), "{outcome:?}");
    // They would hold the lab's pipes for ever.
    for line in text(&Command::new("ps").args(["-eo", "pid,stat,args"]).output().unwrap().stdout).lines() {
        let mut words = line.split_whitespace();
        let (pid, state) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        if state.starts_with('T') && line.contains("sshd: root@notty") {
            let _ = Command::new("kill").args(["-KILL", pid]).status();
        }
    }
}

/// A client that the instance finds gone: the broker does not keep the session up in its place.
#[test]
fn a_client_that_stops_is_found_out_by_the_instance() {
    let options = ["ClientAliveInterval 1", "ClientAliveCountMax 2"];
    let instance = options.iter().fold(Sshd::new("ins-a", "127.0.0.1"), |sshd, line| sshd.option(line));
    let lab = Lab::with(Plan { instances: vec![instance], ..Plan::default() });
    same("a stopped client", |way| {
        let gone = lab.path(&format!("{way}.gone"));
        let mut ssh = Command::new("ssh");
        ssh.arg("-F").arg(lab.path("ssh_config")).args([way, &format!("echo in; cat; touch {}", gone.display())]);
        let mut ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        ssh.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        let ssh = Process::from(ssh);
        ssh.signal(Signal::STOP);
        until("the command's end", || gone.exists());
        Outcome::told("")
    });
}
