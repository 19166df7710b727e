//! The newest OpenSSH that Debian 12 has (bookworm-backports), as client and as instance, beside the system's own.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::{SEVEN, says_seven};
use crate::lab::{Lab, Process, exchange, pattern, succeeded, text};

/// A program of the directory that `tests/run` unpacks it into.
fn newest(program: &str) -> PathBuf {
    let dir = std::env::var_os("LAB_OPENSSH").map_or_else(|| PathBuf::from("/var/lib/ssh-broker-tests/openssh"), PathBuf::from);
    let path = dir.join(program);
    assert!(path.is_file(), "{} is not there: run the tests with tests/run, which unpacks it (LAB_OPENSSH says where)", path.display());
    path
}

fn version(program: &str) -> u32 {
    let said = Command::new(newest(program)).arg("-V").output().unwrap();
    let said = text(&said.stderr);
    said.strip_prefix("OpenSSH_")
        .and_then(|said| said.split('.').next())
        .and_then(|major| major.parse().ok())
        .unwrap_or_else(|| panic!("{said}"))
}

/// Makes the first instance one of the newest OpenSSH.
fn newest_instance(lab: &mut Lab) {
    lab.replace_first(|lab| {
        let config = lab.path("ins-a.config");
        let libexec = newest("usr/lib/openssh/sshd-session").parent().unwrap().display().to_string();
        let lines = fs::read_to_string(&config).unwrap();
        fs::write(&config, format!("{lines}SshdSessionPath {libexec}/sshd-session\nSshdAuthPath {libexec}/sshd-auth\n")).unwrap();
        let mut sshd = Command::new(newest("usr/sbin/sshd"));
        Process::from(sshd.arg("-D").arg("-f").arg(config).arg("-E").arg(lab.path("ins-a.log")).stdin(Stdio::null()).spawn().unwrap())
    });
}

/// Types a line in `ssh -t` and waits a while; what the client's log says of hiding the times of keys.
fn typed(lab: &Lab, way: &str) -> String {
    let log = lab.path(&format!("{way}.log"));
    let mut python = lab.program(60, "python3");
    python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/conformance/terminal.py")).arg("typing").arg(newest("usr/bin/ssh"));
    python.arg("-F").arg(lab.path("ssh_config")).arg("-vvv").arg("-E").arg(&log);
    let out = python.args(["-t", way, "echo ready; read -r line; sleep 1; echo \"<$line>\""]).output().unwrap();
    let shown = succeeded(&out);
    assert!(shown.contains("<abcdefghijklmnopqrstuvwxyz>") && shown.ends_with("status 0 steps left 0\n"), "{shown}");
    fs::read_to_string(log).unwrap()
}

/// The chaff that was sent between and after the keys.
fn chaff(log: &str) -> u32 {
    let counts =
        log.lines().filter_map(|line| line.split("obfuscate_keystroke_timing: stopping").nth(1)?.split('(').nth(1)?.split(' ').next());
    counts.filter_map(|count| count.parse::<u32>().ok()).sum()
}

#[test]
fn the_newest_openssh_works_with_instances_old_and_new() {
    assert!(version("usr/bin/ssh") >= 10);
    let mut lab = Lab::start();
    for instance in ["the system's", "the newest"] {
        if instance == "the newest" {
            newest_instance(&mut lab);
        }
        let ssh = |arguments: &[&str]| {
            let mut command = lab.program(60, newest("usr/bin/ssh").to_str().unwrap());
            command.arg("-F").arg(lab.path("ssh_config")).args(arguments);
            command
        };
        says_seven(&ssh(&["ins-a", SEVEN]).output().unwrap());
        let content = pattern(3 << 20);
        let out = exchange(&mut ssh(&["-o", "RekeyLimit=1M", "ins-a", "cat"]), &content);
        assert!(out.status.success() && out.stdout == content, "{instance}: {}", text(&out.stderr));
        let (file, copy) = (lab.path("file"), lab.path("copy"));
        fs::write(&file, &content).unwrap();
        for protocol in ["-s", "-O"] {
            let mut scp = lab.program(60, newest("usr/bin/scp").to_str().unwrap());
            scp.args(["-q", protocol, "-S"]).arg(newest("usr/bin/ssh")).arg("-F").arg(lab.path("ssh_config"));
            succeeded(&scp.arg(&file).arg(format!("ins-a:{}", copy.display())).output().unwrap());
            assert!(fs::read(&copy).unwrap() == content, "{instance}: scp {protocol}");
            fs::remove_file(&copy).unwrap();
        }
    }
}

/// OpenSSH sends chaff between the keys only to a server that answers PING: the broker does, and passes it on to an instance that does.
#[test]
fn the_times_of_keys_are_hidden_whatever_the_instance_can() {
    let mut lab = Lab::start();
    assert!(chaff(&typed(&lab, "ins-a")) > 0, "the broker answers for an instance that knows no PING");
    newest_instance(&mut lab);
    for way in ["direct", "ins-a"] {
        let log = typed(&lab, way);
        assert!(chaff(&log) > 0, "{way}: {}", log.lines().filter(|line| line.contains("obfuscate")).collect::<String>());
    }
}
