//! How many sessions move on a thread, told by the turns that they have.
//!
//! A session that is alone moves little at a time: what it read is sent while the processor still has it at hand. Of many that move, each
//! finds the processor's cache taken by the others, and more at a time costs fewer system calls.

use std::cell::Cell;

/// Rounds of one turn at most, about half a mebibyte: then the others of the thread have theirs.
const MOST_ROUNDS: u64 = 16;

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

/// When somebody had a turn last, in turns of the thread's sessions.
#[derive(Debug, Default)]
pub(crate) struct LastTurn(u64);

impl LastTurn {
    /// How many rounds the turn has that begins at this count: one, and one more for each turn that sessions had meanwhile.
    pub(crate) fn rounds(&mut self, count: u64) -> u64 {
        count.wrapping_sub(std::mem::replace(&mut self.0, count)).clamp(1, MOST_ROUNDS)
    }
}
