//! What is kept of a session: terminals for asciinema, file operations and forwards as lines, whatever happens to broker and disk.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::disk::Disk;
use crate::lab::{Lab, Plan, exchange, terminate, text};
use crate::leaks::files_below;

const ALL: &str = r#"allow = ["shell", "exec", "sftp", "forward-local", "forward-remote", "agent", "x11"]"#;

fn recorded(terms: &str) -> Lab {
    in_directory(terms, "")
}

/// With the recordings in another place than below the state.
fn in_directory(terms: &str, recording: &str) -> Lab {
    let extra = format!("{recording}\n[[grants]]\noperators = [\"alice\"]\ntargets = [\"ins-*\"]\n{ALL}\n{terms}\n");
    Lab::with(Plan { extra, ..Plan::default() })
}

/// Every file of the recordings with this ending, by name.
fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files = files_below(dir);
    files.retain(|file| file.extension().is_some_and(|extension| extension == ending));
    files.sort();
    files
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))).collect()
}

/// What a cast holds of one kind of event, put together.
fn stream(cast: &[Value], code: &str) -> String {
    cast.iter().skip(1).filter(|event| event[1] == code).map(|event| event[2].as_str().unwrap()).collect()
}

/// What `asciinema cat` shows of a file.
fn asciinema(path: &Path) -> Vec<u8> {
    let venv = std::env::var("LAB_VENV").unwrap_or_else(|_| "/var/lib/ssh-broker-tests/venv".to_owned());
    let mut command = Command::new(format!("{venv}/bin/asciinema"));
    let out = command.arg("cat").arg(path).env("LC_ALL", "C.UTF-8").stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    out.stdout
}

fn operations(log: &[Value], op: &str) -> Vec<Value> {
    log.iter().filter(|line| line["op"] == op).cloned().collect()
}

/// Waits until something is there.
fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within 20 s");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_terminal_is_kept_as_it_was_seen_and_asciinema_plays_it() {
    let lab = recorded("record = \"required\"");
    let dir = lab.path("state/recordings");
    // A terminal of our own whose size changes while the command runs.
    let script = r#"
import fcntl, os, pty, struct, sys, termios, time
pid, master = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
size = lambda rows, cols: fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))
size(30, 100)
seen = b""
resized = False
while True:
    try:
        data = os.read(master, 65536)
    except OSError:
        break
    if not data:
        break
    seen += data
    if not resized and b"ready" in seen:
        resized = True
        size(50, 132)
        time.sleep(0.3)
        os.write(master, b"go secret-word\n")
sys.stdout.buffer.write(seen)
"#;
    fs::write(lab.path("terminal.py"), script).unwrap();
    let mut python = lab.program(60, "python3");
    python.arg(lab.path("terminal.py")).args(["sh", "-c"]);
    let command = r#"stty -echo; printf '\033[1mnaïve 中文 "\\ \001'; echo ready; read line; stty size; printf 'half \344\270'; sleep 0.3; printf '\255 \377 end\n'"#;
    python.arg(format!("sleep 0.3; exec ssh -tt -F {} ins-a '{}'", lab.path("ssh_config").display(), command.replace('\'', r"'\''")));
    let out = python.env("TERM", "xterm-256color").output().unwrap();
    assert!(text(&out.stdout).contains("50 132"), "{} {}", text(&out.stdout), lab.log());
    lab.await_event(|event| event["event"] == "session.closed");

    let cast = files(&dir, "cast").pop().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode(&dir), mode(cast.parent().unwrap()), mode(&cast)), (0o700, 0o700, 0o600));
    let events = lines(&cast);
    let header = &events[0];
    assert_eq!((&header["version"], &header["width"], &header["height"]), (&2.into(), &100.into(), &30.into()), "{header}");
    assert_eq!(header["env"]["TERM"], "xterm-256color");
    assert!(header["title"].as_str().unwrap().starts_with("alice on ins-a"), "{header}");
    assert_eq!(stream(&events, "r"), "132x50");
    let output = stream(&events, "o");
    assert!(
        output.contains("\u{1b}[1mnaïve 中文 \"\\ \u{1}ready\r\n") && output.contains("50 132\r\nhalf 中 \u{fffd} end\r\n"),
        "{output:?}"
    );
    assert_eq!(stream(&events, "i"), "", "what is typed is not kept unless asked for");
    assert!(!fs::read_to_string(&cast).unwrap().contains("secret-word"));
    assert_eq!(text(&asciinema(&cast)), output);

    let name = format!("{}/{}", cast.parent().unwrap().file_name().unwrap().display(), cast.file_name().unwrap().display());
    let started = lab.await_event(|event| event["event"] == "recording.started" && event["channel"] == 1);
    let ended = lab.await_event(|event| event["event"] == "recording.ended" && event["channel"] == 1);
    assert_eq!((&started["file"], &ended["file"]), (&name.as_str().into(), &name.as_str().into()));
    assert_eq!(ended["bytes"], fs::metadata(&cast).unwrap().len());
    assert!(cast.file_name().unwrap().to_string_lossy().starts_with(started["ref"].as_str().unwrap()));
    let log = lines(&files(&dir, "jsonl")[0]);
    assert_eq!((&log[0]["operator"], &log[0]["target"]), (&"alice".into(), &"ins-a".into()));
    assert_eq!((&log[1]["op"], &log[1]["cast"]), (&"begin".into(), &name.as_str().into()));
    assert_eq!((&log[2]["op"], &log[2]["exit_status"]), (&"end".into(), &0.into()));
}

#[test]
fn what_is_typed_is_kept_when_the_grant_says_so_and_each_channel_has_a_file() {
    let lab = recorded("record = \"best-effort\"\nrecord_input = true");
    let dir = lab.path("state/recordings");
    let socket = format!("ControlPath={}", lab.path("master").display());
    let mut master = lab.ssh(&["-N", "-o", "ControlMaster=yes", "-o", &socket, "ins-a"]).spawn().unwrap();
    eventually("the master's socket", || lab.path("master").exists().then_some(()));
    std::thread::scope(|scope| {
        for n in 0..20 {
            let (lab, socket) = (&lab, &socket);
            scope.spawn(move || {
                let mut ssh = lab.ssh(&["-tt", "-o", socket, "ins-a", "stty -echo; read line; echo got-$line"]);
                let out = exchange(&mut ssh, format!("line-{n}\n").as_bytes());
                assert!(text(&out.stdout).contains(&format!("got-line-{n}")), "{}", text(&out.stdout));
            });
        }
    });
    let _ = lab.run(&["-O", "exit", "-o", &socket, "ins-a"]);
    terminate(&mut master);
    lab.await_event(|event| event["event"] == "session.closed");
    let casts = files(&dir, "cast");
    assert_eq!(casts.len(), 20);
    let mut typed: Vec<String> = casts.iter().map(|cast| stream(&lines(cast), "i")).collect();
    typed.sort();
    let mut expected: Vec<String> = (0..20).map(|n| format!("line-{n}\n")).collect();
    expected.sort();
    assert_eq!(typed, expected);
    assert_eq!(files(&dir, "jsonl").len(), 1);
}

#[test]
fn copies_are_kept_as_operations_and_never_as_content() {
    let lab = recorded("record = \"required\"");
    let dir = lab.path("state/recordings");
    let content = b"CONTENT-MARKER-".repeat(20_000);
    let (local, remote) = (lab.path("local"), lab.path("remote"));
    fs::create_dir_all(local.join("sub")).unwrap();
    fs::create_dir(&remote).unwrap();
    fs::write(local.join("one"), &content).unwrap();
    fs::write(local.join("sub/two words"), &content[..1000]).unwrap();
    let at = |path: &Path| path.display().to_string();
    let config = at(&lab.path("ssh_config"));
    let run = |name: &str, arguments: &[&str]| {
        let out = lab.program(60, name).args(arguments).output().unwrap();
        assert!(out.status.success(), "{name} {arguments:?}: {} {}", text(&out.stderr), lab.log());
        // One log after the other.
        let ended = lab.audit().iter().filter(|event| event["event"] == "session.opened").count();
        eventually("the session's end", || {
            let closed = lab.audit().iter().filter(|event| event["event"] == "session.closed").count();
            (closed == ended).then_some(())
        });
    };
    let newest = || {
        let logs = files(&dir, "jsonl");
        let newest = logs.into_iter().max_by_key(|log| fs::metadata(log).unwrap().modified().unwrap()).unwrap();
        let text = fs::read_to_string(&newest).unwrap();
        assert!(!text.contains("CONTENT-MARKER"), "{text}");
        lines(&newest)
    };
    let of = |log: &[Value], op: &str| -> Vec<(Value, Value, Value, Value)> {
        let told = operations(log, op).into_iter();
        told.map(|line| {
            let bytes = if line["bytes_up"].is_null() { line["bytes_down"].clone() } else { line["bytes_up"].clone() };
            (line["direction"].clone(), line["name"].clone(), bytes, line["result"].clone())
        })
        .collect()
    };
    let told = |direction: &str, name: Option<&str>, bytes: usize, result: &str| {
        (Value::from(direction), name.map_or(Value::Null, Value::from), Value::from(bytes), Value::from(result))
    };

    let to = format!("ins-a:{}", at(&remote));
    run("scp", &["-F", &config, "-O", "-r", &at(&local), &to]);
    let log = newest();
    let expected = [told("up", Some("local/one"), content.len(), "ok"), told("up", Some("local/sub/two words"), 1000, "ok")];
    let mut seen = of(&log, "file");
    seen.sort_by_key(|file| file.1.to_string());
    assert_eq!(seen, expected, "{log:#?}");

    run("scp", &["-F", &config, "-O", &format!("{to}/local/one"), &at(&lab.path("back"))]);
    let log = newest();
    assert_eq!(of(&log, "file"), [told("down", Some("one"), content.len(), "ok")], "{log:#?}");
    assert_eq!(operations(&log, "file")[0]["path"], format!("{}/local/one", at(&remote)));

    run("scp", &["-F", &config, "-s", &at(&local.join("one")), &format!("{to}/by-sftp")]);
    let log = newest();
    assert_eq!(of(&log, "file"), [told("up", None, content.len(), "ok")], "{log:#?}");
    assert_eq!(operations(&log, "file")[0]["path"], format!("{}/by-sftp", at(&remote)));

    let batch = lab.path("batch");
    let commands = format!(
        "mkdir {0}/made\nput {1}/one {0}/made/put\nget {0}/made/put {2}\nrename {0}/made/put {0}/made/moved\nls {0}\nchmod 600 {0}/made/moved\n\
         ln -s target {0}/made/link\nrm {0}/made/moved\n-get {0}/none {2}\n-rmdir {0}/made\n",
        at(&remote),
        at(&local),
        at(&lab.path("got")),
    );
    fs::write(&batch, commands).unwrap();
    run("sftp", &["-F", &config, "-b", &at(&batch), "ins-a"]);
    let log = newest();
    let done: Vec<String> =
        log.iter().map(|line| format!("{} {}", line["op"].as_str().unwrap_or(""), line["result"].as_str().unwrap_or(""))).collect();
    for expected in ["mkdir ok", "file ok", "rename ok", "list ok", "setstat ok", "symlink ok", "remove ok", "rmdir failure"] {
        assert!(done.iter().any(|line| line == expected), "{expected} is not in {done:#?}");
    }
    let files: Vec<_> = of(&log, "file");
    assert_eq!(files, [told("up", None, content.len(), "ok"), told("down", None, content.len(), "ok")], "{log:#?}");

    let shell = format!("ssh -F {config}");
    run("rsync", &["-a", "-e", &shell, &at(&local), &format!("{to}/synced")]);
    let log = newest();
    let rsync = &operations(&log, "rsync")[0];
    assert_eq!((&rsync["direction"], &rsync["result"]), (&"up".into(), &"ok".into()), "{log:#?}");
    assert!(rsync["path"].as_str().unwrap().ends_with("/synced") && rsync["bytes_up"].as_u64().unwrap() >= content.len() as u64);
    run("rsync", &["-a", "-e", &shell, &format!("{to}/synced/local/one"), &at(&lab.path("pulled"))]);
    assert_eq!(operations(&newest(), "rsync")[0]["direction"], "down");
    assert_eq!(fs::read(lab.path("pulled")).unwrap(), content);
}

#[test]
fn forwards_are_kept_as_flows() {
    let echo = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = echo.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in echo.incoming() {
            let mut stream = stream.unwrap();
            let mut got = vec![0; 5];
            stream.read_exact(&mut got).unwrap();
            stream.write_all(b"answered").unwrap();
        }
    });
    let lab = recorded(&format!("record = \"required\"\nports = [{port}]"));
    let mut ssh = lab.ssh(&["-W", &format!("127.0.0.1:{port}"), "ins-a"]);
    assert_eq!(exchange(&mut ssh, b"asked").stdout, b"answered");
    lab.await_event(|event| event["event"] == "session.closed");
    let log = lines(&files(&lab.path("state/recordings"), "jsonl")[0]);
    let flow = &operations(&log, "flow")[0];
    assert_eq!((&flow["kind"], &flow["what"]), (&"direct-tcpip".into(), &format!("127.0.0.1:{port}").into()));
    assert_eq!((&flow["bytes_up"], &flow["bytes_down"]), (&5.into(), &8.into()));
    assert!(flow["duration_s"].is_number());

    // Raw TCP to a port of the target is one too.
    let mut ssh = lab.ssh(&["-W", &format!("ins-a:{port}"), "broker"]);
    assert_eq!(exchange(&mut ssh, b"asked").stdout, b"answered");
    let closed = lab.await_event(|event| event["event"] == "forward.closed");
    let reference = closed["ref"].as_str().unwrap();
    let logs = files(&lab.path("state/recordings"), "jsonl");
    let log = logs.iter().find(|log| log.file_name().unwrap().to_string_lossy().starts_with(reference)).unwrap();
    let flow = &operations(&lines(log), "flow")[0];
    assert_eq!((&flow["kind"], &flow["bytes_up"], &flow["bytes_down"]), (&"tcp".into(), &5.into(), &8.into()));
    assert!(flow["what"].as_str().unwrap().ends_with(&format!(":{port}")), "{flow}");
}

#[test]
fn a_killed_broker_leaves_recordings_that_play_to_the_last_second() {
    let mut lab = recorded("record = \"required\"");
    let dir = lab.path("state/recordings");
    let mut busy =
        lab.ssh(&["-tt", "ins-a", "while :; do head -c 100000 /dev/urandom | od -c; done"]).stdout(Stdio::null()).spawn().unwrap();
    let mut slow =
        lab.ssh(&["-tt", "ins-a", "i=0; while :; do i=$((i+1)); echo line-$i; sleep 0.1; done"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut seen = String::new();
    let mut out = slow.stdout.take().unwrap();
    let mut block = [0; 4096];
    while !seen.contains("line-30\r\n") {
        let n = out.read(&mut block).unwrap();
        assert!(n > 0, "{seen} {}", lab.log());
        seen.push_str(&text(&block[..n]));
    }
    let size = |cast: &PathBuf| fs::metadata(cast).unwrap().len();
    eventually("much output", || files(&dir, "cast").iter().any(|cast| size(cast) > 500_000).then_some(()));
    lab.broker.take().unwrap().signal(Signal::KILL);
    let casts = files(&dir, "cast");
    assert_eq!(casts.len(), 2);
    let shown: Vec<String> = casts.iter().map(|cast| text(&asciinema(cast))).collect();
    let slow_one = shown.iter().find(|shown| shown.contains("line-1\r\n")).unwrap();
    assert!(slow_one.contains("line-20\r\n"), "{slow_one}");
    assert!(shown.iter().any(|shown| shown.len() > 100_000));
    files(&dir, "jsonl").iter().for_each(|log| assert!(lines(log).len() > 1));
    terminate(&mut busy);
    terminate(&mut slow);
}

#[test]
fn a_full_disk_ends_what_must_be_recorded_and_nothing_else() {
    let place = tempfile::tempdir().unwrap();
    let disk = Disk::mount(place.path().join("disk"), "4m");
    let extra = format!(
        "[recording]\ndir = \"{}\"\n[[grants]]\noperators = [\"alice\"]\ntargets = [\"ins-*\"]\nrecord = \"required\"\n{ALL}\n\
         [[grants]]\noperators = [\"bob\"]\ntargets = [\"ins-*\"]\n{ALL}\n",
        disk.path().display()
    );
    let lab = Lab::with(Plan { extra, ..Plan::default() });
    let config = fs::read_to_string(lab.path("ssh_config")).unwrap();
    fs::write(lab.path("bob_config"), config.replace("User alice", "User bob")).unwrap();
    let as_bob = |command: &str| {
        let mut ssh = lab.program(60, "ssh");
        ssh.arg("-F").arg(lab.path("bob_config")).args(["ins-a", command]);
        ssh.output().unwrap()
    };
    // One that says nothing is ended too, and the administrator's own goes on.
    let idle = lab.ssh(&["ins-a", "sleep 60"]).stderr(Stdio::piped()).spawn().unwrap();
    lab.await_event(|event| event["event"] == "channel.opened");
    disk.fill();
    let full = Instant::now();
    let ended = idle.wait_with_output().unwrap();
    let took = full.elapsed();
    let sentence = "ssh-broker: ins-a: this session must be recorded, and its recording failed [recording-failed, ref ";
    assert!(text(&ended.stderr).contains(sentence), "{}", text(&ended.stderr));
    assert!(took < Duration::from_secs(5), "{took:?}");
    let refused = lab.run(&["ins-a", "echo not-reached"]);
    assert!(text(&refused.stderr).contains(sentence) && refused.stdout.is_empty(), "{}", text(&refused.stderr));
    assert_eq!(text(&as_bob("echo still-here").stdout), "still-here\n");
    let failed = lab.await_event(|event| event["event"] == "recording.failed");
    assert_eq!(failed["required"], true);
    assert!(failed["reason"].as_str().unwrap().contains("space"), "{failed}");

    // With room again, a session that fills the disk itself.
    disk.clear();
    let begun = Instant::now();
    let ended = lab.ssh(&["-tt", "ins-a", "yes $(seq 1000)"]).stdout(Stdio::null()).output().unwrap();
    assert!(text(&ended.stderr).contains(sentence), "{} after {:?}", text(&ended.stderr), begun.elapsed());
    for cast in files(disk.path(), "cast") {
        assert!(!asciinema(&cast).is_empty());
    }
}

#[test]
fn what_may_go_unrecorded_goes_on_and_the_audit_says_so() {
    let place = tempfile::tempdir().unwrap();
    let disk = Disk::mount(place.path().join("disk"), "256k");
    let lab = in_directory("record = \"best-effort\"", &format!("[recording]\ndir = \"{}\"", disk.path().display()));
    let out = lab.run(&["-tt", "ins-a", "seq 200000; echo done"]);
    assert!(out.status.success() && text(&out.stdout).ends_with("done\r\n"), "{}", text(&out.stderr));
    assert_eq!(lab.await_event(|event| event["event"] == "recording.failed")["required"], false);
    disk.fill();
    let out = lab.run(&["ins-a", "echo unrecorded"]);
    assert_eq!(text(&out.stdout), "unrecorded\n", "{}", text(&out.stderr));
}

#[test]
fn without_a_place_to_record_what_must_be_recorded_does_not_begin() {
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("file"), "in the way").unwrap();
    let lab = in_directory("record = \"required\"", &format!("[recording]\ndir = \"{}/file\"", place.path().display()));
    let out = lab.run(&["ins-a", "echo not-reached"]);
    assert!(text(&out.stderr).contains("[recording-failed, ref ") && out.stdout.is_empty(), "{}", text(&out.stderr));
    assert!(lab.log().contains("recording.dir"), "{}", lab.log());
}

#[test]
fn an_sftp_channel_that_is_none_ends_a_session_that_must_be_recorded() {
    let lab = recorded("record = \"required\"");
    let mut ssh = lab.ssh(&["-s", "ins-a", "sftp"]);
    let out = exchange(&mut ssh, b"GET / HTTP/1.1\r\n\r\n");
    assert!(text(&out.stderr).contains("[recording-failed, ref "), "{}", text(&out.stderr));
}

#[test]
fn much_output_through_a_recorded_terminal_neither_hangs_nor_buffers() {
    let lab = recorded("record = \"required\"");
    let file = lab.path("much");
    let line = format!("{}\n", "0123456789 abcdefghijklmnopqrstuvwxyz \"quoted\" \\ naïve ".repeat(2));
    fs::write(&file, line.repeat((64 << 20) / line.len())).unwrap();
    let before = lab.broker().rss();
    let mut most = 0;
    let mut ssh = lab.ssh(&["-tt", "ins-a", &format!("cat {}", file.display())]).stdout(Stdio::piped()).spawn().unwrap();
    let (mut out, mut block, mut got) = (ssh.stdout.take().unwrap(), vec![0; 1 << 20], 0);
    loop {
        let n = out.read(&mut block).unwrap();
        if n == 0 {
            break;
        }
        got += n;
        most = most.max(lab.broker().rss());
    }
    assert!(ssh.wait().unwrap().success());
    assert!(got > 64 << 20);
    assert!(most.saturating_sub(before) < 16 * 1024, "{} KiB more than before", most - before);
    lab.await_event(|event| event["event"] == "session.closed");
    let cast = files(&lab.path("state/recordings"), "cast").pop().unwrap();
    assert_eq!(stream(&lines(&cast), "o").len(), got);
}
