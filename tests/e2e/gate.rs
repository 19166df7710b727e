//! What a grant does not allow is refused in OpenSSH's own words, and the session goes on.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Lab, Plan, Process, Sshd, exchange, text};

/// One instance for each grant: `(instance, the rest of the grant)`, all for every operator.
fn lab(grants: &[(&'static str, &str)]) -> Lab {
    const ADDRESSES: [&str; 4] = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"];
    let instances = grants.iter().zip(ADDRESSES).map(|((name, _), address)| Sshd::new(name, address)).collect();
    let grant = |(name, rest): &(&str, &str)| format!("[[grants]]\noperators = [\"*\"]\ntargets = [\"{name}\"]\n{rest}\n");
    Lab::with(Plan { instances, extra: grants.iter().map(grant).collect(), ..Plan::default() })
}

/// What the broker refused, as the audit tells it.
fn refused(lab: &Lab) -> BTreeSet<(String, String)> {
    let field = |event: &serde_json::Value, name: &str| event[name].as_str().unwrap().to_owned();
    let refused = lab.audit().into_iter().filter(|event| event["event"] == "channel.refused" && event["by"] == "broker");
    refused.map(|event| (field(&event, "kind"), field(&event, "reason"))).collect()
}

fn grants_lack(kinds: &[(&str, &str)]) -> BTreeSet<(String, String)> {
    kinds.iter().map(|(kind, lacks)| ((*kind).to_owned(), format!("the grant does not allow {lacks}"))).collect()
}

#[track_caller]
fn said(out: &Output, code: i32, stdout: &str, stderr: &str) {
    let errors = text(&out.stderr);
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(code), stdout.to_owned()), "{errors}");
    assert!(errors.contains(stderr), "{stderr:?} is not in: {errors}");
}

/// `ssh` with local forwards that runs `cat` until it is told to stop.
struct Forwarding(Child);

impl Forwarding {
    fn start(lab: &Lab, arguments: &[&str]) -> Self {
        let mut command = lab.ssh(&[&["-o", "ExitOnForwardFailure=yes"], arguments, &["echo in; cat; exit 7"]].concat());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 3];
        child.stdout.as_mut().unwrap().read_exact(&mut line).unwrap();
        Self(child)
    }

    /// Sends a last word through the session that the refusals have passed through.
    fn end(mut self) -> Output {
        self.0.stdin.take().unwrap().write_all(b"still here").unwrap();
        self.0.wait_with_output().unwrap()
    }
}

/// Everything that comes of a stream until it ends.
fn drained(mut stream: impl Read) -> Vec<u8> {
    let mut got = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut got);
    got
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[test]
fn a_grant_for_commands_alone_lets_nothing_else_in() {
    let lab = lab(&[("ins-exec", r#"allow = ["exec"]"#), ("ins-shell", r#"allow = ["shell"]"#)]);
    said(&exchange(&mut lab.ssh(&["-T", "ins-exec"]), b"echo in\n"), 255, "", "shell request failed on channel 0");
    let sftp = lab.program(30, "sftp").arg("-F").arg(lab.path("ssh_config")).arg("ins-exec").output().unwrap();
    said(&sftp, 255, "", "subsystem request failed on channel 0");
    said(&lab.run(&["-W", &format!("127.0.0.1:{}", lab.ssh_port), "ins-exec"]), 255, "", "stdio forwarding failed");
    // A terminal is no capability of its own.
    said(&lab.run(&["-tt", "ins-exec", "test -t 0 && echo in"]), 0, "in\r\n", "");
    let remote = |what: &str| lab.run(&["-R", &format!("{what}:127.0.0.1:{}", lab.ssh_port), "ins-exec", "echo in; exit 3"]);
    said(&remote("0"), 3, "in\n", "remote port forwarding failed for listen port 0");
    let socket = lab.path("remote.sock").display().to_string();
    said(&remote(&socket), 3, "in\n", "remote port forwarding failed for listen path");
    assert!(!lab.path("remote.sock").exists());

    let (port, socket) = (free_port(), lab.path("local.sock"));
    let target = format!("127.0.0.1:{}", lab.ssh_port);
    let locals = [format!("{port}:{target}"), format!("{}:{target}", socket.display()), format!("{}:/run/x", free_port())];
    let session = Forwarding::start(&lab, &["-L", &locals[0], "-L", &locals[1], "-L", &locals[2], "ins-exec"]);
    assert_eq!(drained(TcpStream::connect(("127.0.0.1", port)).unwrap()), b"");
    assert_eq!(drained(UnixStream::connect(socket).unwrap()), b"");
    let to_socket: u16 = locals[2].split(':').next().unwrap().parse().unwrap();
    assert_eq!(drained(TcpStream::connect(("127.0.0.1", to_socket)).unwrap()), b"");
    let out = session.end();
    said(&out, 7, "still here", "open failed");
    assert_eq!(text(&out.stderr).matches("open failed: ").count(), 3, "{}", text(&out.stderr));

    said(&lab.run(&["ins-shell", "id"]), 255, "", "exec request failed on channel 0");
    said(&exchange(&mut lab.ssh(&["-T", "ins-shell"]), b"echo in\nexit 4\n"), 4, "in\n", "");
    let expected = grants_lack(&[
        ("shell", "shell"),
        ("exec", "exec"),
        ("subsystem", "sftp"),
        ("direct-tcpip", "forward-local"),
        ("direct-streamlocal@openssh.com", "forward-local"),
        ("tcpip-forward", "forward-remote"),
        ("streamlocal-forward@openssh.com", "forward-remote"),
    ]);
    assert_eq!(refused(&lab), expected);
    let what = lab.await_event(|event| event["event"] == "channel.refused" && event["kind"] == "direct-tcpip");
    assert_eq!((&what["what"], &what["operator"], &what["target"]), (&target.as_str().into(), &"alice".into(), &"ins-exec".into()));
}

/// An agent with the operator's key, on a socket of the lab's.
pub fn agent(lab: &Lab) -> Process {
    let socket = lab.path("agent.sock");
    let agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !socket.exists() {
        assert!(Instant::now() < deadline, "ssh-agent does not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    let added = Command::new("ssh-add").arg("-q").arg(lab.path("operator")).env("SSH_AUTH_SOCK", &socket).output().unwrap();
    assert!(added.status.success(), "{}", text(&added.stderr));
    agent.into()
}

#[test]
fn an_agent_and_a_display_reach_the_instance_only_when_granted() {
    let lab =
        lab(&[("ins-no", r#"allow = ["exec"]"#), ("ins-agent", r#"allow = ["exec", "agent"]"#), ("ins-x11", r#"allow = ["exec", "x11"]"#)]);
    let agent = agent(&lab);
    let identity_agent = format!("IdentityAgent={}", lab.path("agent.sock").display());
    let list = "echo ${SSH_AUTH_SOCK:+socket}; ssh-add -l";
    said(&lab.run(&["-A", "-o", &identity_agent, "ins-no", list]), 2, "\n", "Could not open a connection to your authentication agent");
    let out = lab.run(&["-A", "-o", &identity_agent, "ins-agent", list]);
    assert!(out.status.success() && text(&out.stdout).contains("(ED25519)"), "{} {}", text(&out.stdout), text(&out.stderr));
    lab.await_event(|event| event["event"] == "channel.opened" && event["kind"] == "auth-agent@openssh.com");
    drop(agent);

    // A display of the operator's that takes note of who comes.
    let display = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = display.local_addr().unwrap().port() - 6000;
    let ssh = |target: &str, command: &str| {
        let mut ssh = lab.ssh(&["-Y", "-o", "XAuthLocation=/nonexistent", target, command]);
        ssh.env("DISPLAY", format!("127.0.0.1:{number}"));
        ssh
    };
    said(&ssh("ins-no", "echo ${DISPLAY:-none}").output().unwrap(), 0, "none\n", "X11 forwarding request failed on channel 0");
    let mut session = ssh("ins-x11", "xauth list $DISPLAY; echo; echo $DISPLAY; cat");
    let mut session = session.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut shown = String::new();
    let mut stdout = session.stdout.take().unwrap();
    while shown.matches('\n').count() < 3 {
        let mut block = [0; 512];
        let n = stdout.read(&mut block).unwrap();
        assert!(n > 0, "{shown}: {}", text(&drained(session.stderr.take().unwrap())));
        shown.push_str(&text(&block[..n]));
    }
    let cookie = shown.lines().next().unwrap().split_whitespace().last().unwrap().to_owned();
    let forwarded: u16 = shown.lines().last().unwrap().split([':', '.']).nth(1).unwrap().parse().unwrap();
    let mut client = TcpStream::connect(("127.0.0.1", 6000 + forwarded)).unwrap();
    let cookie = (0..16).map(|i| u8::from_str_radix(&cookie[2 * i..2 * i + 2], 16).unwrap());
    let mut hello = b"l\0\x0b\0\0\0\x12\0\x10\0\0\0MIT-MAGIC-COOKIE-1\0\0".to_vec();
    hello.extend(cookie);
    client.write_all(&hello).unwrap();
    let (mut server, _) = display.accept().unwrap();
    let mut got = [0; 12];
    server.read_exact(&mut got).unwrap();
    assert_eq!(got, hello[..12]);
    lab.await_event(|event| event["event"] == "channel.opened" && event["kind"] == "x11");
    drop((client, server, session.stdin.take()));
    assert!(session.wait().unwrap().success());
    assert_eq!(refused(&lab), grants_lack(&[("auth-agent-req@openssh.com", "agent"), ("x11-req", "x11")]));
}

#[test]
fn without_an_allow_list_a_grant_is_for_shell_commands_and_files() {
    let lab = lab(&[("ins-a", "")]);
    said(&exchange(&mut lab.ssh(&["-T", "ins-a"]), b"echo in\nexit 4\n"), 4, "in\n", "");
    said(&lab.run(&["-tt", "ins-a", "echo in"]), 0, "in\r\n", "");
    let mut scp = lab.program(30, "scp");
    scp.arg("-sqF").arg(lab.path("ssh_config")).arg("ins-a:/etc/hostname").arg(lab.path("copy"));
    said(&scp.output().unwrap(), 0, "", "");
    assert_eq!(fs::read(lab.path("copy")).unwrap(), fs::read("/etc/hostname").unwrap());
    said(&lab.run(&["-W", &format!("127.0.0.1:{}", lab.ssh_port), "ins-a"]), 255, "", "stdio forwarding failed");
    said(&lab.run(&["-R", "0:127.0.0.1:1", "ins-a", "echo in"]), 0, "in\n", "remote port forwarding failed");
    let expected = grants_lack(&[("direct-tcpip", "forward-local"), ("tcpip-forward", "forward-remote")]);
    assert_eq!(refused(&lab), expected);
}

#[test]
fn a_restricted_key_takes_away_what_the_grant_gives() {
    let lab = lab(&[("ins-a", r#"allow = ["shell", "exec", "sftp", "forward-local", "forward-remote", "agent", "x11"]"#)]);
    let key = fs::read_to_string(lab.path("operator.pub")).unwrap();
    fs::write(lab.path("operators/bob"), format!("restrict {key}")).unwrap();
    let run = |operator: &str, arguments: &[&str]| lab.run(&[&["-J", &format!("{operator}@broker")], arguments].concat());
    let forward = format!("127.0.0.1:{}", lab.ssh_port);
    // A terminal that was asked for by name is one that ssh does not do without.
    said(&run("bob", &["-tt", "ins-a", "echo in"]), 255, "", "PTY allocation request failed on channel 0");
    said(&run("bob", &["ins-a", "echo in"]), 0, "in\n", "");
    said(&run("bob", &["-W", &forward, "ins-a"]), 255, "", "stdio forwarding failed");
    said(&run("bob", &["-R", &format!("0:{forward}"), "ins-a", "echo in"]), 0, "in\n", "remote port forwarding failed");
    let agent = agent(&lab);
    let identity_agent = format!("IdentityAgent={}", lab.path("agent.sock").display());
    said(&run("bob", &["-A", "-o", &identity_agent, "ins-a", "echo ${SSH_AUTH_SOCK:-none}"]), 0, "none\n", "");
    let mut x11 = lab.ssh(&["-J", "bob@broker", "-Y", "ins-a", "echo ${DISPLAY:-none}"]);
    said(&x11.env("DISPLAY", "127.0.0.1:1").output().unwrap(), 0, "none\n", "X11 forwarding request failed on channel 0");
    drop(agent);
    let kinds: BTreeSet<_> = refused(&lab).into_iter().map(|(kind, _)| kind).collect();
    let expected = ["auth-agent-req@openssh.com", "direct-tcpip", "pty-req", "tcpip-forward", "x11-req"];
    assert_eq!(kinds.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    // The same key without the word, under another name.
    let out = run("alice", &["-tt", "-R", &format!("0:{forward}"), "ins-a", "test -t 0 && echo in"]);
    assert!(out.status.success() && text(&out.stdout).contains("in\r\n"), "{}", text(&out.stderr));
}
