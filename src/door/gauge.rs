use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::Waker;
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;

/// How long a full pipe may stay as full as it is. Then its session has failed, and the connection's other sessions go on.
const STALL: Duration = Duration::from_secs(120);

/// What a message counts for at least, so that a flood of small ones is bounded by the same number.
const MESSAGE_MIN: usize = 512;

/// Messages that a queue must have room for, so that a pipe of `limit` bytes is full before its queue is.
pub(super) fn queue_len(limit: usize) -> usize {
    (limit / MESSAGE_MIN).saturating_add(64).min(1 << 16)
}

/// How many bytes wait between the connection's loop and one session, and who is to be woken about it.
///
/// The messages themselves wait in the library's queue of the channel; this bounds them in bytes without another hop or copy. Counts can be
/// below zero for a moment, because a message is in the queue before it is counted.
#[derive(Debug)]
pub(super) struct Gauge {
    waiting: AtomicI64,
    limit: i64,
    /// Told when the session has taken half of what a full pipe holds.
    room: Notify,
    /// The session takes nothing more, or the channel is closed.
    closed: AtomicBool,
    /// Nothing was taken for too long: what is left in the queue is lost, and so is the session.
    stalled: AtomicBool,
    /// The session's writer, which waits for a window that a closed channel never gets.
    writer: AtomicWaker,
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
            room: Notify::new(),
            closed: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            writer: AtomicWaker::new(),
        })
    }

    /// Counts a message that is in the queue now. Over the limit it waits until half of that is taken: the connection reads no further
    /// meanwhile, which is the only way to hold a client back whose window is granted on receipt.
    pub(super) async fn put(&self, bytes: usize) -> Counted {
        let bytes = i64::try_from(bytes.max(MESSAGE_MIN)).unwrap_or(i64::MAX);
        let mut waiting = self.waiting.fetch_add(bytes, Ordering::AcqRel).saturating_add(bytes);
        if waiting <= self.limit {
            return Counted::Fits;
        }
        while waiting > self.limit / 2 && !self.is_closed() {
            if tokio::time::timeout(STALL, self.room.notified()).await.is_err() {
                let now = self.waiting.load(Ordering::Acquire);
                if now == waiting {
                    self.stalled.store(true, Ordering::Release);
                    self.close();
                    return Counted::Stalled;
                }
            }
            waiting = self.waiting.load(Ordering::Acquire);
        }
        Counted::Fits
    }

    /// Counts a message that the session took.
    pub(super) fn take(&self, bytes: usize) {
        let bytes = i64::try_from(bytes.max(MESSAGE_MIN)).unwrap_or(i64::MAX);
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
        assert_eq!(gauge.put(10_000).await, Counted::Fits);
        let full = tokio::spawn({
            let gauge = gauge.clone();
            async move { gauge.put(2_000).await }
        });
        tokio::time::sleep(STALL / 2).await;
        gauge.take(6_000);
        tokio::time::sleep(STALL / 2).await;
        assert!(!full.is_finished());
        gauge.take(1_000);
        assert_eq!(full.await.unwrap(), Counted::Fits);
        assert_eq!(gauge.put(6_000).await, Counted::Stalled);
        assert!(gauge.is_closed() && gauge.has_stalled());
        // What comes after the end is nobody's to wait for.
        assert_eq!(gauge.put(100_000).await, Counted::Fits);
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
