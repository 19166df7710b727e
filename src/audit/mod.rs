//! Edge: who was where, when, doing what: one JSON object a line.
//!
//! Events go through a bounded queue to one writer thread. A full queue is never answered by dropping: [`Audit::record`] waits for room,
//! and [`Audit::try_record`] says that there is none.

mod event;
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
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    Stdout,
    File(PathBuf),
}
