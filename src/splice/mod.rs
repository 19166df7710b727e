//! Moving messages between the two legs of a session.
//!
//! **Invariants**
//! - Messages from 80 up pass byte for byte, in order. There is no window, no channel table and no reply queue here: channel numbers,
//!   windows, requests and replies are the two peers' own.
//! - What the gate refuses is renamed in place and passes: the peer does not know the name and answers the failure itself, in order.
//! - The tap reads as messages pass and never changes them; its channel table only names things in the audit.
//! - A leg in key exchange is always read. Else a leg is read only while the other one takes what it brings, so memory is bounded.

#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod gate;
mod orders;
mod pump;
mod tap;
mod taped;

pub use gate::{Gate, Verdict};
pub use orders::{Farewell, Orders};
pub use pump::{Ended, Limits, Splice};
pub use tap::Tap;

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From the operator to the instance.
    Up,
    /// From the instance to the operator.
    Down,
}
