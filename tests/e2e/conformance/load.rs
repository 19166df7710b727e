//! Much data with new keys on the way, and a command that does not read.
//!
//! `tests/heavy` runs this with 10 GiB each way.

use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Duration;

use super::WAYS;
use crate::hostile::scaled;
use crate::lab::{Lab, Plan, Sshd, pattern, terminate, text};

const MIB: usize = 1 << 20;

/// How much goes each way.
fn amount() -> usize {
    scaled(512, 10 * 1024) * MIB
}

/// Sends through `cat` and checks every byte that comes back.
fn round_trip(lab: &Lab, way: &str, size: usize) -> String {
    let mut ssh = lab.program(3000, "ssh");
    ssh.arg("-F").arg(lab.path("ssh_config")).args(["-v", "-o", "RekeyLimit=64M", way, "cat"]);
    let mut ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout, mut stderr) = (ssh.stdin.take().unwrap(), ssh.stdout.take().unwrap(), ssh.stderr.take().unwrap());
    let block = pattern(MIB);
    let (given, mut said) = (block.clone(), String::new());
    std::thread::scope(|scope| {
        scope.spawn(move || (0..size / MIB).for_each(|_| stdin.write_all(&given).unwrap()));
        scope.spawn(|| stderr.read_to_string(&mut said).unwrap());
        let mut got = vec![0; MIB];
        for i in 0..size / MIB {
            stdout.read_exact(&mut got).unwrap_or_else(|error| panic!("{way}: after {i} MiB: {error}"));
            assert!(got == block, "{way}: other bytes in MiB {i}");
        }
        assert_eq!(stdout.read(&mut got).unwrap(), 0, "{way}");
    });
    assert!(ssh.wait().unwrap().success(), "{way}: {said}");
    said
}

#[test]
fn much_data_passes_with_new_keys_on_the_way() {
    let instance = Sshd::new("ins-a", "127.0.0.1").option("RekeyLimit 64M");
    let lab = Lab::with(Plan { instances: vec![instance], ..Plan::default() });
    let before = lab.broker().rss();
    let said = round_trip(&lab, "ins-a", amount());
    let rekeys = said.matches("SSH2_MSG_NEWKEYS received").count();
    assert!(rekeys > amount() / (64 * MIB), "{rekeys} new keys for {} MiB each way", amount() / MIB);
    let grown = lab.broker().rss().saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more than before");
}

/// What nobody reads is not taken: half a GiB offered, no more than the windows accepted, and the broker holds none of it.
#[test]
fn a_command_that_does_not_read_costs_no_memory() {
    let lab = Lab::start();
    assert_eq!(text(&lab.run(&["ins-a", "echo warm"]).stdout), "warm\n");
    for way in WAYS {
        let before = lab.broker().rss();
        let mut ssh = lab.ssh(&[way, "sleep 60"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut stdin = ssh.stdin.take().unwrap();
        let (told, accepted) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let block = vec![0; MIB];
            (0..512).try_for_each(|_| stdin.write_all(&block).ok().and_then(|()| told.send(MIB).ok()))
        });
        let mut peak = 0;
        for _ in 0..40 {
            std::thread::sleep(Duration::from_millis(100));
            peak = peak.max(lab.broker().rss().saturating_sub(before));
        }
        let taken: usize = accepted.try_iter().sum();
        assert!((MIB..16 * MIB).contains(&taken), "{way}: {taken} bytes taken of half a GiB");
        assert!(peak < 6 * 1024, "{way}: {peak} KiB more than before");
        terminate(&mut ssh);
    }
}
