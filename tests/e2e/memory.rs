//! What sessions take of the broker's memory. `tests/bench memory` has the figures of a release build; the bounds here leave it room.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::lab::{Lab, terminate};

/// A session that said it is there, and now waits.
fn open(lab: &Lab) -> Child {
    let mut child = lab.program(120, "ssh");
    child.arg("-F").arg(lab.path("ssh_config")).args(["ins-a", "echo ready; read end"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

#[test]
fn an_idle_session_holds_no_buffers() {
    const SESSIONS: u64 = 24;
    let lab = Lab::start();
    // What the first one of all brings along stays.
    terminate(&mut open(&lab));
    let before = lab.broker().rss();
    let mut sessions: Vec<Child> = (0..SESSIONS).map(|_| open(&lab)).collect();
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let each = lab.broker().rss().saturating_sub(before) / SESSIONS;
        if each <= 180 {
            break;
        }
        assert!(Instant::now() < deadline, "{each} KiB each");
        std::thread::sleep(Duration::from_millis(500));
    }
    sessions.iter_mut().for_each(terminate);
}

#[test]
fn a_session_that_stands_still_both_ways_holds_little() {
    let lab = Lab::start();
    terminate(&mut open(&lab));
    let before = lab.broker().rss();
    let command = "cat /dev/zero & exec sleep 100";
    let mut stalled = lab.ssh(&["ins-a", command]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut stdin = stalled.stdin.take().unwrap();
    std::thread::spawn(move || {
        let block = vec![0; 1 << 16];
        while stdin.write_all(&block).is_ok() {}
    });
    let mut peak = before;
    for _ in 0..40 {
        std::thread::sleep(Duration::from_millis(100));
        peak = peak.max(lab.broker().rss());
    }
    assert!(peak - before < 5 * 1024, "{} KiB more than before", peak - before);
    terminate(&mut stalled);
}
