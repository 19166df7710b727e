//! Fuzz target of what follows file operations; see [`crate::fuzzing`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a fuzz target tells what it found by a panic")]

use super::command::Command;
use super::lines::LONGEST_LINE;
use super::operation::{Operation, Side, entry_line};
use super::scp::Scp;
use super::sftp::Sftp;
use crate::fuzzing::Script;

fn check(operation: Operation) {
    let line = entry_line(0.0, 1, operation);
    assert!(!line.is_empty() && line.len() <= LONGEST_LINE && !line.contains(&b'\n'));
    serde_json::from_slice::<serde_json::Value>(&line).unwrap();
}

/// Any bytes from both sides: what is kept keeps to its bounds, what is told fits into a line, and a stream that is cut elsewhere tells
/// the same.
pub fn file_operations(data: &[u8]) {
    let mut script = Script::new(data);
    let kind = script.u8();
    if kind & 7 == 7 {
        let command = String::from_utf8_lossy(script.rest()).into_owned();
        let _ = Command::of(&command);
        return;
    }
    let (mut sftp, mut again) = (Sftp::new(), Sftp::new());
    let (mut scp, mut scp_again) = (Scp::new(kind & 2 == 2, "/srv"), Scp::new(kind & 2 == 2, "/srv"));
    let (mut told, mut told_again) = (Vec::new(), Vec::new());
    while !script.is_over() {
        let from = if script.u8() & 1 == 0 { Side::Operator } else { Side::Instance };
        let cut = usize::from(script.u8()) + 1;
        let bytes = script.long();
        let (whole, cut) = if kind & 1 == 0 {
            let whole = sftp.push(from, bytes, &mut |operation| told.push(operation));
            (whole, bytes.chunks(cut).try_for_each(|part| again.push(from, part, &mut |operation| told_again.push(operation))))
        } else {
            let whole = scp.push(from, bytes, &mut |operation| told.push(operation));
            (whole, bytes.chunks(cut).try_for_each(|part| scp_again.push(from, part, &mut |operation| told_again.push(operation))))
        };
        assert_eq!(whole, cut);
        assert!(sftp.is_bounded());
        if whole.is_err() {
            break;
        }
    }
    sftp.end(&mut |operation| told.push(operation));
    again.end(&mut |operation| told_again.push(operation));
    scp.end(&mut |operation| told.push(operation));
    scp_again.end(&mut |operation| told_again.push(operation));
    assert_eq!(told, told_again);
    told.into_iter().for_each(check);
}
