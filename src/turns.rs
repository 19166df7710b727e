//! How many sessions move on a thread, told by the turns that they have.
//!
//! A session that is alone moves little at a time: what it read is sent while the processor still has it at hand. Of many that move, each
//! finds the processor's cache taken by the others, and more at a time costs fewer system calls.

use std::cell::Cell;

thread_local! {
    static TURNS: Cell<u64> = const { Cell::new(0) };
}

/// Turns that sessions have had on this thread.
pub(crate) fn count() -> u64 {
    TURNS.get()
}

/// One more; gives how many there are now.
pub(crate) fn begin() -> u64 {
    TURNS.set(TURNS.get().wrapping_add(1));
    TURNS.get()
}
