//! An operator beyond the grants: a proven one, whose client is no honest one.

use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use ssh_broker::demo::Action;
use ssh_broker::transport::msg;
use ssh_key::PrivateKey;

use super::client::{Client, Message, runtime};
use super::inner::Inner;
use super::{bound, good_login, plan, scaled, unharmed};
use crate::lab::{Lab, Plan, private, text};

fn key(lab: &Lab) -> PrivateKey {
    PrivateKey::read_openssh_file(lab.path("operator")).unwrap()
}

async fn alice(lab: &Lab) -> Client {
    Client::operator("127.0.0.66", lab.address, "alice", &key(lab)).await.unwrap()
}

fn first(message: &[u8]) -> u8 {
    message.first().copied().unwrap_or_default()
}

#[test]
fn hostile_target_strings_reach_neither_the_api_nor_the_network() {
    let lab = Lab::with(plan());
    let trap = TcpListener::bind("127.0.0.9:0").unwrap();
    trap.set_nonblocking(true).unwrap();
    let port = u32::from(trap.local_addr().unwrap().port());
    let long = format!("ins-{}", "a".repeat(64 * 1024));
    let hosts: Vec<&[u8]> = vec![
        b"",
        b"127.0.0.9",
        b"127.1",
        b"0x7f000009",
        b"2130706441",
        b"[::1]",
        b"::ffff:127.0.0.9",
        b"localhost",
        b"169.254.0.23",
        b"metadata.tencentyun.com",
        b"gse.tencentcloudapi.com",
        b"ins-",
        b"ins-a.",
        b".ins-a",
        b"ins-a ",
        b" ins-a",
        b"ins-a\0",
        b"ins-a\n",
        b"ins-a\r\nX-TC-Action: DescribeInstances",
        b"ins-a\",\"FleetId\":\"fleet-other",
        b"ins-a.fleet-lab-1.example.com",
        b"ins-a.example.com",
        b"ins-a@127.0.0.9",
        b"ins-a:22",
        b"ins-a/../ins-b",
        b"ins-a%00",
        b"ins-a;id",
        b"$(id)",
        b"-oProxyCommand=id",
        b"\xff\xfe\xfd",
        b"\x1b[2J\x07",
        "іns-a".as_bytes(),
        "ins‑a".as_bytes(),
        "ins-a\u{202e}".as_bytes(),
        "ｉｎｓ-a".as_bytes(),
        long.as_bytes(),
    ];
    runtime().block_on(async {
        for host in &hosts {
            let mut client = alice(&lab).await;
            let opens = [
                Message::jump(0, host, 22),
                Message::jump(1, host, port),
                Message::jump(2, "ins-a", port),
                Message::jump(3, "ins-a", u32::MAX),
            ];
            for open in &opens {
                client.say(open).await.unwrap();
            }
            // Each is answered, and the one to port 22 at the most by a sentence on its stream.
            let mut answers = 0;
            while answers < opens.len() {
                answers += usize::from([91, 92].contains(&first(&client.hear().await.unwrap())));
            }
        }
    });
    for action in [Action::GetInstanceAccess, Action::DescribeInstances] {
        assert_eq!(lab.endpoint.calls(action), 0);
    }
    assert!(trap.accept().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "something connected to the trap");
    // Each is in the audit, cut to what may be a name.
    let failed = lab.audit().iter().filter(|event| event["event"] == "target.failed" && event["code"] == "target-name").count();
    assert!(failed >= hosts.len(), "{failed}");
    assert!(lab.audit().iter().all(|event| event["typed"].as_str().is_none_or(|typed| typed.len() < 1024)));
    let bound = bound(&lab);
    unharmed(&lab, bound);
}

#[test]
fn the_door_opens_no_channel_but_jumps_and_grants_no_request() {
    let lab = Lab::with(plan());
    let bound = bound(&lab);
    runtime().block_on(async {
        for (number, kind) in
            ["x11", "forwarded-tcpip", "direct-streamlocal@openssh.com", "auth-agent@openssh.com", "tun@openssh.com", "?", ""]
                .into_iter()
                .enumerate()
        {
            let mut client = alice(&lab).await;
            let number = u32::try_from(number).unwrap();
            let open =
                Message::new(msg::CHANNEL_OPEN).text(kind).u32(number).u32(1 << 20).u32(32 * 1024).text("/run/x").u32(22).text("").u32(0);
            client.say(&open).await.unwrap();
            let refused = client.hear().await.map_or(true, |answer| first(&answer) != msg::CHANNEL_OPEN_CONFIRMATION);
            assert!(refused, "{kind:?} was opened");
        }
        let mut client = alice(&lab).await;
        let request = |name: &str| Message::new(msg::GLOBAL_REQUEST).text(name).u8(1);
        for request in [
            request("tcpip-forward").text("127.0.0.1").u32(0),
            request("streamlocal-forward@openssh.com").text("/run/x"),
            request("no-such-request@example.com").u32(7),
        ] {
            client.say(&request).await.unwrap();
            assert_eq!(first(&client.hear().await.unwrap()), msg::REQUEST_FAILURE);
        }
    });
    unharmed(&lab, bound);
}

#[test]
fn nothing_passes_to_an_instance_before_the_operator_is_let_in() {
    let lab = Lab::with(plan());
    let bound = bound(&lab);
    let open = Message::new(msg::CHANNEL_OPEN).text("session").u32(0).u32(1 << 20).u32(32 * 1024);
    runtime().block_on(async {
        let mut early = Inner::connect(&lab, "SSH-2.0-x").await.unwrap();
        early.say(&open).await.unwrap();
        let (heard, error) = early.until_ended().await;
        assert!(heard.is_empty(), "{heard:?}, {error}");
        let mut early = Inner::connect(&lab, "SSH-2.0-x").await.unwrap();
        early.say(&Message::new(msg::SERVICE_REQUEST).text("ssh-userauth")).await.unwrap();
        early.say(&open).await.unwrap();
        let (heard, _) = early.until_ended().await;
        assert!(heard.iter().all(|message| first(message) != msg::CHANNEL_OPEN_CONFIRMATION), "{heard:?}");
    });
    // They are told of as what they are.
    let abandoned = |event: &serde_json::Value| event["event"] == "session.abandoned";
    lab.await_event(abandoned);
    unharmed(&lab, bound);
    assert!(lab.audit().iter().filter(|event| abandoned(event)).count() == 2);
}

#[test]
fn a_flood_of_refused_opens_costs_no_memory() {
    // At trace level each costs a kilobyte of log: a million of them are looked through at the usual one.
    let lab = Lab::with(Plan { log_level: if scaled(0, 1) == 0 { "trace" } else { "info" }, ..plan() });
    let bound = bound(&lab);
    let flood = |opens: u32| {
        runtime().block_on(async {
            let mut client = alice(&lab).await;
            let mut answered = 0;
            for number in 0..opens {
                client.say(&Message::jump(number, "127.0.0.1", 22)).await.unwrap();
                // Sixteen are being told why at most; the answer to each comes before the sentence.
                while answered + 64 < number {
                    match client.hear().await {
                        Ok(message) => answered += u32::from([91, 92].contains(&first(&message))),
                        Err(error) => panic!("after {answered} of {number}: {error}"),
                    }
                }
            }
        });
    };
    flood(2000);
    let before = lab.broker().rss();
    flood(u32::try_from(scaled(20_000, 1_000_000)).unwrap());
    let after = lab.broker().rss();
    assert!(after < before + 16 * 1024, "resident memory grew from {before} to {after} KiB");
    unharmed(&lab, bound);
}

#[test]
fn a_flood_of_requests_stays_in_its_session() {
    let lab = Lab::with(plan());
    let bound = bound(&lab);
    runtime().block_on(async {
        let mut inner = Inner::session(&lab).await.unwrap();
        let channel = inner.channel().await.unwrap();
        let env = |n: usize| Message::new(msg::CHANNEL_REQUEST).u32(channel).text("env").u8(0).text(format!("LAB_{n}")).text("x");
        let unknown = Message::new(msg::CHANNEL_REQUEST).u32(channel).text("no-such-request@example.com").u8(0);
        let before = lab.broker().rss();
        for n in 0..scaled(20_000, 500_000) {
            let request = if n < 100 { env(n) } else { unknown.clone() };
            inner.say(&request).await.unwrap();
        }
        let after = lab.broker().rss();
        assert!(after < before + 16 * 1024, "resident memory grew from {before} to {after} KiB");
        unharmed(&lab, bound);
    });
}

#[test]
fn clients_that_stop_reading_cost_a_bounded_memory_and_keep_nobody_waiting() {
    let lab = Lab::with(plan());
    let bound = bound(&lab);
    let before = lab.broker().rss();
    let mut stopped: Vec<_> =
        (0..4).map(|_| lab.ssh(&["ins-a", "cat /dev/zero"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()).collect();
    // Two do not read what `ssh` says; of two, `ssh` itself stops: first the outer one, then the inner one.
    lab.await_event(|event| event["event"] == "channel.opened" && event["channel"] == 1 && event["what"] == "cat /dev/zero");
    std::thread::sleep(Duration::from_secs(1));
    let children = |parent: u32| -> Vec<i32> {
        let listed = std::process::Command::new("pgrep").args(["-P", &parent.to_string()]).output().unwrap();
        text(&listed.stdout).lines().filter_map(|line| line.parse().ok()).collect()
    };
    for (position, ssh) in stopped.iter().enumerate().skip(2) {
        let inner = children(ssh.id());
        let process = if position == 2 { inner.iter().flat_map(|pid| children(*pid as u32)).next() } else { inner.first().copied() };
        kill_process(Pid::from_raw(process.unwrap()).unwrap(), Signal::STOP).unwrap();
    }
    std::thread::sleep(Duration::from_secs(1));
    unharmed(&lab, bound);
    let after = lab.broker().rss();
    assert!(after < before + 64 * 1024, "resident memory grew from {before} to {after} KiB for four");
    for ssh in &mut stopped {
        for pid in children(ssh.id()).into_iter().flat_map(|pid| children(pid as u32).into_iter().chain([pid])) {
            let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
        }
        crate::lab::terminate(ssh);
    }
    unharmed(&lab, bound);
}

#[test]
fn a_hundred_sessions_at_once_get_the_operators_share_and_leave_others_theirs() {
    let grants = "[limits]\nsessions_per_operator = 20\n[[grants]]\noperators = [\"*\"]\ntargets = [\"ins-*\"]\n".to_owned();
    let lab = Lab::with(Plan { extra: grants, ..plan() });
    let bound = bound(&lab);
    runtime().block_on(async {
        let mut greedy = Vec::new();
        let mut streams = 0;
        for _ in 0..5 {
            let mut client = alice(&lab).await;
            for number in 0..20 {
                client.say(&Message::jump(number, "ins-a", 22)).await.unwrap();
            }
            let mut answered = 0;
            while answered < 20 {
                answered += u32::from([91, 92].contains(&first(&client.hear().await.unwrap())));
            }
            streams += answered;
            greedy.push(client);
        }
        assert_eq!(streams, 100);
        let bobs = lab.run(&["-o", "User=bob", "-J", "bob@broker", "ins-a", "echo in"]);
        assert_eq!(text(&bobs.stdout), "in\n", "{}", text(&bobs.stderr));
        let refused = text(&lab.run(&["ins-a", "true"]).stderr);
        assert!(refused.contains("this operator has 20 sessions open already"), "{refused}");
        drop(greedy);
    });
    // Their places come back with their connections.
    let mut tries = 0;
    while !lab.run(&["ins-a", "true"]).status.success() {
        tries += 1;
        assert!(tries < 50, "{}", lab.log());
        std::thread::sleep(Duration::from_millis(100));
    }
    unharmed(&lab, bound);
}

/// What a terminal or a reader of lines would take for more than text.
const NASTY: &str = "\x1b[2J\x07\r\n{\"event\":\"forged\"}\n2026-01-01T00:00:00Z ERROR forged\u{202e}\u{9b}0m\\\"";

#[test]
fn nobody_writes_the_log_or_the_audit_by_what_he_is_called_or_runs() {
    let lab = Lab::with(plan());
    let bound = bound(&lab);
    let file = lab.path("operators").join("alice");
    let line = std::fs::read_to_string(&file).unwrap();
    private(&file, format!("{} \x1b[2Jcomment\x07\n", line.trim_end()).as_bytes());
    runtime().block_on(async {
        for name in [NASTY.to_owned(), format!("alice{NASTY}"), "a".repeat(10_000) + NASTY] {
            let mut client = Client::connect("127.0.0.66", lab.address).await.unwrap();
            let _ = client.say(&Message::new(50).text(&name).text("ssh-connection").text("none")).await;
            let _ = client.hear().await;
        }
        let mut client = alice(&lab).await;
        client.say(&Message::jump(0, NASTY, 22)).await.unwrap();
        let _ = client.hear().await;
        // Inside: the version, the terminal, the environment, the command, the subsystem, and a destination.
        let _ = Inner::connect(&lab, "SSH-2.0-x\x1b[2J\x07").await;
        let mut inner = Inner::session(&lab).await.unwrap();
        let channel = inner.channel().await.unwrap();
        let request = |name: &str| Message::new(msg::CHANNEL_REQUEST).u32(channel).text(name).u8(0);
        inner.say(&request("pty-req").text(NASTY).u32(80).u32(24).u32(0).u32(0).text("")).await.unwrap();
        inner.say(&request("env").text(NASTY).text(NASTY)).await.unwrap();
        inner
            .say(&Message::new(msg::CHANNEL_OPEN).text("direct-tcpip").u32(1).u32(1).u32(1).text(NASTY).u32(22).text(NASTY).u32(1))
            .await
            .unwrap();
        inner.say(&Message::new(msg::CHANNEL_OPEN).text(NASTY).u32(2).u32(1).u32(1)).await.unwrap();
        inner.say(&request(NASTY)).await.unwrap();
        inner.say(&request("exec").text(format!("true '{NASTY}' {}", "x".repeat(100_000)))).await.unwrap();
        while inner.hear().await.is_ok_and(|message| first(&message) != msg::CHANNEL_CLOSE) {}
    });
    lab.await_event(|event| event["event"] == "channel.opened" && event["what"].as_str().is_some_and(|what| what.ends_with('…')));
    unharmed(&lab, bound);
    let is_tame = |text: &str| !text.chars().any(|c| c != '\n' && (c.is_control() || c == '\u{202e}'));
    let audit = std::fs::read_to_string(lab.path("audit.jsonl")).unwrap();
    assert!(audit.lines().all(|line| line.len() < 64 * 1024));
    let events = lab.audit();
    assert!(events.iter().all(|event| event["event"] != "forged"));
    for (place, text) in [("audit", audit), ("log", lab.log())] {
        let wild = text.lines().find(|line| !is_tame(line));
        assert!(wild.is_none(), "the {place} has {wild:?}");
        assert!(
            !text.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z") || line.starts_with("{\"event\":\"forged\"}")),
            "{place}"
        );
    }
    good_login(&lab);
}
