//! Many channels on one connection.

use std::io::{Read, Write};
use std::process::{Child, Stdio};

use super::{Master, Outcome, same};
use crate::lab::{Lab, Plan, Sshd, text};

const SSH_FXP_INIT: u8 = 1;
const SSH_FXP_VERSION: u8 = 2;
const SSH_FXP_REALPATH: u8 = 16;

fn sftp(kind: u8, number: u32, rest: &[u8]) -> Vec<u8> {
    let len = (5 + rest.len()) as u32;
    [&len.to_be_bytes()[..], &[kind], &number.to_be_bytes(), rest].concat()
}

fn answer(ssh: &mut Child) -> Vec<u8> {
    let stdout = ssh.stdout.as_mut().unwrap();
    let mut len = [0; 4];
    stdout.read_exact(&mut len).unwrap();
    let mut answer = vec![0; u32::from_be_bytes(len) as usize];
    stdout.read_exact(&mut answer).unwrap();
    answer
}

#[test]
fn one_connection_carries_two_hundred_channels_at_once() {
    two_hundred_channels(Lab::start());
}

pub fn two_hundred_channels(lab: Lab) {
    // An old sftp-server resolves only what is there.
    (0..200).for_each(|i| std::fs::write(lab.path(&i.to_string()), "").unwrap());
    same("200 channels", |way| {
        let master = Master::start(&lab, way, &[]);
        // The subsystem that costs the instance no shell.
        let start = |_| {
            let mut ssh = master.ssh(&["-s"], "sftp");
            ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let mut all: Vec<_> = (0..200).map(start).collect();
        for ssh in &mut all {
            ssh.stdin.as_mut().unwrap().write_all(&sftp(SSH_FXP_INIT, 3, b"")).unwrap();
            assert_eq!(answer(ssh)[..5], [SSH_FXP_VERSION, 0, 0, 0, 3], "{way}");
        }
        // All of them are open now; the last is asked first.
        for (i, ssh) in all.iter_mut().enumerate().rev() {
            let path = lab.path(&i.to_string()).display().to_string();
            let asked = [&(path.len() as u32).to_be_bytes()[..], path.as_bytes()].concat();
            ssh.stdin.as_mut().unwrap().write_all(&sftp(SSH_FXP_REALPATH, i as u32, &asked)).unwrap();
            let answer = answer(ssh);
            assert_eq!(answer[1..5], (i as u32).to_be_bytes(), "{way}");
            assert!(answer[5..].windows(asked.len()).any(|part| part == asked), "{way}: {i}: {answer:?}");
        }
        for mut ssh in all {
            drop(ssh.stdin.take());
            let out = ssh.wait_with_output().unwrap();
            assert_eq!((out.status.code(), text(&out.stderr)), (Some(0), String::new()), "{way}");
        }
        Outcome::told("all")
    });
    assert_eq!(lab.audit().iter().filter(|event| event["event"] == "session.opened").count(), 1);
}

#[test]
fn an_instance_refuses_more_sessions_alike() {
    let instance = Sshd::new("ins-a", "127.0.0.1").option("MaxSessions 2");
    let lab = Lab::with(Plan { instances: vec![instance], ..Plan::default() });
    let outcome = same("MaxSessions", |way| {
        let master = Master::start(&lab, way, &[]);
        let start = || master.ssh(&[], "echo in; cat").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut two = [start(), start()];
        for ssh in &mut two {
            ssh.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        }
        // Refused by the instance, ssh tries a connection of its own; there must be none.
        let third =
            Outcome::of(&master.ssh(&["-o", "ProxyJump=none", "-o", "HostName=127.0.0.1", "-o", "Port=1"], "echo third").output().unwrap());
        for mut ssh in two {
            drop(ssh.stdin.take());
            assert!(ssh.wait_with_output().unwrap().status.success());
        }
        assert_eq!(text(&master.ssh(&[], "echo again").output().unwrap().stdout), "again\n");
        third
    });
    assert_eq!(outcome.code, Some(255));
    assert!(outcome.stderr.contains("Session open refused by peer"), "{outcome:?}");
}
