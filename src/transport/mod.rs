//! The SSH transport of every leg (RFC 4253, RFC 8308, strict KEX), and user authentication (RFC 4252) in both roles inside; that of the
//! operator is the door's.
//!
//! A sans-I/O state machine ([`Leg`]: bytes in → messages out, messages in → bytes out) with a thin tokio driver ([`Connection`]).
//! It knows nothing of channels, policy or the cloud.
//!
//! **Invariants**
//! - Every length from the peer is checked before anything is allocated for it; a packet is at most [`MAX_PACKET`] bytes.
//! - Between the peer's KEXINIT and its NEWKEYS only messages 1–49 are taken from it; between our KEXINIT and our NEWKEYS only those are
//!   sent, and messages of the layers above are held, bounded by [`MAX_HELD`].
//! - A peer that makes a leg answer (key exchanges, messages that nobody knows) and reads nothing ends it at [`MAX_UNREAD`].
//! - A failed open ends the leg: there is no second try on a key stream.
//! - The algorithms of old instances are a client's alone: a leg in server role drops them from whatever it is given.
//! - No time is read here: whoever drives a leg passes the clock in and owns the deadlines.

mod auth_client;
mod auth_server;
mod buffer;
mod cipher;
mod clock;
mod connection;
mod derive;
mod dh;
mod error;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod group_exchange;
mod host_key;
mod kex;
mod leg;
mod mac;
pub mod msg;
mod negotiate;
mod packet;
mod preferences;
mod stream;
pub mod wire;

pub use auth_client::{AuthError, ClientAuth, Credential};
pub use auth_server::{ServerAuth, Step};
pub use buffer::Buffer;
pub use clock::{IDLE_TICK, KeyClock, KeyLimits, TICK};
pub use connection::{Connection, Filled};
pub use error::TransportError;
pub use host_key::{HostIdentity, HostKey, SignatureAlgorithm, sign_with};
pub use leg::{Leg, Received, Role};
pub use negotiate::{KexInit, Negotiated};
pub use packet::MAX_PACKET;
pub use preferences::{Preferences, is_legacy};

/// Bytes of messages that a leg holds while it is in key exchange.
pub const MAX_HELD: usize = 4 * 1024 * 1024;

/// Bytes that may wait unread for a peer whose own transport messages are still answered: twice what the splice lets wait.
pub const MAX_UNREAD: usize = 16 * 1024 * 1024;
