//! Bytes of every value, from the first on: nothing reads them on their way.

use std::process::Stdio;

use super::{Case, Outcome, same};
use crate::lab::Lab;

/// Every value once, with `first` in front.
fn every_value(first: u8) -> Vec<u8> {
    std::iter::once(first).chain((0..=255).filter(|byte| *byte != first)).collect()
}

/// The first packet of a connection (for channels raw.rs has all 256): what is ^C, ^D, ^Z, ~, a line's end, TELNET's or SSH's own to others is a byte to us.
#[test]
fn the_first_packet_of_a_connection_may_be_anything() {
    first_packets(Lab::start());
}

pub fn first_packets(lab: Lab) {
    for first in [0x00, 0x03, 0x04, 0x0d, 0x1a, b'S', 0x7e, 0xff] {
        let given = every_value(first);
        let outcome = Case::new("a first packet", "cat").stdin(given.clone()).check(&lab);
        assert!(outcome.stdout == given, "{first}: {outcome:?}");
    }
    Case::new("a first packet of one byte", "od -c").stdin([0x03]).check(&lab);
    Case::new("a first packet that is another SSH", "od -c").stdin(*b"SSH-2.0-x\r\n\0\0\0\x0c").check(&lab);
}

#[test]
fn every_value_passes_a_terminal_both_ways() {
    every_value_on_a_terminal(Lab::start());
}

pub fn every_value_on_a_terminal(lab: Lab) {
    let given: Vec<u8> = (0..=255).rev().collect();
    let outcome = same("a raw terminal", |way| {
        let mut ssh = lab.ssh(&["-tt", "-e", "none", way, "stty raw -echo; printf r; exec head -c 256"]);
        let mut child = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // Not before the terminal is raw.
        let mut ready = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
        // The end of the input would become a key of the terminal's.
        let mut stdin = child.stdin.take().unwrap();
        std::io::Write::write_all(&mut stdin, &given).unwrap();
        let out = child.wait_with_output().unwrap();
        drop(stdin);
        Outcome::of(&out)
    });
    assert!(outcome.stdout == given, "{outcome:?}");
}
