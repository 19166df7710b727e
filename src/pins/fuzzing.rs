//! Fuzz target of the pins; see [`crate::fuzzing`].
#![allow(clippy::unwrap_used, reason = "a fuzz target tells what it found by a panic")]

use super::{parse, render};

/// A known_hosts file: what can be read can be written, and reads the same again.
pub fn pins(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match parse(&text) {
        Ok(table) => {
            let written = render(&table).unwrap();
            assert!(written.lines().count() == table.values().map(Vec::len).sum::<usize>());
            assert!(parse(&written) == Ok(table));
        }
        Err(line) => assert!((1..=text.lines().count()).contains(&line)),
    }
}
