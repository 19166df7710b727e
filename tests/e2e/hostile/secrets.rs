//! A secret is found in nothing but its own lease, and after that in nothing. Every hostile test's lab searches for its secrets when it
//! ends; here is what those do not do by themselves.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use ssh_broker::demo::{Action, Fault, Times};

use super::evil::{Act, Deed, Evil, PASSWORD};
use super::{bound, plan, unharmed};
use crate::lab::{Lab, Plan, Process, text};
use crate::leaks::files_below;

#[test]
fn no_form_of_a_secret_is_in_anything_that_leaves_the_broker() {
    let extra = "handshake_timeout = \"2s\"\n[cache]\nlease_ttl = \"1s\"\n[[grants]]\noperators = [\"alice\"]\n\
                 targets = [\"ins-*\"]\nrecord = \"required\"\nrecord_input = true\n"
        .to_owned();
    let lab = Lab::with(Plan { extra, ..plan() });
    let bound = bound(&lab);
    for (number, act) in [
        Act::EndlessPrompts,
        Act::ManyPrompts,
        Act::WantsMore,
        Act::WantsNewPassword,
        Act::SuccessUnasked,
        Act::StallInAuth,
        Act::CloseAfter(1500),
        Act::Session(Deed::Unknown),
        Act::Session(Deed::Close),
    ]
    .into_iter()
    .enumerate()
    {
        let _evil = Evil::start(&lab, number, act);
        lab.run(&["-vvv", &format!("ins-evil-{number}"), "id"]);
    }
    for fault in [
        Fault::Error("InternalError".to_owned()),
        Fault::HalfBody,
        Fault::WrongIds,
        Fault::Error("AuthFailure.SignatureFailure".to_owned()),
        Fault::Body(format!("{{\"Response\":{{\"InstanceAccess\":\"{PASSWORD}\"}}}}")),
    ] {
        std::thread::sleep(Duration::from_millis(1100));
        lab.endpoint.fault(Action::GetInstanceAccess, fault, Times::Next(1));
        lab.run(&["-vvv", "ins-a", "true"]);
    }
    let recorded = lab.run(&["-tt", "ins-a", "echo recorded"]);
    assert!(recorded.status.success(), "{}", lab.log());
    unharmed(&lab, bound);
    let pid = lab.broker().id();
    // There is something to search; the lab does it when it ends.
    assert!(files_below(&lab.path("state/recordings")).iter().any(|file| text(&fs::read(file).unwrap()).contains("recorded")));
    assert!(lab.log().contains("TRACE") && text(&lab.heard()).contains("debug3"));
    assert!(lab.metrics.is_some_and(|address| TcpStream::connect(address).is_ok()));
    // Nobody reads it out of the process either, and no core is dumped.
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert!(core.split_whitespace().filter(|word| *word == "0").count() == 2, "{core}");
}

/// A program started with a group that is not root's.
fn as_group_of_nobody(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--regid=65534", "--clear-groups", program]);
    command
}

/// The group that may read a process's memory. The kernel takes root's for one that is not dumpable, else the process's own (proc(5)).
fn group_of_memory(pid: u32) -> u32 {
    fs::metadata(format!("/proc/{pid}/mem")).unwrap().gid()
}

#[test]
fn nobody_of_its_own_user_may_read_the_process() {
    let mut lab = Lab::with(plan());
    let mut other = Process::from(as_group_of_nobody("sleep").arg("30").stdout(Stdio::piped()).spawn().unwrap());
    let shown = |pid: u32, group: u32| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while group_of_memory(pid) != group && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(group_of_memory(pid), group);
    };
    shown(other.id(), 65534);
    other.signal(Signal::KILL);
    other.wait(Duration::from_secs(10));
    lab.broker = None;
    let program = lab.program_path();
    let mut serve = as_group_of_nobody(program.to_str().unwrap());
    let broker = Process::from(serve.args(["serve", "--config"]).arg(lab.path("broker.toml")).stderr(Stdio::null()).spawn().unwrap());
    let deadline = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(lab.address).is_err() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    let status = fs::read_to_string(format!("/proc/{}/status", broker.id())).unwrap();
    assert!(status.lines().any(|line| line.split_whitespace().eq(["Gid:", "65534", "65534", "65534", "65534"])), "{status}");
    shown(broker.id(), 0);
}

/// Every writable mapping of the process that holds these bytes, with what stands around each.
fn copies(pid: u32, needle: &[u8]) -> Vec<String> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mut memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut found = Vec::new();
    for map in maps.lines() {
        let mut fields = map.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        let name = fields.nth(3).unwrap_or_default().to_owned();
        let (start, end) = range.split_once('-').unwrap();
        let (start, end) = (u64::from_str_radix(start, 16).unwrap(), u64::from_str_radix(end, 16).unwrap());
        if !rights.starts_with("rw") || end - start > 1 << 30 {
            continue;
        }
        // In pieces: what was never touched cannot be read in some mappings.
        let mut bytes = vec![0; (end - start) as usize];
        for (piece, at) in bytes.chunks_mut(64 * 1024).zip((start..).step_by(64 * 1024)) {
            let _ = memory.seek(SeekFrom::Start(at)).and_then(|_| memory.read_exact(piece));
        }
        let first = needle[0];
        let mut at = 0;
        while let Some(next) = bytes[at..].iter().position(|byte| *byte == first).map(|next| at + next) {
            if bytes[next..].starts_with(needle) {
                let around = &bytes[next.saturating_sub(60)..(next + needle.len() + 60).min(bytes.len())];
                found.push(format!("{name} {range}: {:?}", text(around)));
            }
            at = next + 1;
        }
    }
    found
}

#[test]
fn no_copy_of_a_password_is_left_in_memory_once_its_lease_is_over() {
    let extra = "[cache]\nlease_ttl = \"2s\"\n".to_owned();
    let lab = Lab::with(Plan { extra, ..plan() });
    let bound = bound(&lab);
    let pid = lab.broker().id();
    let _evil = Evil::start(&lab, 0, Act::Session(Deed::Nothing));
    // As it is, and as one that JSON has to escape.
    for (secret, marker) in [(PASSWORD.to_owned(), PASSWORD), ("a\"\\\tescapedSecret987654MARKER".to_owned(), "escapedSecret987654MARKER")]
    {
        let changed = ssh_broker::access::Secret::new(secret.into_bytes());
        lab.endpoint.change(|inventory| inventory.instance_mut("ins-evil-0").unwrap().secret = changed.into());
        std::thread::sleep(Duration::from_millis(2500));
        let mut seen = 0;
        for _ in 0..5 {
            assert_eq!(lab.run(&["ins-evil-0", "true"]).status.code(), Some(0), "{}", lab.log());
            seen = seen.max(copies(pid, marker.as_bytes()).len());
        }
        // While the lease lives there is one: the search finds what is there.
        assert!(seen >= 1);
        nothing_left(pid, marker);
    }
    // The same of a private key's text: that of the instance that the good logins went to.
    let key = fs::read_to_string(lab.path("ins-a.login")).unwrap();
    nothing_left(pid, key.lines().nth(3).unwrap());
    unharmed(&lab, bound);
}

fn nothing_left(pid: u32, marker: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let left = copies(pid, marker.as_bytes());
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{} copies are left:\n{}", left.len(), left.join("\n"));
        std::thread::sleep(Duration::from_millis(500));
    }
}
