//! What people and machines do all day: commands, shells, files.

use std::io::Write;
use std::process::Stdio;
use std::time::Duration;

use crate::lab::{Lab, text};

#[test]
fn a_command_runs_with_its_output_its_errors_and_its_status() {
    let lab = Lab::start();
    for status in [0, 1, 7, 127, 254] {
        let out = lab.run(&["ins-a", &format!("echo to-stdout; echo to-stderr >&2; exit {status}")]);
        assert_eq!(out.status.code(), Some(status), "{}", text(&out.stderr));
        assert_eq!((text(&out.stdout), text(&out.stderr)), ("to-stdout\n".to_owned(), "to-stderr\n".to_owned()));
    }
    let killed = lab.run(&["-v", "ins-a", "kill -TERM $$"]);
    assert_eq!(killed.status.code(), Some(255));
    assert!(text(&killed.stderr).contains("exit-signal"), "{}", text(&killed.stderr));
    let closed = lab.await_event(|event| event["event"] == "channel.closed" && event.get("exit_signal").is_some());
    assert_eq!(closed["exit_signal"], "TERM");
}

#[test]
fn the_operators_own_ssh_j_works_and_the_inner_user_name_is_ignored() {
    let lab = Lab::start();
    for arguments in [&["-J", "broker", "ins-a", "id -un"][..], &["nobody@ins-a", "id -un"], &["ins-a.fleet-lab-1", "id -un"]] {
        let out = lab.run(arguments);
        assert_eq!(text(&out.stdout), "root\n", "{}", text(&out.stderr));
    }
    let out = lab.run(&["-J", "broker", "INS-A.prod", "id -un"]);
    assert_eq!(text(&out.stdout), "root\n", "{}", text(&out.stderr));
}

#[test]
fn standard_input_arrives_whole_with_its_end() {
    let lab = Lab::start();
    let bytes: Vec<u8> = (0..3_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut child = lab.ssh(&["ins-a", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).unwrap());
    let out = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(out.status.success() && out.stdout == bytes);
    assert_eq!(text(&lab.run(&["-n", "ins-a", "wc -c"]).stdout), "0\n");
}

#[test]
fn a_terminal_has_its_size_its_type_and_its_end() {
    let lab = Lab::start();
    let out = lab.ssh(&["-tt", "ins-a", "test -t 0 && test -t 1 && echo $TERM; tty"]).env("TERM", "xterm-lab").output().unwrap();
    let shown = text(&out.stdout);
    assert!(shown.contains("xterm-lab") && shown.contains("/dev/pts/"), "{shown}");
    let opened = lab.await_event(|event| event["event"] == "channel.opened");
    assert_eq!(opened["pty"], true);
}

#[test]
fn the_environment_that_the_instance_accepts_passes() {
    let lab = Lab::start();
    let out = lab.ssh(&["-o", "SendEnv=LAB_WORD", "ins-a", "echo $LAB_WORD"]).env("LAB_WORD", "passed").output().unwrap();
    assert_eq!(text(&out.stdout), "passed\n");
}

#[test]
fn files_go_both_ways_with_scp_sftp_and_rsync() {
    let lab = Lab::start();
    let content: Vec<u8> = (0..2_500_000u32).flat_map(|i| i.to_le_bytes()).collect();
    std::fs::write(lab.path("file"), &content).unwrap();
    let config = lab.path("ssh_config").display().to_string();
    let (file, dir) = (lab.path("file").display().to_string(), lab.path("").display().to_string());
    for (name, protocol) in [("scp", "-O"), ("scp", "-s")] {
        for (from, to, result) in
            [(file.clone(), format!("ins-a:{dir}/up"), "up"), (format!("ins-a:{file}"), format!("{dir}/down"), "down")]
        {
            let out = lab.program(60, name).args(["-q", protocol, "-F", &config, &from, &to]).output().unwrap();
            assert!(out.status.success(), "{name} {protocol}: {}", text(&out.stderr));
            assert!(std::fs::read(lab.path(result)).unwrap() == content, "{name} {protocol} {result}");
            std::fs::remove_file(lab.path(result)).unwrap();
        }
    }
    let batch = lab.path("batch");
    std::fs::write(
        &batch,
        format!("put {file} {dir}/sftp-up\nget {dir}/sftp-up {dir}/sftp-down\nls -l {dir}\nrename {dir}/sftp-up {dir}/x\n"),
    )
    .unwrap();
    let out = lab.program(60, "sftp").args(["-q", "-F", &config, "-b"]).arg(&batch).arg("ins-a").output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    assert!(std::fs::read(lab.path("sftp-down")).unwrap() == content && lab.path("x").exists());
    let remote_shell = format!("ssh -F {config}");
    for (from, to) in [(file.clone(), format!("ins-a:{dir}/rsync-up")), (format!("ins-a:{file}"), format!("{dir}/rsync-down"))] {
        let out = lab.program(60, "rsync").args(["-a", "--checksum", "-e", &remote_shell, &from, &to]).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
    }
    assert!(std::fs::read(lab.path("rsync-up")).unwrap() == content && std::fs::read(lab.path("rsync-down")).unwrap() == content);
    lab.await_event(|event| event["event"] == "channel.opened" && event["kind"] == "subsystem" && event["what"] == "sftp");
}

#[test]
fn one_master_connection_carries_a_hundred_channels() {
    let lab = Lab::start();
    let socket = format!("ControlPath={}", lab.path("master").display());
    let mut master = lab.program(100, "ssh");
    master.arg("-F").arg(lab.path("ssh_config")).args(["-N", "-o", "ControlMaster=yes", "-o", &socket, "ins-a"]);
    let mut master = master.spawn().unwrap();
    for _ in 0..200 {
        if lab.path("master").exists() {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let children: Vec<_> = (0..100)
        .map(|i| {
            let mut ssh = lab.ssh(&["-o", &socket, "ins-a", &format!("sleep 0.5; echo {i}; exit {}", i % 50)]);
            ssh.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for (i, child) in children.into_iter().enumerate() {
        let out = child.wait_with_output().unwrap();
        assert_eq!((text(&out.stdout), out.status.code()), (format!("{i}\n"), Some(i as i32 % 50)), "{}", text(&out.stderr));
    }
    let stopped = lab.run(&["-O", "exit", "-o", &socket, "ins-a"]);
    assert!(stopped.status.success());
    master.wait().unwrap();
    assert_eq!(lab.audit().iter().filter(|event| event["event"] == "session.opened").count(), 1);
}

#[test]
fn forwards_of_every_kind_carry() {
    let lab = Lab::start();
    let port = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let (local, dynamic) = (port(), port());
    let banner = |port: u16| {
        use std::io::Read;
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut line = [0; 8];
        stream.read_exact(&mut line).ok()?;
        Some(line)
    };
    let sockets = (lab.path("forward.sock").display().to_string(), lab.path("reverse.sock").display().to_string());
    let mut ssh = lab
        .ssh(&[
            "-N",
            "-o",
            "ExitOnForwardFailure=yes",
            "-L",
            &format!("{local}:127.0.0.1:{}", lab.ssh_port),
            "-D",
            &dynamic.to_string(),
            "-L",
            &format!("{}:127.0.0.1:{}", sockets.0, lab.ssh_port),
            "-R",
            &format!("{}:127.0.0.1:{}", sockets.1, lab.ssh_port),
            "ins-a",
        ])
        .spawn()
        .unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(15);
    while banner(local).is_none() {
        assert!(std::time::Instant::now() < deadline, "{}", lab.log());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(&banner(local).unwrap(), b"SSH-2.0-");
    for socket in [&sockets.0, &sockets.1] {
        use std::io::Read;
        let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut line = [0; 8];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"SSH-2.0-");
    }
    let through = lab
        .program(20, "ssh")
        .args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i"])
        .arg(lab.path("ins-a.login"))
        .args([
            "-o",
            &format!("ProxyCommand=nc -X 5 -x 127.0.0.1:{dynamic} %h %p"),
            "-p",
            &lab.ssh_port.to_string(),
            "root@127.0.0.1",
            "echo socks",
        ])
        .output()
        .unwrap();
    assert_eq!(text(&through.stdout), "socks\n", "{}", text(&through.stderr));
    crate::lab::terminate(&mut ssh);
    let remote = lab.run(&["-R", &format!("0:127.0.0.1:{}", lab.ssh_port), "ins-a", "sleep 0.3; ss -ltn | grep -c 127.0.0.1"]);
    assert!(text(&remote.stderr).contains("Allocated port"), "{}", text(&remote.stderr));
    lab.await_event(|event| event["event"] == "channel.opened" && event["kind"] == "direct-tcpip");
    lab.await_event(|event| event["event"] == "channel.opened" && event["kind"] == "forwarded-streamlocal@openssh.com");
}
