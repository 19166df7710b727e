use std::future::poll_fn;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::turns;

/// The largest window. The library grants anew when half of it is used up, so this does as much over a long line as the 2 MiB that
/// OpenSSH grants inside.
const MAX_WINDOW: usize = 4 << 20;
const MIN_WINDOW: usize = 32 << 10;
/// A client's window while its session does not take what has come: it is held back, and asks again with each that it uses up.
pub(super) const TRICKLE: u32 = 2 << 10;
/// How long a message of the trickle holds the connection back.
const TRICKLE_PAUSE: Duration = Duration::from_millis(20);
/// A client that has sent nothing for so long has nothing more to send, for now.
const PRESSING: Duration = Duration::from_secs(1);
/// How long a session may take nothing of a full pipe while other sessions of its connection are held up by that, and while none is.
const STALL: Duration = Duration::from_secs(30);
const STALL_ALONE: Duration = Duration::from_secs(900);
/// The part of a pipe that may wait before its client is held back. What was granted when this is found out can be followed by one and a
/// half windows more: it all fits, and no honest client ever meets the limit.
const FULL: i64 = 8;
/// Bytes of a message, a key and more, that does not wait for others behind it.
const FEW: usize = 4 * 1024;
/// Messages that go into the queue of a session among others that move, before it is looked whether it still is.
const CROWDED: u32 = 32;
/// Bytes of a message that fills a pipe as soon as its queue.
const SMALL_MESSAGE: usize = 512;

/// What a client may send on a channel, whose pipe has `limit` bytes, before it is granted more.
pub(super) fn window(limit: usize) -> u32 {
    u32::try_from((limit / 2).clamp(MIN_WINDOW, MAX_WINDOW)).unwrap_or(u32::MAX)
}

/// Messages that the library's queue of a channel takes: a pipe of `limit` bytes is full before, unless they are tiny.
pub(super) fn queue_len(limit: usize) -> usize {
    (limit / SMALL_MESSAGE).max(64)
}

/// How many bytes wait between a connection's loop and one session, and who is to be woken about it.
///
/// The library grants window as soon as it has received, then awaits the channel's queue inside the only loop of a connection: a session
/// that takes nothing would stop all others. So its client is held back by its window ([`TRICKLE`]) once a part of the limit waits, long
/// before the queue is full, and the loop goes on. A client that sends without a window meets the limit, and holds up itself.
#[derive(Debug)]
pub(super) struct Gauge {
    waiting: AtomicI64,
    limit: i64,
    /// Whether the session found nothing when it last looked, and so will be run for what has come since. Not for longer than that: one
    /// that waits for something else leaves what has come.
    hungry: AtomicBool,
    /// How many messages more are queued for a session among others that move.
    crowded: AtomicU32,
    /// Bytes taken so far, by which a session that stands still is told from a slow one.
    taken: AtomicU64,
    /// What was seen when a message last came that found the pipe full.
    pressed: Mutex<Option<Pressed>>,
    /// Told when less waits than holds a client back.
    room: Notify,
    closed: AtomicBool,
    stalled: AtomicBool,
    /// The session's task, which may wait for the instance alone when its end comes.
    session: AtomicWaker,
}

#[derive(Debug, Clone, Copy)]
struct Pressed {
    still_since: Instant,
    taken: u64,
    last: Instant,
}

/// What came of counting a message in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Counted {
    Fits,
    /// The session has taken nothing for too long: it ends.
    Stalled,
}

impl Gauge {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            waiting: AtomicI64::new(0),
            limit: i64::try_from(limit.max(1)).unwrap_or(i64::MAX),
            hungry: AtomicBool::new(false),
            crowded: AtomicU32::new(0),
            taken: AtomicU64::new(0),
            pressed: Mutex::default(),
            room: Notify::new(),
            closed: AtomicBool::new(false),
            stalled: AtomicBool::new(false),
            session: AtomicWaker::new(),
        })
    }

    /// Whether its client is to be held back. A session that had taken all takes what has come as soon as it runs again.
    pub(super) fn is_full(&self) -> bool {
        self.is_over(self.limit / FULL) && !self.hungry.load(Ordering::Relaxed) && !self.is_closed()
    }

    fn is_over(&self, bytes: i64) -> bool {
        self.waiting.load(Ordering::Relaxed) > bytes
    }

    /// Whether its client goes on sending although it is full.
    pub(super) fn is_pressed(&self) -> bool {
        self.is_full() && self.pressed().is_some_and(|pressed| pressed.last.elapsed() < PRESSING)
    }

    /// Counts a message that is in the queue, and lets its session take it at once: a key goes on before the library does what it has to do
    /// after each message, and a queue that never fills uses the same few buffers again. `shared`: other sessions of the connection wait
    /// meanwhile.
    pub(super) async fn put(&self, bytes: usize, shared: bool) -> Counted {
        self.waiting.fetch_add(i64::try_from(bytes).unwrap_or(i64::MAX), Ordering::Relaxed);
        if bytes <= FEW || self.is_alone() || self.is_over(self.limit / FULL) {
            self.feed().await;
        }
        if !self.is_over(self.limit / FULL) {
            return Counted::Fits;
        }
        let patience = if shared { STALL } else { STALL_ALONE };
        loop {
            let over = self.is_over(self.limit) && !self.is_closed();
            if !over && !self.is_full() {
                return Counted::Fits;
            }
            if self.still_for() >= patience {
                self.stalled.store(true, Ordering::Release);
                self.close();
                return Counted::Stalled;
            }
            if over {
                let _ = timeout(PRESSING, self.room.notified()).await;
            } else {
                if bytes <= TRICKLE as usize {
                    let _ = timeout(TRICKLE_PAUSE, self.room.notified()).await;
                }
                return Counted::Fits;
            }
        }
    }

    /// Whether no other session moved when one was last fed. Among others it takes several messages at a time: by its next turn the
    /// processor's cache is theirs.
    fn is_alone(&self) -> bool {
        let crowded = self.crowded.load(Ordering::Relaxed);
        self.crowded.store(crowded.saturating_sub(1), Ordering::Relaxed);
        crowded == 0
    }

    /// Lets a hungry session run. It was woken by what has come, so it has its turn before this task has the next one (both are on one
    /// thread); when it took nothing, it is not hungry.
    async fn feed(&self) {
        if self.hungry.load(Ordering::Relaxed) {
            let (taken, turns) = (self.taken.load(Ordering::Relaxed), turns::count());
            step_aside().await;
            let others = turns::count().wrapping_sub(turns) > 1;
            self.crowded.store(if others { CROWDED } else { 0 }, Ordering::Relaxed);
            if self.taken.load(Ordering::Relaxed) == taken {
                self.hungry.store(false, Ordering::Relaxed);
            }
        }
    }

    /// How long the session has taken nothing, as far as messages came to look.
    fn still_for(&self) -> Duration {
        let (now, taken) = (Instant::now(), self.taken.load(Ordering::Relaxed));
        let mut pressed = self.pressed.lock().unwrap_or_else(PoisonError::into_inner);
        let still_since = pressed.filter(|before| before.taken == taken).map_or(now, |before| before.still_since);
        *pressed = Some(Pressed { still_since, taken, last: now });
        now.duration_since(still_since)
    }

    fn pressed(&self) -> Option<Pressed> {
        *self.pressed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts bytes that the session took; `all`: it found nothing more.
    pub(super) fn take(&self, bytes: usize, all: bool) {
        self.hungry.store(all, Ordering::Relaxed);
        self.taken.fetch_add(bytes as u64, Ordering::Relaxed);
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let before = self.waiting.fetch_sub(bytes, Ordering::Relaxed);
        let low = self.limit / FULL;
        if before > low && before.saturating_sub(bytes) <= low {
            self.room.notify_one();
        }
    }

    /// The session takes nothing more, or is to end.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.room.notify_one();
        self.session.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// For the session: whether it is to end because it took nothing. Leaves the waker.
    pub(super) fn has_stalled(&self, waker: &Waker) -> bool {
        self.session.register(waker);
        self.stalled.load(Ordering::Acquire)
    }
}

/// Lets the tasks run that were woken before, and no more: tokio's `yield_now` looks at all sockets before it goes on.
async fn step_aside() {
    let mut has_stepped = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut has_stepped, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_limit_holds_back_until_something_is_taken_and_not_for_ever() {
        for (shared, patience) in [(true, STALL), (false, STALL_ALONE)] {
            let gauge = Gauge::new(20_000);
            assert_eq!((gauge.put(2_000, shared).await, gauge.is_full()), (Counted::Fits, false));
            let started = Instant::now();
            assert_eq!((gauge.put(17_000, shared).await, gauge.is_full()), (Counted::Fits, true));
            assert_eq!(started.elapsed(), Duration::ZERO);
            let over = tokio::spawn({
                let gauge = gauge.clone();
                async move { gauge.put(4_000, shared).await }
            });
            tokio::time::sleep(patience / 2).await;
            assert!(!over.is_finished());
            gauge.take(21_500, false);
            assert_eq!(over.await.unwrap(), Counted::Fits);
            let started = Instant::now();
            assert_eq!(gauge.put(30_000, shared).await, Counted::Stalled);
            assert!(started.elapsed() >= patience && started.elapsed() < patience + PRESSING * 2);
            assert!(gauge.is_closed() && gauge.has_stalled(Waker::noop()));
            // What comes after the end is nobody's to wait for.
            assert_eq!(gauge.put(100_000, shared).await, Counted::Fits);
        }
    }

    /// A session that waits for its recorder, or the instance, when its pipe was empty.
    #[tokio::test(start_paused = true)]
    async fn one_that_had_taken_all_and_takes_nothing_more_is_held_back_before_its_pipe_is_full() {
        let gauge = Gauge::new(20_000);
        gauge.take(0, true);
        assert_eq!((gauge.put(2_000, true).await, gauge.is_full()), (Counted::Fits, false));
        let started = Instant::now();
        assert_eq!((gauge.put(2_000, true).await, gauge.is_full()), (Counted::Fits, true));
        assert!(started.elapsed() <= TRICKLE_PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_takes_what_comes_as_soon_as_it_runs_is_not_held_back() {
        let gauge = Gauge::new(20_000);
        let came = Arc::new(Notify::new());
        let session = tokio::spawn({
            let (gauge, came) = (gauge.clone(), came.clone());
            async move {
                loop {
                    gauge.take(0, true);
                    came.notified().await;
                    gauge.take(15_000, false);
                }
            }
        });
        tokio::task::yield_now().await;
        let started = Instant::now();
        for _ in 0..10 {
            came.notify_one();
            assert_eq!((gauge.put(15_000, true).await, gauge.is_full()), (Counted::Fits, false));
        }
        assert_eq!(started.elapsed(), Duration::ZERO);
        session.abort();
    }

    #[tokio::test]
    async fn a_session_that_waits_for_more_has_taken_it_before_the_connection_goes_on() {
        let gauge = Gauge::new(1 << 20);
        let came = Arc::new(Notify::new());
        gauge.take(0, true);
        let session = tokio::spawn({
            let (gauge, came) = (gauge.clone(), came.clone());
            async move {
                came.notified().await;
                gauge.take(1, true);
            }
        });
        tokio::task::yield_now().await;
        came.notify_one();
        assert_eq!(gauge.put(1, false).await, Counted::Fits);
        assert!(session.is_finished());
    }

    #[tokio::test]
    async fn among_others_that_move_large_messages_are_queued_and_small_ones_still_taken() {
        let gauge = Gauge::new(64 << 20);
        let came = Arc::new(Notify::new());
        let others = Arc::new(AtomicU32::new(3));
        let session = tokio::spawn({
            let (gauge, came, others) = (gauge.clone(), came.clone(), others.clone());
            async move {
                loop {
                    gauge.take(0, true);
                    came.notified().await;
                    for _ in 0..=others.load(Ordering::Relaxed) {
                        turns::begin();
                    }
                    gauge.take(1, true);
                }
            }
        });
        tokio::task::yield_now().await;
        let mut sent = 0;
        let mut taken_at_once = async |bytes| {
            came.notify_one();
            sent += 1;
            assert_eq!(gauge.put(bytes, false).await, Counted::Fits);
            let taken = gauge.taken.load(Ordering::Relaxed) == sent;
            tokio::task::yield_now().await;
            taken
        };
        assert!(taken_at_once(FEW + 1).await, "the others are seen by the first");
        for _ in 0..CROWDED {
            assert!(!taken_at_once(FEW + 1).await);
        }
        assert!(taken_at_once(FEW + 1).await, "and looked for again");
        assert!(taken_at_once(FEW).await);
        others.store(0, Ordering::Relaxed);
        assert!(taken_at_once(1).await);
        assert!(taken_at_once(FEW + 1).await && taken_at_once(FEW + 1).await, "alone again");
        session.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_trickle_finds_out_that_a_session_stands_still_before_the_pipe_is_full() {
        let gauge = Gauge::new(4 << 20);
        assert_eq!(gauge.put(2 << 20, true).await, Counted::Fits);
        let started = Instant::now();
        while gauge.put(TRICKLE as usize, true).await == Counted::Fits {
            assert!(gauge.is_pressed());
        }
        assert!(started.elapsed() >= STALL && started.elapsed() < STALL * 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_a_little_is_slow_and_goes_on() {
        let gauge = Gauge::new(1 << 20);
        assert_eq!(gauge.put(512 << 10, true).await, Counted::Fits);
        for _ in 0..100 {
            gauge.take(TRICKLE as usize, false);
            tokio::time::sleep(STALL / 2).await;
            assert_eq!(gauge.put(TRICKLE as usize, true).await, Counted::Fits);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_the_session_lets_the_connection_go_on() {
        let gauge = Gauge::new(1);
        let full = tokio::spawn({
            let gauge = gauge.clone();
            async move { gauge.put(20, false).await }
        });
        tokio::task::yield_now().await;
        gauge.close();
        assert_eq!(full.await.unwrap(), Counted::Fits);
    }
}
