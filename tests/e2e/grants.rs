//! When a grant counts, how long it lasts, where its forwards may go, which ports it opens: seen through stock OpenSSH.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ssh_broker::demo::Action;

use crate::lab::{Lab, Plan, Sshd, exchange, pattern, terminate, text};

const REFUSED: &str = "no such instance, or not yours to reach [target-refused, ref ";

fn lab(grant: &str) -> Lab {
    let extra = format!("[[grants]]\noperators = [\"alice\"]\ntargets = [\"ins-*\"]\n{grant}\n");
    Lab::with(Plan { extra, ..Plan::default() })
}

/// The day of the week in so many days, in UTC.
fn day(ahead: u64) -> &'static str {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let today = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() / 86_400 + 3;
    DAYS[((today + ahead) % 7) as usize]
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Connects as soon as somebody listens there.
fn connect(port: u16) -> TcpStream {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => {
                stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
                return stream;
            }
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Everything that comes until the stream ends.
fn drained(mut stream: impl Read) -> Vec<u8> {
    let mut got = Vec::new();
    // A reset is an end as well.
    let _ = stream.read_to_end(&mut got);
    got
}

/// A service that gives back what it gets and, when the other side has ended, says so before it ends too.
fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut source = stream.try_clone().unwrap();
                let _ = std::io::copy(&mut source, &mut stream);
                let _ = stream.write_all(b"bye");
            });
        }
    });
    port
}

#[test]
fn outside_its_hours_or_from_elsewhere_a_grant_is_not_there() {
    let closed = format!("hours = \"{} 00:00-24:00 UTC\"", day(3));
    for (grant, reason) in [(closed.as_str(), "outside its hours"), ("from = [\"10.0.0.0/8\"]", "its grants are for other addresses")] {
        let lab = lab(grant);
        let out = lab.run(&["ins-a", "true"]);
        assert!(out.status.code() == Some(255) && text(&out.stderr).contains(REFUSED), "{}", text(&out.stderr));
        let denied = lab.await_event(|event| event["event"] == "target.denied");
        assert_eq!((&denied["reason"], &denied["typed"]), (&reason.into(), &"ins-a".into()));
        assert_eq!(lab.endpoint.calls(Action::DescribeInstances) + lab.endpoint.calls(Action::GetInstanceAccess), 0);
    }
    let open = format!("hours = [\"{} 00:00-24:00 UTC\", \"mon-sun 00:00-24:00 Asia/Shanghai\"]\nfrom = [\"127.0.0.0/8\"]", day(3));
    let out = lab(&open).run(&["ins-a", "echo in"]);
    assert_eq!(text(&out.stdout), "in\n", "{}", text(&out.stderr));
}

#[test]
fn a_session_ends_with_its_longest_time_and_only_a_terminal_is_warned() {
    let lab = lab("max_session = \"10s\"");
    let plain = lab.ssh(&["ins-a", "echo in; sleep 60"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let out = lab.run(&["-tt", "ins-a", "echo in; sleep 60"]);
    let sentence = "ssh-broker: ins-a: this session has lasted 10s, as long as it may [session-expired, ref ";
    assert!(out.status.code() == Some(255) && text(&out.stderr).contains(sentence), "{}", text(&out.stderr));
    let shown = text(&out.stdout);
    for left in ["5 seconds", "1 second"] {
        let warning = format!("\r\nssh-broker: ins-a: this session ends in {left}: it may last no longer than 10s\r\n");
        assert!(shown.contains(&warning), "{left}: {shown}");
    }
    let out = plain.wait_with_output().unwrap();
    assert!(out.status.code() == Some(255) && text(&out.stderr).contains(sentence), "{}", text(&out.stderr));
    assert_eq!(text(&out.stdout), "in\n");
    assert!(!text(&out.stderr).contains("ends in"), "{}", text(&out.stderr));
    let closed = lab.await_event(|event| event["event"] == "session.closed");
    assert!(closed["reason"].as_str().unwrap().starts_with("broker: session-expired"), "{closed}");
}

#[test]
fn after_a_notice_a_terminal_carries_as_much_as_before() {
    const BYTES: usize = 8_000_000;
    let (lab, port) = (lab("allow = [\"exec\", \"forward-local\"]"), free_port());
    // More than the window before the notice and after it, so that what it took must have been given back.
    let command =
        format!("stty raw -echo; X='tr \\0 x'; head -c {BYTES} /dev/zero | $X; head -c 1 >&2; head -c {BYTES} /dev/zero | $X; exit 5");
    let mut ssh = lab.ssh(&["-tt", "-L", &format!("{port}:127.0.0.1:{}", lab.ssh_port), "ins-a", &command]);
    let mut ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdout = ssh.stdout.take().unwrap();
    let mut shown = vec![0; BYTES];
    stdout.read_exact(&mut shown).unwrap();
    let mut line = [0; 12];
    connect(port).read_exact(&mut line).unwrap();
    ssh.stdin.as_mut().unwrap().write_all(b"y").unwrap();
    shown.extend(drained(stdout));
    let out = ssh.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(5), "{}", text(&out.stderr));
    assert_eq!(shown.iter().filter(|byte| **byte == b'x').count(), 2 * BYTES);
    let rest: Vec<u8> = shown.into_iter().filter(|byte| *byte != b'x').collect();
    assert_eq!(text(&rest), "\r\nssh-broker: the grant does not allow nested-ssh\r\ny");
    assert!(!text(&out.stderr).contains("too much data"), "{}", text(&out.stderr));
}

#[test]
fn a_forward_goes_where_the_grant_says_and_the_client_reads_why_not_elsewhere() {
    let (here, elsewhere) = (echo(), echo());
    let lab = lab(&format!("allow = [\"exec\", \"forward-local\"]\nforward_to = [\"127.0.0.0/8:{here}\", \"db.internal:5432\"]"));
    let out = exchange(&mut lab.ssh(&["-W", &format!("127.0.0.1:{here}"), "ins-a"]), b"hello ");
    assert_eq!(text(&out.stdout), "hello bye", "{}", text(&out.stderr));
    for to in [format!("127.0.0.1:{elsewhere}"), format!("localhost:{here}"), "[::1]:22".to_owned()] {
        let out = lab.run(&["-W", &to, "ins-a"]);
        let why = "open failed: administratively prohibited: ssh-broker: the grant does not allow forward-local to there";
        assert!(out.status.code() == Some(255) && text(&out.stderr).contains(why), "{to}: {}", text(&out.stderr));
        let refused = lab.await_event(|event| event["event"] == "channel.refused" && event["what"] == to.as_str());
        assert_eq!((&refused["by"], &refused["reason"]), (&"broker".into(), &"the grant does not allow forward-local to there".into()));
    }
}

#[test]
fn what_a_session_goes_on_without_is_told_on_its_terminal_and_in_debug_messages() {
    let lab = lab("allow = [\"shell\"]");
    let mut ssh = lab.ssh(&["-v", "-tt", "-R", "0:127.0.0.1:1", "-Y", "-o", "XAuthLocation=/nonexistent", "ins-a"]);
    let out = exchange(ssh.env("DISPLAY", "127.0.0.1:1"), b"sleep 1; exit 3\n");
    assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("\r\nssh-broker: the grant does not allow x11\r\n"), "{}", text(&out.stdout));
    for missing in ["x11", "forward-remote"] {
        let debug = format!("Remote: ssh-broker: the grant does not allow {missing}");
        assert!(text(&out.stderr).contains(&debug), "{missing}: {}", text(&out.stderr));
    }
    let out = lab.run(&["-v", "ins-a", "id"]);
    assert!(text(&out.stderr).contains("Remote: ssh-broker: the grant does not allow exec"), "{}", text(&out.stderr));
}

/// Opens a channel of a type that no program has, and shows how it was answered.
const STRANGE_CHANNEL: &str = "
import sys, paramiko
transport = paramiko.Transport(paramiko.ProxyCommand(sys.argv[1]))
transport.start_client(timeout=20)
transport.auth_none('root')
try:
    transport.open_channel('new@example.com', timeout=20)
except paramiko.ChannelException as refused:
    print(refused.code, refused.text)
transport.close()
";

#[test]
fn a_channel_of_an_unknown_type_reaches_the_instance_only_with_any() {
    let venv = std::env::var_os("LAB_VENV").map_or_else(|| "/var/lib/ssh-broker-tests/venv".into(), std::path::PathBuf::from);
    let answer = |grant: &str| {
        let lab = lab(grant);
        let proxy = format!("ssh -F {} -W ins-a:22 broker", lab.path("ssh_config").display());
        let mut python = lab.program(40, &venv.join("bin/python3").display().to_string());
        let out = python.args(["-c", STRANGE_CHANNEL, &proxy]).output().unwrap();
        let refused = lab.await_event(|event| event["event"] == "channel.refused");
        assert_eq!(refused["kind"], "new@example.com");
        (text(&out.stdout), refused["by"].as_str().unwrap().to_owned())
    };
    let (said, by) = answer("allow = [\"shell\"]");
    assert_eq!((said.as_str(), by.as_str()), ("1 Administratively prohibited\n", "broker"));
    // With the word it is sshd that refuses it.
    let (_, by) = answer("allow = [\"any\"]");
    assert_eq!(by, "instance");
}

/// `ssh` to the lab's sshd through a forward of a session on `ins-a`.
fn nested(lab: &Lab) -> std::process::Output {
    let config = lab.path("ssh_config").display().to_string();
    let mut ssh = lab.program(30, "ssh");
    ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i"]);
    ssh.arg(lab.path("ins-a.login")).arg("-o").arg(format!("ProxyCommand=ssh -v -F {config} -W 127.0.0.1:{} ins-a", lab.ssh_port));
    ssh.args(["root@127.0.0.1", "echo nested"]).output().unwrap()
}

#[test]
fn ssh_inside_of_a_forward_needs_its_own_word() {
    let lab = lab("allow = [\"exec\", \"forward-local\"]");
    let started = Instant::now();
    let out = nested(&lab);
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(255), String::new()), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("Remote: ssh-broker: the grant does not allow nested-ssh"), "{}", text(&out.stderr));
    assert!(started.elapsed() < Duration::from_secs(25), "both ends wait for each other");
    let to = format!("127.0.0.1:{}", lab.ssh_port);
    let refused = lab.await_event(|event| event["event"] == "channel.refused" && event["kind"] == "nested-ssh");
    assert_eq!((&refused["what"], &refused["by"]), (&to.as_str().into(), &"broker".into()));

    // Somebody who only looks reads a line, and the terminal of the session does too.
    let port = free_port();
    let forward = format!("{port}:{to}");
    let terminal = lab.ssh(&["-tt", "-L", &forward, "ins-a", "sleep 8; exit 6"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = [0; 12];
    connect(port).read_exact(&mut line).unwrap();
    assert_eq!(&line, b"ssh-broker: ");
    let out = terminal.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(6));
    assert!(text(&out.stdout).contains("\r\nssh-broker: the grant does not allow nested-ssh\r\n"), "{}", text(&out.stdout));

    let lab = self::lab("allow = [\"exec\", \"forward-local\", \"nested-ssh\"]");
    let out = nested(&lab);
    assert_eq!(text(&out.stdout), "nested\n", "{}", text(&out.stderr));
    let marked = lab.await_event(|event| event["event"] == "channel.marked");
    assert_eq!((&marked["kind"], &marked["what"]), (&"nested-ssh".into(), &format!("127.0.0.1:{}", lab.ssh_port).into()));
}

#[test]
fn a_granted_port_is_raw_tcp_both_ways() {
    let port = echo();
    let lab = lab(&format!("ports = [{port}]"));
    let to = format!("ins-a:{port}");
    let bytes = pattern(3_000_000);
    let out = exchange(&mut lab.ssh(&["-W", &to, "broker"]), &bytes);
    assert!(out.status.success() && out.stdout == [&bytes[..], b"bye"].concat(), "{} {}", out.stdout.len(), text(&out.stderr));
    let opened = lab.await_event(|event| event["event"] == "forward.opened");
    assert_eq!((&opened["kind"], &opened["port"], &opened["target"]), (&"tcp".into(), &port.into(), &"ins-a".into()));
    let closed = lab.await_event(|event| event["event"] == "forward.closed");
    assert_eq!((&closed["bytes_up"], &closed["bytes_down"]), (&3_000_000.into(), &3_000_003.into()));
    assert_eq!((&closed["ref"], &closed["reason"]), (&opened["ref"], &"both sides ended".into()));

    let local = free_port();
    let mut forwarding = lab.ssh(&["-N", "-L", &format!("{local}:ins-a.prod:{port}"), "broker"]).spawn().unwrap();
    drop(connect(local));
    let mut nc = lab.program(20, "nc");
    let out = exchange(nc.args(["-N", "127.0.0.1", &local.to_string()]), b"through nc ");
    assert_eq!(text(&out.stdout), "through nc bye");
    // Many at once, one of which its operator leaves in the midst.
    let mut streams: Vec<_> = (0..20).map(|_| connect(local)).collect();
    for (i, stream) in streams.iter_mut().enumerate() {
        stream.write_all(format!("{i:02}").as_bytes()).unwrap();
    }
    let mut left = streams.pop().unwrap();
    for (i, stream) in streams.iter_mut().enumerate() {
        let mut got = [0; 2];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, format!("{i:02}").as_bytes());
    }
    left.write_all(b"open").unwrap();
    terminate(&mut forwarding);
    let ends = |event: &serde_json::Value, name: &str| event["event"] == name;
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let audit = lab.audit();
        let count = |name: &str| audit.iter().filter(|event| ends(event, name)).count();
        if count("forward.opened") == 23 && count("forward.closed") == 23 {
            break;
        }
        assert!(Instant::now() < deadline, "{} {}", count("forward.opened"), count("forward.closed"));
        std::thread::sleep(Duration::from_millis(50));
    }
    // Port 22 is the session still.
    assert_eq!(text(&lab.run(&["ins-a", "echo in"]).stdout), "in\n");
}

#[test]
fn what_is_not_granted_or_not_there_is_refused_in_its_place() {
    let (port, other) = (echo(), echo());
    let dead = free_port();
    let instances = vec![Sshd::new("ins-a", "127.0.0.1"), Sshd::new("ins-b", "127.0.0.2")];
    let extra = format!(
        "[[grants]]\noperators = [\"alice\"]\ntargets = [\"ins-a\"]\nports = [{port}, {dead}]\n\n[[grants]]\noperators = [\"bob\"]\ntargets = [\"ins-*\"]\nports = [{port}]\n"
    );
    let lab = Lab::with(Plan { instances, extra, ..Plan::default() });
    let reads = |host: &str, port: u16| {
        let out = lab.run(&["-W", &format!("{host}:{port}"), "broker"]);
        assert_eq!((out.status.code(), text(&out.stdout)), (Some(255), String::new()));
        text(&out.stderr)
    };
    for (host, port, reason) in [("ins-a", other, format!("no grant allows port {other}")), ("ins-b", port, "no grant matches".to_owned())]
    {
        let errors = reads(host, port);
        let sentence = format!("open failed: administratively prohibited: ssh-broker: {host}: {REFUSED}");
        assert!(errors.contains(&sentence), "{errors}");
        let reference = errors.split(", ref ").nth(1).unwrap().split(']').next().unwrap().to_owned();
        let denied = lab.await_event(|event| event["ref"] == reference.as_str());
        assert_eq!((&denied["event"], &denied["reason"]), (&"target.denied".into(), &reason.into()));
    }
    assert_eq!(lab.endpoint.calls(Action::DescribeInstances) + lab.endpoint.calls(Action::GetInstanceAccess), 0);
    let errors = reads("web01", port);
    assert!(errors.contains("[target-name, ref "), "{errors}");
    let errors = reads("ins-a", dead);
    assert!(errors.contains("connect failed: ssh-broker: ins-a: nothing listens on the instance's port"), "{errors}");
    // A key without port forwarding has no ports either.
    let key = std::fs::read_to_string(lab.path("operator.pub")).unwrap();
    std::fs::write(lab.path("operators/bob"), format!("no-port-forwarding {key}")).unwrap();
    let out = lab.run(&["-l", "bob", "-W", &format!("ins-a:{port}"), "broker"]);
    assert!(text(&out.stderr).contains(REFUSED), "{}", text(&out.stderr));
}

#[test]
fn a_forward_ends_with_its_longest_time_and_one_that_stalls_costs_little() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let lab = lab(&format!("ports = [{port}]\nmax_session = \"4s\""));
    let before = lab.broker().rss();
    let mut ssh = lab.ssh(&["-W", &format!("ins-a:{port}"), "broker"]);
    let mut ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdin = ssh.stdin.take().unwrap();
    // More than the kernel's buffers hold, to somebody who reads nothing.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&vec![7; 64 << 20])));
    let (stream, _) = silent.accept().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let grown = lab.broker().rss().saturating_sub(before);
    assert!(grown < 24 * 1024, "{grown} KiB");
    let closed = lab.await_event(|event| event["event"] == "forward.closed");
    assert!(closed["reason"].as_str().unwrap().starts_with("broker: session-expired"), "{closed}");
    assert!(!drained(stream).is_empty());
    ssh.wait().unwrap();
    writer.join().unwrap();
}
