//! Edge: who was where, when, doing what: one JSON object a line.
//!
//! Events go through a bounded queue to one writer thread. A full queue is never answered by dropping: [`Audit::record`] waits for room,
//! and [`Audit::try_record`] says that there is none. [`Audit::record_durably`] waits until the event is kept for good. A sink that fails is
//! tried until it takes the events, each with the number that it had ([`Audit::health`] tells).

mod event;
mod journal;
mod writer;

use std::path::PathBuf;

pub use event::{Event, Subject, Text};
pub use writer::{Audit, AuditError, Health, Observer};

/// Settings of `[audit]`.
#[derive(Debug, Clone)]
pub struct Config {
    pub path: Sink,
    /// Events that may wait for the sink.
    pub queue: usize,
    /// Whether a file is synced to the disk before an event counts as kept, or left to the operating system.
    pub sync: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    Stdout,
    File(PathBuf),
}
