//! Many peers at once, each of which does as little as it can, or as much.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::client::{Client, Message, runtime};
use super::peer::{Peer, VERSION, packet};
use super::{bound, good_login, plan, scaled, unharmed};
use crate::lab::{Lab, Plan};

#[test]
fn a_thousand_held_connections_on_two_hundred_descriptors_keep_nobody_out() {
    // From one source, and from many.
    for sources in [1, 100] {
        let lab = Lab::with(Plan { descriptors: Some(200), ..plan() });
        assert!(lab.log().contains("the limit of open files is too low"));
        let bound = bound(&lab);
        let mut held = Vec::new();
        for n in 0..1000 {
            held.extend(Peer::try_from(&format!("127.0.{}.{}", 1 + n % sources, 66), lab.address));
        }
        assert!(held.len() > 900, "{}", held.len());
        unharmed(&lab, bound);
        drop(held);
        unharmed(&lab, bound);
    }
}

#[test]
fn five_hundred_slow_peers_and_floods_leave_good_logins_quick() {
    let extra = "[limits]\nstartups = 1000\nstartups_drop_from = 1000\n".to_owned();
    let lab = Lab::with(Plan { extra, listen: "login_grace = \"15s\"\n".to_owned(), ..plan() });
    let (bound, calm) = (bound(&lab), Lab::with(plan()));
    let started = Instant::now();
    let mut slow: Vec<Peer> = (0..500).map(|n| Peer::from(&format!("127.0.{}.66", 1 + n % 100), lab.address)).collect();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // A fifth says nothing at all, the others a byte a second.
        scope.spawn(|| {
            for second in 0.. {
                for peer in slow.iter_mut().step_by(5).skip(1) {
                    let _ = peer.say(VERSION.get(second..=second).unwrap_or(b"x"));
                }
                for _ in 0..10 {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::sleep(Duration::from_millis(100));
                }
            }
        });
        for n in 0..2 {
            let (lab, stop) = (&lab, &stop);
            scope.spawn(move || flood_before_keys(lab, n, stop));
            scope.spawn(move || flood_behind_keys(lab, n, stop));
        }
        // Beside each a login through a broker that nobody attacks, on the same busy machine.
        let took = (0..scaled(12, 200)).map(|_| (good_login(&lab), good_login(&calm)));
        let (mut took, mut usual): (Vec<Duration>, Vec<Duration>) = took.unzip();
        stop.store(true, Ordering::Relaxed);
        took.sort();
        usual.sort();
        let p99 = |all: &[Duration]| all[all.len() * 99 / 100];
        let bound = bound.max(3 * p99(&usual));
        assert!(p99(&took) <= bound, "of {} logins the slowest took {:?}, more than {bound:?}", took.len(), p99(&took));
    });
    // Who floods is not let in again so soon.
    for address in ["127.0.1.77:", "127.0.1.88:"] {
        lab.await_event(|event| event["offence"] == "flood" && event["source"].as_str().is_some_and(|source| source.starts_with(address)));
    }
    // No traffic has moved their deadline: they are gone when it is over, or have been for long.
    let due = Instant::now().max(started + Duration::from_secs(15));
    for mut peer in slow {
        assert!(peer.until_closed().is_some());
    }
    assert!(Instant::now() < due + Duration::from_secs(10), "{:?} late", due.elapsed());
    unharmed(&lab, bound);
}

/// IGNORE after IGNORE in plain text, again and again.
fn flood_before_keys(lab: &Lab, n: usize, stop: &AtomicBool) {
    let ignores = packet(b"\x02\0\0\0\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa").repeat(200);
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(20));
        let mut peer = Peer::from(&format!("127.0.{}.77", 1 + n), lab.address);
        let _ = peer.say(VERSION);
        while !stop.load(Ordering::Relaxed) && peer.say(&ignores).is_ok() {}
    }
}

/// The same under keys that stand.
fn flood_behind_keys(lab: &Lab, n: usize, stop: &AtomicBool) {
    let ignore = Message::new(2).text([b'a'; 64]);
    runtime().block_on(async {
        while !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let Ok(mut client) = Client::connect(&format!("127.0.{}.88", 1 + n), lab.address).await else { continue };
            while !stop.load(Ordering::Relaxed) && client.say(&ignore).await.is_ok() {}
        }
    });
}
