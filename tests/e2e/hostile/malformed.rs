//! Bytes that no client sends.

use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::client::{Client, Message, runtime};
use super::peer::{Peer, VERSION, ecdh_init, kexinit, packet};
use super::{bound, plan, scaled, unharmed};
use crate::lab::{Lab, Plan};

const KEX: &str = "curve25519-sha256,ext-info-c,kex-strict-c-v00@openssh.com";
const HOST_KEY: &str = "ssh-ed25519";

/// What follows the version line, each ended by the peer's close.
fn corpus() -> Vec<Vec<u8>> {
    let kex = packet(&kexinit(KEX, HOST_KEY));
    let behind_kexinit = |bytes: Vec<u8>| [kex.clone(), bytes].concat();
    let channel_open = [&[90, 0, 0, 0, 7][..], b"session", &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]].concat();
    vec![
        // Lengths.
        vec![0; 16],
        vec![0xff; 64],
        [&[0, 0, 0, 1][..], &[0; 12]].concat(),
        [&[0, 0, 0, 13][..], &[200; 13]].concat(),
        [&[0, 4, 0, 1][..], &[0; 64]].concat(),
        // Lists.
        packet(&kexinit(&"a,".repeat(125_000), HOST_KEY))[..200_000].to_vec(),
        packet(&kexinit(&"curve25519-sha256,".repeat(1900), HOST_KEY)),
        packet(&kexinit("", "")),
        packet(&kexinit("diffie-hellman-group1-sha1", "ssh-dss")),
        packet(&kexinit(KEX, HOST_KEY)[..40]),
        packet(&[20]),
        // Public keys.
        behind_kexinit(packet(&ecdh_init(&[0; 32]))),
        behind_kexinit(packet(&ecdh_init(&[1; 5]))),
        behind_kexinit(packet(&ecdh_init(&[]))),
        behind_kexinit(packet(&ecdh_init(&[9; 4096]))),
        behind_kexinit(packet(&[30, 0xff, 0xff, 0xff, 0xff, 1])),
        // A key exchange that is never finished, begun twice, or broken into (strict KEX).
        kex.clone(),
        behind_kexinit(kex.clone()),
        behind_kexinit(packet(&[2, 0, 0, 0, 0])),
        [packet(&[2, 0, 0, 0, 0]), kex.clone()].concat(),
        behind_kexinit([packet(&ecdh_init(&[9; 32])), packet(&[2, 0, 0, 0, 0]), packet(&[21])].concat()),
        packet(&[21]),
        // Layers that are not there yet.
        packet(&channel_open),
        packet(b"\x05\0\0\0\x0cssh-userauth"),
        packet(b"\x32\0\0\0\x05alice\0\0\0\x0essh-connection\0\0\0\x04none"),
        behind_kexinit(packet(&channel_open)),
        packet(&[1, 0, 0, 0, 11, 0xff, 0xff, 0xff, 0xff]),
        packet(&[192, 0, 0, 0, 0]),
        packet(&[]),
        // No SSH at all.
        b"\r\n\r\n\0\r\nQUIT\n".repeat(20),
        VERSION.repeat(20),
    ]
}

/// Version lines that are none.
fn prefaces() -> Vec<Vec<u8>> {
    vec![
        VERSION.to_vec(),
        b"SSH-2.0-\r\n".to_vec(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        b"SSH-1.5-x\r\n".to_vec(),
        [&[b'A'; 300][..], b"\r\n"].concat(),
        b"SSH-2.0-\xff\xfe\0\r\n".to_vec(),
        Vec::new(),
    ]
}

fn exempt() -> String {
    "startups_per_source = 500\n[penalties]\nexempt = [\"127.0.0.0/8\"]\n".replacen("startups", "[limits]\nstartups", 1)
}

#[test]
fn ten_thousand_malformed_beginnings_leave_no_trace() {
    let lab = Lab::with(Plan { extra: exempt(), ..plan() });
    let bound = bound(&lab);
    let mut all: Vec<Vec<u8>> = corpus().into_iter().map(|bytes| [VERSION, &bytes].concat()).collect();
    all.extend(prefaces());
    let run = |times: usize| {
        let next = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (next, all, lab) = (&next, &all, &lab);
                scope.spawn(move || {
                    while let Some(bytes) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|n| *n < times).map(|n| &all[n % all.len()]) {
                        let mut peer = Peer::from(&format!("127.0.{thread}.66"), lab.address);
                        // The broker may close before it has taken everything.
                        let _ = peer.say(bytes);
                        let _ = peer.0.shutdown(Shutdown::Write);
                        assert!(peer.until_closed().is_some(), "still open after {:?}", &bytes[..bytes.len().min(64)]);
                    }
                });
            }
        });
    };
    run(scaled(1000, 5000));
    let before = lab.broker().rss();
    run(scaled(10_000, 100_000));
    let after = lab.broker().rss();
    assert!(after < before + 8 * 1024, "resident memory grew from {before} to {after} KiB");
    assert!(!lab.log().contains("turned away"), "not all were looked at");
    unharmed(&lab, bound);
}

#[test]
fn what_comes_behind_the_keys_but_before_the_proof_is_refused() {
    let lab = Lab::with(Plan { extra: exempt(), ..plan() });
    let bound = bound(&lab);
    let certificate = |key: Vec<u8>| {
        let nested = Message(Vec::new()).text("ssh-ed25519-cert-v01@openssh.com").text([1; 32]).text([2; 32]).u32(0).u32(1).u32(1);
        nested.text("id").text("").u32(0).u32(0).u32(u32::MAX).u32(u32::MAX).text("").text("").text("").text(key).text([3; 83]).0
    };
    let nested = (0..40).fold(vec![0; 32], |inner, _| certificate(inner));
    let request = |method: &str| Message::new(50).text("alice").text("ssh-connection").text(method);
    let cases = [
        // A channel, before anybody is proven; with no window and packets of no bytes at that.
        Message::jump(0, "ins-a", 22),
        Message::new(90).text("session").u32(0).u32(0).u32(0),
        Message::new(80).text("tcpip-forward").u8(1).text("").u32(0),
        Message::new(94).u32(0).text("x"),
        // Proofs that are none.
        Message::publickey("alice", "ssh-ed25519-cert-v01@openssh.com", &nested, false),
        Message::publickey("alice", "ssh-ed25519-cert-v01@openssh.com", &certificate(certificate(vec![])), true).text([0; 83]),
        Message::publickey("alice", "ssh-ed25519", &[0xff; 64], true).text([0; 4]),
        Message::publickey("alice", &"x".repeat(60_000), &[0; 60_000], false),
        Message::new(50).text("a".repeat(200_000)).text("ssh-connection").text("none"),
        Message::new(50).text("alice").text("ssh-connection").text("publickey").u8(1).u32(u32::MAX),
        request(&"m".repeat(100_000)),
        request("password").u8(0).text("x"),
        request("keyboard-interactive").text("").text(""),
        request("hostbased").text("").text("").text("").text("").text(""),
        Message::new(61).u32(u32::MAX),
        Message::new(52),
        Message::new(60),
        // What only the peer's other role says.
        Message::new(6).text("ssh-connection"),
        Message::new(21),
        Message::new(31).text("").text("").text(""),
        Message::new(1).u32(0).u32(u32::MAX),
        Message::new(255),
        Message::new(0),
    ];
    let rounds = scaled(8, 200);
    let runtime = runtime();
    let mut before = 0;
    for round in 0..rounds {
        for case in &cases {
            runtime.block_on(async {
                let mut client = Client::connect("127.0.1.66", lab.address).await.unwrap();
                let _ = client.say(case).await;
                // Asked again, so that there is an end: nobody has been proven.
                for _ in 0..8 {
                    let _ = client.say(&Message::publickey("alice", "ssh-ed25519", &[0; 51], false)).await;
                }
                let (heard, _) = client.until_ended().await;
                let good = heard.iter().filter_map(|message| message.first()).find(|number| ![51, 53, 3].contains(*number));
                assert_eq!(good, None, "the broker answered {heard:?} to {:?}", &case.0[..case.0.len().min(40)]);
            });
        }
        if round == rounds / 4 {
            before = lab.broker().rss();
        }
    }
    let after = lab.broker().rss();
    assert!(after < before + 8 * 1024, "resident memory grew from {before} to {after} KiB");
    unharmed(&lab, bound);
}
