use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a session may take nothing of a full pipe. Then it has failed, and the connection's other sessions go on.
const STALL: Duration = Duration::from_secs(120);
/// What a message counts for at least, so that a flood of small ones is bounded by the same number.
const MESSAGE_MIN: usize = 512;
/// The window that a client is granted while a pipe is full: it keeps asking, and costs nothing.
pub(super) const TRICKLE: u32 = 2;
/// A client that has sent nothing for so long has nothing more to send, for now.
const PRESSING: Duration = Duration::from_secs(1);
/// How long a message of the trickle holds the connection back.
const TRICKLE_PAUSE: Duration = Duration::from_millis(20);

/// Messages that a queue must have room for, so that a pipe of `limit` bytes is full before its queue is.
pub(super) fn queue_len(limit: usize) -> usize {
    (limit / MESSAGE_MIN).saturating_add(64).min(1 << 16)
}

/// The window of a channel whose pipe has `limit` bytes.
///
/// The library grants on receipt, to the target that was named at the grant before. So what was granted when a pipe was found half full
/// can be followed by one and a half windows more: with a quarter they fit, and no honest client ever meets the limit.
pub(super) fn window(limit: usize) -> u32 {
    u32::try_from(limit / 4).unwrap_or(u32::MAX).clamp(32 << 10, 8 << 20)
}

/// How many bytes wait between the connection's loop and one session, and who is to be woken about it.
///
/// The messages themselves wait in the library's queue of the channel; this bounds them in bytes without another hop or copy. A pipe that
/// is half full stops the grants ([`TRICKLE`]), so the loop goes on reading and writing while its client is held back: an echo to a slow
/// reader must not wait for itself. Only a client that sends without a window, or a flood of tiny messages, meets the limit, and stops the
/// loop. Counts can be below zero for a moment, because a message is in the queue before it is counted.
#[derive(Debug)]
pub(super) struct Gauge {
    waiting: AtomicI64,
    limit: i64,
    /// Messages taken so far, by which a session that stands still is told from a slow one.
    taken: AtomicU64,
    /// What was seen when the last message came that found the pipe half full.
    pressed: Mutex<Option<Pressed>>,
    /// Told when the session has taken so much that less than half of the limit waits.
    room: Notify,
    /// The session takes nothing more, or the channel is closed.
    closed: AtomicBool,
    /// Nothing was taken for too long: what is left in the queue is lost, and so is the session.
    stalled: AtomicBool,
    /// The session's writer, which waits for a window that a closed channel never gets.
    writer: AtomicWaker,
}

#[derive(Debug, Clone, Copy)]
struct Pressed {
    /// Since when the session has taken nothing, and how much it had taken then.
    still_since: Instant,
    taken: u64,
    last: Instant,
}

/// What came of counting a message in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Fits,
    /// Nothing was taken for [`STALL`].
    Stalled,
}

impl Gauge {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: AtomicI64::new(0),
            limit: i64::try_from(limit.max(1)).unwrap_or(i64::MAX),
            taken: AtomicU64::new(0),
            pressed: Mutex::new(None),
            room: Notify::new(),
            closed: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            writer: AtomicWaker::new(),
        })
    }

    /// Whether its client is to be held back.
    pub(super) fn is_full(&self) -> bool {
        !self.is_closed() && self.waiting.load(Ordering::Acquire) > self.limit / 2
    }

    /// Whether its client goes on sending although it is full.
    pub(super) fn is_pressed(&self) -> bool {
        let pressed = *self.pressed.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_full() && pressed.is_some_and(|pressed| pressed.last.elapsed() < PRESSING)
    }

    /// Counts a message that is in the queue now.
    pub(super) async fn put(&self, bytes: usize) -> Counted {
        let trickle = bytes <= TRICKLE as usize;
        let bytes = i64::try_from(bytes.max(MESSAGE_MIN)).unwrap_or(i64::MAX);
        let waiting = self.waiting.fetch_add(bytes, Ordering::AcqRel).saturating_add(bytes);
        if waiting <= self.limit / 2 {
            return Counted::Fits;
        }
        let mut hold = waiting > self.limit;
        while self.is_full() {
            if self.stands_still() {
                self.stalled.store(true, Ordering::Release);
                self.close();
                return Counted::Stalled;
            }
            if !hold && !trickle {
                break;
            }
            let pause = if hold { STALL } else { TRICKLE_PAUSE };
            let _ = tokio::time::timeout(pause, self.room.notified()).await;
            if !hold {
                break;
            }
            hold = self.is_full();
        }
        Counted::Fits
    }

    /// Whether the session has taken nothing for [`STALL`], as far as messages came to look.
    fn stands_still(&self) -> bool {
        let (now, taken) = (Instant::now(), self.taken.load(Ordering::Relaxed));
        let mut pressed = self.pressed.lock().unwrap_or_else(PoisonError::into_inner);
        let still_since = pressed.filter(|before| before.taken == taken).map_or(now, |before| before.still_since);
        *pressed = Some(Pressed { still_since, taken, last: now });
        now.duration_since(still_since) >= STALL
    }

    /// Counts a message that the session took.
    pub(super) fn take(&self, bytes: usize) {
        let bytes = i64::try_from(bytes.max(MESSAGE_MIN)).unwrap_or(i64::MAX);
        self.taken.fetch_add(1, Ordering::Relaxed);
        let before = self.waiting.fetch_sub(bytes, Ordering::AcqRel);
        let low = self.limit / 2;
        if before > low && before.saturating_sub(bytes) <= low {
            self.room.notify_one();
        }
    }

    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.room.notify_one();
        self.writer.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    pub(super) fn has_stalled(&self) -> bool {
        self.stalled.load(Ordering::Acquire)
    }

    pub(super) fn register_writer(&self, waker: &Waker) {
        self.writer.register(waker);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_full_pipe_holds_back_until_half_is_taken_and_not_for_ever() {
        let gauge = Gauge::new(10_000);
        assert_eq!((gauge.put(5_000).await, gauge.is_full()), (Counted::Fits, false));
        let started = Instant::now();
        assert_eq!((gauge.put(5_000).await, gauge.is_full()), (Counted::Fits, true));
        assert_eq!(started.elapsed(), Duration::ZERO);
        let over = tokio::spawn({
            let gauge = gauge.clone();
            async move { gauge.put(2_000).await }
        });
        tokio::time::sleep(STALL / 2).await;
        gauge.take(6_000);
        tokio::time::sleep(STALL / 2).await;
        assert!(!over.is_finished());
        gauge.take(1_000);
        assert_eq!(over.await.unwrap(), Counted::Fits);
        assert_eq!(gauge.put(6_000).await, Counted::Stalled);
        assert!(gauge.is_closed() && gauge.has_stalled());
        // What comes after the end is nobody's to wait for.
        assert_eq!(gauge.put(100_000).await, Counted::Fits);
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_finds_out_that_a_session_stands_still() {
        let gauge = Gauge::new(1 << 20);
        assert_eq!(gauge.put(600 << 10).await, Counted::Fits);
        let started = Instant::now();
        let mut messages = 0;
        while gauge.put(2).await == Counted::Fits {
            messages += 1;
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        assert!(started.elapsed() >= STALL && started.elapsed() < STALL * 2 && messages > 100, "{messages}");
    }

    #[tokio::test(start_paused = true)]
    async fn small_messages_fill_a_pipe_before_they_fill_its_queue() {
        let gauge = Gauge::new(1 << 20);
        let mut messages = 0;
        while gauge.put(1).await == Counted::Fits {
            messages += 1;
        }
        assert!(messages < queue_len(1 << 20), "{messages}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_session_lets_the_connection_go_on() {
        let gauge = Gauge::new(1);
        let full = tokio::spawn({
            let gauge = gauge.clone();
            async move { gauge.put(20).await }
        });
        tokio::task::yield_now().await;
        gauge.close();
        assert_eq!(full.await.unwrap(), Counted::Fits);
    }
}
