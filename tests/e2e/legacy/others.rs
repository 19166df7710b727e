//! Servers of other descent: one that is older than most of SSH, one that has nothing old at all.

use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use super::{await_listener, echo, tell, upstream};
use crate::algorithms::User;
use crate::lab::{Lab, Process, keygen, private, text};

/// A file of the directory that `tests/run` unpacks them into.
fn unpacked(file: &str) -> PathBuf {
    let dir = std::env::var_os("LAB_SERVERS").map_or_else(|| PathBuf::from("/var/lib/ssh-broker-tests/servers"), PathBuf::from);
    let path = dir.join(file);
    assert!(path.exists(), "{} is not there: run the tests with tests/run, which unpacks it (LAB_SERVERS says where)", path.display());
    path
}

/// Straight to the server, with the login that the broker has.
struct Direct {
    options: Vec<String>,
    askpass: PathBuf,
}

impl Direct {
    fn new(lab: &Lab, address: &str, user: &User, more: &[&str]) -> Self {
        let known = format!("UserKnownHostsFile={}", lab.path("direct_known").display());
        let (to, port, login) = (format!("HostName={address}"), format!("Port={}", lab.ssh_port), format!("User={}", user.0));
        let options = [&to, &port, &login, &known, "ProxyCommand=none", "StrictHostKeyChecking=no", "HostKeyAlias=server", "BatchMode=no"];
        let options = options.iter().chain(more).flat_map(|option| ["-o".to_owned(), (*option).to_owned()]).collect();
        Self { options, askpass: lab.path("askpass") }
    }

    fn run(&self, lab: &Lab, arguments: &[&str]) -> Output {
        let options: Vec<&str> = self.options.iter().map(String::as_str).collect();
        let mut ssh = lab.ssh(&[&options[..], arguments].concat());
        ssh.env("SSH_ASKPASS", &self.askpass).env("SSH_ASKPASS_REQUIRE", "force");
        run(&mut ssh)
    }
}

/// With an input that stays open: at its end both servers hang up the terminal.
fn run(ssh: &mut Command) -> Output {
    let mut child = ssh.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let input = child.stdin.take();
    let out = child.wait_with_output().unwrap();
    drop(input);
    out
}

/// Commands, statuses, errors, ends and a terminal as they are without the broker; and much data. `statuses` is how a terminal whose command
/// ends with 4 may end.
fn serves(lab: &Lab, name: &str, user: &User, direct: &Direct, statuses: &[i32]) {
    echo(lab, name);
    let cases = [
        ("id -un; echo err >&2; exit 7", 7, format!("{}\n", user.0)),
        ("echo out; exec >&-; sleep 0.3; echo late >&2; exit 5", 5, "out\n".to_owned()),
        ("head -c 300000 /dev/zero | tr '\\0' x; echo end >&2", 0, "x".repeat(300_000)),
    ];
    for (command, code, output) in cases {
        let [straight, broker] = [direct.run(lab, &[name, command]), run(&mut lab.ssh(&[name, command]))];
        let said = |out: &Output| ["err\n", "late\n", "end\n"].map(|words| text(&out.stderr).contains(words));
        let seen = |out: &Output| (out.status.code(), text(&out.stdout), said(out));
        assert_eq!(seen(&broker), seen(&straight), "{command}: {}\n{}", text(&broker.stderr), text(&straight.stderr));
        assert_eq!((broker.status.code(), text(&broker.stdout)), (Some(code), output), "{command}: {}", text(&broker.stderr));
    }
    let terminal = ["-tt", name, "test -t 0 && echo terminal $TERM; exit 4"];
    for out in [direct.run(lab, &terminal), run(&mut lab.ssh(&terminal))] {
        assert_eq!(text(&out.stdout), "terminal xterm\r\n", "{}", text(&out.stderr));
        assert!(statuses.contains(&out.status.code().unwrap()), "{:?}: {}", out.status, text(&out.stderr));
    }
}

#[test]
fn tinysshd_has_nothing_old() {
    let user = User::create("unused");
    let lab = Lab::start();
    let (name, address, keys, login) = ("ins-tiny", "127.0.7.1", lab.path("tiny.keys"), lab.path("tiny.login"));
    let made = Command::new(unpacked("usr/sbin/tinysshd-makekey")).arg("-q").arg(&keys).status().unwrap();
    assert!(made.success());
    keygen(&login, &["-t", "ed25519"]);
    user.authorize(&fs::read(login.with_extension("login.pub")).unwrap());
    let mut serves_each = Command::new("systemd-socket-activate");
    serves_each
        .args(["--inetd", "-a", "-l", &format!("{address}:{}", lab.ssh_port)])
        .arg(unpacked("usr/sbin/tinysshd"))
        .arg("-v")
        .arg(&keys);
    let log = fs::File::create(lab.path("tiny.log")).unwrap();
    let _tinysshd = Process::from(serves_each.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    await_listener(address, lab.ssh_port);
    tell(&lab, name, address, &user.0, fs::read(&login).unwrap(), "");
    let identity = format!("IdentityFile={}", login.display());
    serves(&lab, name, &user, &Direct::new(&lab, address, &user, &[&identity]), &[4]);
    let expected = "curve25519-sha256 ssh-ed25519 chacha20-poly1305@openssh.com";
    assert_eq!(upstream(&lab, name), (expected.to_owned(), Vec::new()));
}

#[test]
fn lsh_has_nothing_new() {
    let password = "lsh pass 1";
    let user = User::create(password);
    let lab = Lab::start();
    let (name, address, seed, key) = ("ins-lsh", "127.0.7.2", lab.path("lsh.seed"), lab.path("lsh.host"));
    let mut random = [0; 64];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut random).unwrap();
    private(&seed, &random);
    let libraries = fs::read_dir(unpacked("usr/lib")).unwrap().map(|dir| dir.unwrap().path().display().to_string());
    let libraries = libraries.collect::<Vec<_>>().join(":");
    let lsh = |program: &str| {
        // It closes every descriptor that it might have inherited, one by one.
        let mut command = Command::new("prlimit");
        command
            .arg("--nofile=1024:1024")
            .arg(unpacked(program))
            .env("LD_LIBRARY_PATH", &libraries)
            .env("LSH_YARROW_SEED_FILE", &seed)
            .env("HOME", lab.path(""));
        command
    };
    let mut made = lsh("usr/bin/lsh-keygen").args(["-q", "-l", "2048"]).stdout(Stdio::piped()).spawn().unwrap();
    let written =
        lsh("usr/bin/lsh-writekey").args(["-q", "-c", "none", "-o"]).arg(&key).stdin(made.stdout.take().unwrap()).status().unwrap();
    assert!(written.success() && made.wait().unwrap().success());
    let log = fs::File::create(lab.path("lsh.log")).unwrap();
    let mut lshd = lsh("usr/sbin/lshd");
    lshd.args(["-v", "--no-pid-file", "-p", &lab.ssh_port.to_string(), &format!("--interface={address}"), "-h"]).arg(&key);
    let _lshd = Process::from(lshd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap());
    await_listener(address, lab.ssh_port);
    tell(&lab, name, address, &user.0, password.as_bytes().to_vec(), "");
    let askpass = lab.path("askpass");
    private(&askpass, format!("#!/bin/sh\necho '{password}'\n").as_bytes());
    fs::set_permissions(&askpass, fs::Permissions::from_mode(0o700)).unwrap();
    let old = ["KexAlgorithms=diffie-hellman-group14-sha1", "HostKeyAlgorithms=ssh-rsa", "MACs=hmac-sha1", "Ciphers=aes256-cbc"];
    // Of a terminal it tells the status only when that comes before the last output: most times not, without the broker too.
    serves(&lab, name, &user, &Direct::new(&lab, address, &user, &old), &[4, 255]);
    let weak = ["diffie-hellman-group14-sha1", "ssh-rsa", "aes256-cbc", "hmac-sha1"].map(str::to_owned).to_vec();
    assert_eq!(upstream(&lab, name), ("diffie-hellman-group14-sha1 ssh-rsa aes256-cbc+hmac-sha1".to_owned(), weak));
}
