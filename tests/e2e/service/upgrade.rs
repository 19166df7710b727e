use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;

use super::supervisor::Supervisor;
use crate::lab::{Lab, Plan, Sshd, text};

/// `tests/upgrades N` sets another number.
fn rounds() -> usize {
    std::env::var("UPGRADES").ok().and_then(|text| text.parse().ok()).unwrap_or(10)
}

fn session(lab: &Lab, command: &str) -> Child {
    let session = lab.ssh(&["ins-a", command]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    lab.await_event(|event| event["event"] == "channel.opened" && event["what"] == command);
    session
}

fn upgrade(supervisor: &mut Supervisor) {
    let before = supervisor.main();
    supervisor.signal(Signal::USR2);
    supervisor.hear("MAINPID=");
    supervisor.hear("READY=1");
    assert_ne!(supervisor.main(), before);
}

/// Puts another program in the broker's place, as a package does.
fn install(lab: &Lab, program: &str) {
    fs::remove_file(lab.program_path()).unwrap();
    match program.strip_prefix("#!") {
        Some(_) => {
            fs::write(lab.program_path(), program).unwrap();
            fs::set_permissions(lab.program_path(), fs::Permissions::from_mode(0o755)).unwrap();
        }
        None => symlink(program, lab.program_path()).unwrap(),
    }
}

#[test]
fn upgrades_in_a_row_refuse_no_connection_and_break_no_session() {
    let mut supervisor = Supervisor::new();
    // New instances on the way: the processes share the pins.
    let instances = vec![Sshd::new("ins-a", "127.0.0.1"), Sshd::new("ins-b", "127.0.0.2"), Sshd::new("ins-c", "127.0.0.3")];
    let lab = supervisor.lab(Plan { instances, ..Plan::default() });
    let go = lab.path("go").display().to_string();
    let long = session(&lab, &format!("until [ -e {go} ]; do sleep 0.1; done; echo whole"));
    let (over, logins) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let lab = &lab;
        let (over, logins) = (&over, &logins);
        for instance in ["ins-a", "ins-b", "ins-c"] {
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let out = lab.run(&[instance, "echo in"]);
                    if text(&out.stdout) != "in\n" || !out.status.success() {
                        over.store(true, Ordering::Relaxed);
                        panic!("{}\n{}", text(&out.stderr), lab.log());
                    }
                    logins.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for _ in 0..rounds() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let before = logins.load(Ordering::Relaxed);
            upgrade(&mut supervisor);
            while logins.load(Ordering::Relaxed) < before + 2 && !over.load(Ordering::Relaxed) {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(logins.load(Ordering::Relaxed) >= 2 * rounds());
    fs::write(&go, b"").unwrap();
    let out = long.wait_with_output().unwrap();
    assert_eq!((text(&out.stdout).as_str(), out.status.code()), ("whole\n", Some(0)), "{}", text(&out.stderr));
    supervisor.signal(Signal::TERM);

    // Each process counts its own events, without a gap, and every session that began has its end.
    lab.await_event(|event| event["event"] == "session.closed" && event["duration_s"].as_f64().is_some_and(|s| s > 1.0));
    let events = lab.audit();
    let mut next = std::collections::BTreeMap::new();
    for event in &events {
        let process = event["process"].as_str().unwrap();
        let seq = next.entry(process).or_insert(1_u64);
        assert_eq!(event["seq"], *seq, "{event}");
        *seq += 1;
    }
    assert!(next.len() > rounds() / 2, "{next:?}");
    assert_eq!(fs::read_to_string(lab.path("state/known_hosts")).unwrap().lines().count(), 3);
}

#[test]
fn a_binary_that_cannot_serve_leaves_the_old_one_in_charge() {
    let mut supervisor = Supervisor::new();
    let lab = supervisor.lab(Plan::default());
    let before = supervisor.main();
    let good = fs::read_link(lab.program_path()).unwrap().display().to_string();
    for (bad, why) in [("#!/bin/sh\nexit 3\n", "exit status: 3"), ("/nonexistent", "No such file"), ("/bin/true", "exit status: 0")] {
        install(&lab, bad);
        supervisor.signal(Signal::USR2);
        let said = supervisor.hear("the last upgrade failed");
        assert!(said.contains(why), "{said}");
        assert_eq!(text(&lab.run(&["ins-a", "echo in"]).stdout), "in\n");
    }
    // The binary is good and the configuration is not.
    install(&lab, &good);
    let config = fs::read_to_string(lab.path("broker.toml")).unwrap();
    lab.edit(|text| text.replace("region = ", "regoin = "));
    supervisor.signal(Signal::USR2);
    supervisor.hear("the last upgrade failed: it ended before it was ready (exit status: 2)");
    assert_eq!(supervisor.main(), before);
    lab.edit(|_| config);
    upgrade(&mut supervisor);
    assert_eq!(text(&lab.run(&["ins-a", "echo in"]).stdout), "in\n");
}

#[test]
fn an_old_process_serves_its_connection_on_and_then_goes() {
    let mut supervisor = Supervisor::new();
    let mut lab = supervisor.lab(Plan { extra: "[service]\nstop_timeout = \"1s\"\n".to_owned(), ..Plan::default() });
    let control = lab.path("control").display().to_string();
    let mut master = lab.program(90, "ssh");
    master.arg("-F").arg(lab.path("ssh_config")).args([
        "-o",
        &format!("ControlPath={control}"),
        "-o",
        "ControlMaster=yes",
        "ins-a",
        "sleep 60",
    ]);
    let mut master = master.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    lab.await_event(|event| event["event"] == "channel.opened");
    let mut old = lab.broker.take().unwrap();
    upgrade(&mut supervisor);
    let on_the_old = lab.run(&["-o", &format!("ControlPath={control}"), "ins-a", "echo old"]);
    assert_eq!(text(&on_the_old.stdout), "old\n");
    assert_eq!(text(&lab.run(&["ins-a", "echo new"]).stdout), "new\n");
    crate::lab::terminate(&mut master);
    assert_eq!(old.wait(std::time::Duration::from_secs(30)), Some(0), "{}", lab.log());
    assert_eq!(text(&lab.run(&["ins-a", "echo new"]).stdout), "new\n");
}
