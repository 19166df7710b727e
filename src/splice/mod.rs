//! Moving messages between the two legs of a session.
//!
//! **Invariants**
//! - Messages from 80 up pass byte for byte, in order. There is no window, no channel table and no reply queue here: channel numbers,
//!   windows, requests and replies are the two peers' own. Three changes are made, all in place or in the very place:
//!   - what the gate refuses is renamed and passes: the peer does not know the name and answers the failure itself, in order. The failure
//!     of a channel open is given the reason on its way back;
//!   - a session channel's window reaches the instance less a small reserve, from which notices are sent (`notice`);
//!   - the bytes of a nested SSH connection that is not allowed are overwritten (`nested`).
//! - Two messages that OpenSSH sends only to peers that are known for them end here when the receiver is not (`manners`).
//! - The tap reads as messages pass and never changes them; its channel table only names things in the audit.
//! - Nothing of ours appears on a channel without a terminal.
//! - A leg in key exchange is always read. Else a leg is read only while the other one takes what it brings, so memory is bounded.

mod channels;
mod destination;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod gate;
mod manners;
mod nested;
mod notice;
mod orders;
mod pump;
mod tap;
mod taped;
#[cfg(test)]
mod tests;

pub use gate::{Gate, Verdict};
pub use orders::{Farewell, Orders};
pub use pump::{Ended, Limits, Splice};
pub use tap::Tap;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the operator to the instance.
    Up,
    /// From the instance to the operator.
    Down,
}
