//! Edge: what happened in a session, kept in files: a terminal as it was seen, file operations and forwards as lines.
//!
//! [`Recorder`] is the one writer thread, shared by all sessions; [`Tape`] one session's recording, fed by the splice's tap as messages
//! pass; [`Track`] one channel's part of it.
//!
//! ```text
//! <dir>/<date>/<ref>-<random>.jsonl              the session: channels, file operations, forwards
//! <dir>/<date>/<ref>-<channel>-<random>.cast     one channel with a pty: asciicast v2
//! ```
//!
//! **Invariants**
//! - What waits for the disk is bounded, for a session and in all; a session that has too much waiting waits itself. Nothing is dropped.
//! - Nothing passes in a session while a file of its recording is not there yet.
//! - A file is whole lines at any time, whatever ends the process (`lines`), and what waits is written within a quarter of a second.
//! - Descriptors are a fixed number, however many channels are recorded.
//! - Content of files is never kept: of what SFTP, scp and rsync carry only names, sizes and results are.

mod cast;
mod command;
mod escape;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod lines;
mod operation;
mod queue;
mod recorder;
mod scp;
mod sftp;
mod tape;
mod track;
mod utf8;
mod writer;

use std::path::PathBuf;

pub use cast::Pty;
pub use recorder::Recorder;
pub use tape::{Closed, Lost, Start, Stream, Tape};
pub use track::Track;

/// Settings of `[recording]`.
#[derive(Debug, Clone)]
pub struct Config {
    pub dir: PathBuf,
    /// Bytes that may wait for the disk in all.
    pub queue: usize,
}

#[cfg(test)]
mod tests;
