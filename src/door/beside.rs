use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::tasks::leave;

/// What a connection's task wakes up to besides the connection itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Woken {
    Tick,
    Stop,
}

/// Ticks and the order to stop, for a task that is woken much more often by something else.
pub(super) struct Beside {
    tick: Pin<Box<Sleep>>,
    end: CancellationToken,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    /// What both have.
    waker: Option<Waker>,
}

impl Beside {
    pub(super) fn new(end: CancellationToken, first_tick: Instant) -> Self {
        Self { tick: Box::pin(sleep_until(first_tick)), ended: Box::pin(end.clone().cancelled_owned()), end, waker: None }
    }

    pub(super) fn set_tick(&mut self, at: Instant) {
        self.tick.as_mut().reset(at);
        self.waker = None;
    }

    /// The futures are polled to leave the waker with them, and then when they are ready: not with all that moves.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Woken> {
        let waits = leave(&mut self.waker, cx);
        if (!waits || self.end.is_cancelled()) && self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Woken::Stop);
        }
        if (!waits || self.tick.is_elapsed()) && self.tick.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Woken::Tick);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn ticks_and_the_order_to_stop_wake_a_task_that_something_else_woke_often_before() {
        let (end, began) = (CancellationToken::new(), Instant::now());
        let mut beside = Beside::new(end.clone(), began + SECOND);
        for seconds in 1..4 {
            for _ in 0..3 {
                assert!(poll_fn(|cx| Poll::Ready(beside.poll(cx))).await.is_pending());
            }
            assert_eq!(poll_fn(|cx| beside.poll(cx)).await, Woken::Tick);
            assert_eq!(began.elapsed().as_secs(), seconds);
            beside.set_tick(Instant::now() + SECOND);
        }
        assert!(poll_fn(|cx| Poll::Ready(beside.poll(cx))).await.is_pending());
        end.cancel();
        assert_eq!(poll_fn(|cx| beside.poll(cx)).await, Woken::Stop);
    }

    #[tokio::test(start_paused = true)]
    async fn another_task_that_polls_is_the_one_that_is_woken() {
        for stops in [false, true] {
            let (end, began) = (CancellationToken::new(), Instant::now());
            let mut beside = Beside::new(end.clone(), began + 60 * SECOND);
            assert!(beside.poll(&mut Context::from_waker(Waker::noop())).is_pending());
            let woken = tokio::spawn(async move { poll_fn(|cx| beside.poll(cx)).await });
            tokio::task::yield_now().await;
            if stops {
                end.cancel();
            }
            assert_eq!(woken.await.unwrap(), if stops { Woken::Stop } else { Woken::Tick });
            assert_eq!(began.elapsed().as_secs(), if stops { 0 } else { 60 });
        }
    }
}
