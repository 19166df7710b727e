use std::io;

use thiserror::Error;

/// Why a leg ended, by whose fault it is.
#[derive(Debug, Error)]
pub enum TransportError {
    /// The peer sent what the protocol does not allow.
    #[error("the peer broke the protocol: {0}")]
    Misbehaved(&'static str),
    /// RFC 4253, 7.1: nothing in common.
    #[error("no common {what}: ours are {ours}, the peer's are {theirs}")]
    NoCommon { what: &'static str, ours: String, theirs: String },
    /// The peer said good-bye. The text is the peer's: for the log.
    #[error("the peer disconnected: {text:?} (reason {code})")]
    Disconnected { code: u32, text: String },
    #[error("the peer closed the connection")]
    Closed,
    #[error("{0} took too long")]
    Deadline(&'static str),
    /// Too many messages came for this leg while it was in key exchange.
    #[error("more than {} bytes waited for the end of a key exchange", super::MAX_HELD)]
    HeldTooMuch,
    /// More came than [`Connection::limit`](super::Connection::limit) allows.
    #[error("too much was sent")]
    Flood,
    /// Ours: a primitive failed that should not.
    #[error("cryptography failed: {0}")]
    Crypto(&'static str),
    #[error(transparent)]
    Io(#[from] io::Error),
}
