//! Many peers at once, each of which does as little as it can, or as much.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::client::{Client, Message, runtime};
use super::peer::{Peer, VERSION, packet};
use super::{bound, good_login, scaled, unharmed};
use crate::lab::{Lab, Plan};

#[test]
fn a_thousand_held_connections_on_two_hundred_descriptors_keep_nobody_out() {
    // From one source, and from many.
    for sources in [1, 100] {
        let lab = Lab::with(Plan { descriptors: Some(200), ..Plan::default() });
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
    let extra = "[limits]\nstartups = 1000\nstartups_drop_from = 1000\n[penalties]\nexempt = [\"127.0.0.0/8\"]\n".to_owned();
    let lab = Lab::with(Plan { extra, listen: "login_grace = \"20s\"\n".to_owned(), ..Plan::default() });
    let bound = bound(&lab);
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
        let mut took: Vec<Duration> = (0..scaled(12, 200)).map(|_| good_login(&lab)).collect();
        stop.store(true, Ordering::Relaxed);
        took.sort();
        let slowest = took[took.len() * 99 / 100];
        assert!(slowest <= bound, "of {} logins the slowest took {slowest:?}, more than {bound:?}", took.len());
    });
    // No traffic has moved their deadline.
    for mut peer in slow {
        assert!(peer.until_closed().is_some());
    }
    assert!(started.elapsed() < Duration::from_secs(90), "{:?}", started.elapsed());
    unharmed(&lab, bound);
}

/// IGNORE after IGNORE in plain text, again and again.
fn flood_before_keys(lab: &Lab, n: usize, stop: &AtomicBool) {
    let ignores = packet(b"\x02\0\0\0\x20aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa").repeat(200);
    while !stop.load(Ordering::Relaxed) {
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
            let Ok(mut client) = Client::connect(&format!("127.0.{}.88", 1 + n), lab.address).await else { continue };
            while !stop.load(Ordering::Relaxed) && client.say(&ignore).await.is_ok() {}
        }
    });
}
