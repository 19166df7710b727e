//! Other people's clients, each with a jump of its own kind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use crate::lab::{Lab, exchange, fingerprint, installed, pattern, succeeded, text};

mod fleet;
mod libraries;
mod mounted;
mod newest;

/// A program of the Python environment that `tests/run` makes.
pub fn in_venv(program: &str) -> PathBuf {
    let venv = std::env::var_os("LAB_VENV").map_or_else(|| PathBuf::from("/var/lib/ssh-broker-tests/venv"), PathBuf::from);
    let path = venv.join("bin").join(program);
    assert!(path.is_file(), "{} is not there: run the tests with tests/run, which makes it (LAB_VENV says where)", path.display());
    path
}

fn says_seven(out: &Output) {
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(7), "out\n".to_owned()), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("err\n"), "{}", text(&out.stderr));
}

const SEVEN: &str = "echo out; echo err >&2; exit 7";

/// A megabyte in a file of the lab's.
fn file(lab: &Lab) -> (PathBuf, Vec<u8>) {
    let (path, content) = (lab.path("content"), pattern(1 << 20));
    fs::write(&path, &content).unwrap();
    (path, content)
}

#[test]
fn putty_runs_commands_and_copies_files() {
    let [plink, pscp, psftp, puttygen] = ["plink", "pscp", "psftp", "puttygen"].map(installed);
    let lab = Lab::start();
    let (file, content) = file(&lab);
    let key = lab.path("operator.ppk").display().to_string();
    succeeded(&lab.program(20, &puttygen).arg(lab.path("operator")).args(["-O", "private", "-o", &key]).output().unwrap());
    let (door, session) = (fingerprint(&lab.path("state/host_ed25519.pub")), fingerprint(&lab.path("state/session_ed25519.pub")));
    let port = lab.address.port();
    let proxy = format!("{plink} -batch -hostkey {door} -i {key} -P {port} -nc %host:%port alice@127.0.0.1");
    let putty = |program: &str| {
        let mut command = lab.program(60, program);
        command.args(["-batch", "-noagent", "-hostkey", &session, "-proxycmd", &proxy]);
        command
    };
    says_seven(&putty(&plink).args(["whoever@ins-a", SEVEN]).output().unwrap());
    let out = exchange(putty(&plink).args(["whoever@ins-a", "cat"]), &content);
    assert!(out.status.success() && out.stdout == content, "{}", text(&out.stderr));
    let (up, down) = (lab.path("up"), lab.path("down"));
    for protocol in ["-scp", "-sftp"] {
        let remote = format!("whoever@ins-a:{}", up.display());
        succeeded(&putty(&pscp).args(["-q", protocol]).arg(&file).arg(&remote).output().unwrap());
        succeeded(&putty(&pscp).args(["-q", protocol]).arg(&remote).arg(&down).output().unwrap());
        assert!(fs::read(&up).unwrap() == content && fs::read(&down).unwrap() == content, "{protocol}");
        fs::remove_file(&up).unwrap();
    }
    fs::write(lab.path("batch"), format!("put {} {}\nget {1} {}\n", file.display(), up.display(), lab.path("psftp").display())).unwrap();
    succeeded(&putty(&psftp).arg("-b").arg(lab.path("batch")).arg("whoever@ins-a").output().unwrap());
    assert!(fs::read(lab.path("psftp")).unwrap() == content);
}

#[test]
fn dropbear_hops_over_the_broker() {
    // By its path: that is how it starts itself for the first hop.
    let [dbclient, dropbearconvert] = ["dbclient", "dropbearconvert"].map(installed);
    let lab = Lab::start();
    let (_, content) = file(&lab);
    let key = lab.path("operator.dropbear").display().to_string();
    succeeded(&lab.program(20, &dropbearconvert).args(["openssh", "dropbear"]).arg(lab.path("operator")).arg(&key).output().unwrap());
    let hops = format!("alice@127.0.0.1^{},whoever@ins-a", lab.address.port());
    let over = |command: &str| {
        let mut over = lab.program(20, &dbclient);
        over.args(["-T", "-y", "-y", "-i", &key, &hops, command]);
        over
    };
    says_seven(&over(SEVEN).output().unwrap());
    // On a busy machine it forgets to leave now and then when everything is done, as it does over a plain OpenSSH jump.
    let left = (0..3).any(|_| {
        let out = exchange(&mut over("cat"), &content);
        assert!(out.stdout == content, "{} bytes: {}", out.stdout.len(), text(&out.stderr));
        out.status.success()
    });
    assert!(left);
}

fn python(lab: &Lab, script: &str, trust: &str) -> String {
    let (file, _) = file(lab);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients").join(script);
    let mut python = lab.program(60, in_venv("python3").to_str().unwrap());
    python.arg(script).arg(lab.address.ip().to_string()).arg(lab.address.port().to_string());
    let out = python.arg(lab.path("operator")).arg(lab.path(trust)).arg(file).arg(lab.path("")).output().unwrap();
    succeeded(&out)
}

#[test]
fn paramiko_goes_through_a_channel_of_its_own() {
    let lab = Lab::start();
    assert_eq!(python(&lab, "paramiko_jump.py", "state/session_ed25519.pub"), "paramiko went through\n");
}

#[test]
fn asyncssh_tunnels_and_trusts_the_authority() {
    let lab = Lab::start();
    assert_eq!(python(&lab, "asyncssh_jump.py", "known_hosts"), "asyncssh went through\n");
    let opened = lab.await_event(|event| event["event"] == "session.opened");
    assert!(opened["downstream"].as_str().unwrap().contains("-cert-v01@openssh.com"), "{opened}");
}

#[test]
fn ansible_pings_with_pipelining_and_copies_both_ways() {
    let ansible = in_venv("ansible");
    let lab = Lab::start();
    let (file, content) = file(&lab);
    let run = |module: &str, arguments: &str| {
        let mut command = lab.program(100, ansible.to_str().unwrap());
        let options = format!("-F {}", lab.path("ssh_config").display());
        command.args(["all", "-i", "ins-a,", "--ssh-common-args", &options, "-e", "ansible_python_interpreter=/usr/bin/python3"]);
        command.env("ANSIBLE_PIPELINING", "1").env("ANSIBLE_SSH_ARGS", "-o ControlMaster=auto -o ControlPersist=5s");
        succeeded(&command.args(["-m", module, "-a", arguments]).output().unwrap())
    };
    let pinged = run("ping", "");
    assert!(pinged.contains("SUCCESS") && pinged.contains("pong"), "{pinged}");
    let (up, down) = (lab.path("up"), lab.path("down"));
    run("copy", &format!("src={} dest={}", file.display(), up.display()));
    run("fetch", &format!("src={} dest={} flat=yes", up.display(), down.display()));
    assert!(fs::read(up).unwrap() == content && fs::read(down).unwrap() == content);
}

#[test]
fn git_clones_and_pushes() {
    let git = installed("git");
    let lab = Lab::start();
    let git = |arguments: &[&str]| {
        let mut command = lab.program(60, &git);
        command.args(["-c", "user.name=lab", "-c", "user.email=lab@example.com", "-c", "init.defaultBranch=main"]);
        command.env("GIT_SSH_COMMAND", format!("ssh -F {}", lab.path("ssh_config").display())).env("GIT_CONFIG_NOSYSTEM", "1");
        succeeded(&command.args(arguments).current_dir(lab.path("")).output().unwrap())
    };
    git(&["init", "-q", "--bare", "repository"]);
    let remote = format!("ins-a:{}", lab.path("repository").display());
    git(&["clone", "-q", &remote, "first"]);
    let content = pattern(1 << 20);
    fs::write(lab.path("first/file"), &content).unwrap();
    git(&["-C", "first", "add", "file"]);
    git(&["-C", "first", "commit", "-q", "-m", "a file"]);
    git(&["-C", "first", "push", "-q", "origin", "HEAD:main"]);
    git(&["clone", "-q", "-b", "main", &remote, "second"]);
    assert!(fs::read(lab.path("second/file")).unwrap() == content);
}
