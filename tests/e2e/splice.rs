//! That nothing hangs, nothing is lost and memory stays flat, whatever stands still or begins new keys.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::lab::{Lab, text};

/// Sends `size` zeros through `cat` on the instance; the reader sleeps first. Gives what came back.
fn full_duplex(lab: &Lab, size: usize, sleep: Duration, arguments: &[&str]) -> usize {
    let mut all = arguments.to_vec();
    all.extend(["ins-a", "cat"]);
    let mut child = lab.ssh(&all).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let writer = std::thread::spawn(move || {
        let block = vec![0; 1 << 20];
        (0..size >> 20).try_for_each(|_| stdin.write_all(&block))
    });
    std::thread::sleep(sleep);
    let (mut got, mut block) = (0, vec![0; 1 << 20]);
    loop {
        match stdout.read(&mut block).unwrap() {
            0 => break,
            n => got += n,
        }
    }
    writer.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
    got
}

/// The proof that the splice is right: 200 MB both ways at once with a reader that sleeps first, again and again.
#[test]
fn full_duplex_with_a_slow_reader_never_hangs() {
    let lab = Lab::start();
    let before = lab.broker().rss();
    for round in 0..20 {
        let sleep = if round < 3 { Duration::from_secs(3) } else { Duration::from_millis(300) };
        assert_eq!(full_duplex(&lab, 200 << 20, sleep, &[]), 200 << 20);
    }
    let grown = lab.broker().rss().saturating_sub(before);
    assert!(grown < 40 * 1024, "{grown} KiB more than before");
}

#[test]
fn both_legs_rekey_under_load() {
    let lab = Lab::with(crate::lab::Plan {
        instances: vec![crate::lab::Sshd::new("ins-a", "127.0.0.1").option("RekeyLimit 1M")],
        ..Default::default()
    });
    assert_eq!(full_duplex(&lab, 100 << 20, Duration::from_millis(100), &["-o", "RekeyLimit=1M"]), 100 << 20);
    let out = lab.run(&["-v", "-o", "RekeyLimit=1M", "ins-a", "head -c 20M /dev/zero | md5sum; head -c 20M /dev/zero"]);
    assert!(out.status.success());
    assert!(text(&out.stderr).matches("SSH2_MSG_NEWKEYS received").count() > 10);
}

#[test]
fn a_stalled_channel_leaves_its_neighbours_alone_and_memory_flat() {
    let lab = Lab::start();
    let socket = format!("ControlPath={}", lab.path("master").display());
    // The command never reads: what is sent to it stands still at its window.
    let mut stalled = lab
        .ssh(&["-o", "ControlMaster=yes", "-o", &socket, "ins-a", "sleep 100"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = stalled.stdin.take().unwrap();
    std::thread::spawn(move || {
        let block = vec![0; 1 << 20];
        while stdin.write_all(&block).is_ok() {}
    });
    let deadline = Instant::now() + Duration::from_secs(10);
    while !lab.path("master").exists() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
    // And one whose output nobody reads.
    let mut unread = lab.ssh(&["-o", &socket, "ins-a", "cat /dev/zero"]).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_secs(2));
    let before = lab.broker().rss();
    for _ in 0..10 {
        let started = Instant::now();
        let out = lab.run(&["-o", &socket, "ins-a", "echo alive"]);
        assert_eq!(text(&out.stdout), "alive\n");
        assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    }
    std::thread::sleep(Duration::from_secs(2));
    let grown = lab.broker().rss().saturating_sub(before);
    assert!(grown < 8 * 1024, "{grown} KiB more than before");
    crate::lab::terminate(&mut unread);
    let _ = lab.run(&["-O", "exit", "-o", &socket, "ins-a"]);
    crate::lab::terminate(&mut stalled);
}
