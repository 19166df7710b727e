//! What tasks need of each other.

use std::future::pending;
use std::panic::resume_unwind;
use std::task::{Context, Waker};

use tokio_util::task::AbortOnDropHandle;

/// Does the work in a task of its own, which ends with this future and whose panic is this future's.
///
/// What is polled with every packet is then that work alone, without those who wait for its end.
pub(crate) async fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    match AbortOnDropHandle::new(tokio::spawn(work)).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            // The runtime ends, and this future with it.
            Err(_) => pending().await,
        },
    }
}

/// Leaves the waker of the task that runs; whether it was there already.
pub(crate) fn leave(place: &mut Option<Waker>, cx: &Context<'_>) -> bool {
    let is_there = place.as_ref().is_some_and(|left| left.will_wake(cx.waker()));
    if !is_there {
        *place = Some(cx.waker().clone());
    }
    is_there
}

/// Wakes whoever waits, once.
pub(crate) fn wake(place: &mut Option<Waker>) {
    if let Some(waker) = place.take() {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn what_is_done_apart_gives_what_it_gives_and_ends_with_who_waits_for_it() {
        assert_eq!(apart(async { 7 }).await, 7);
        let held = Arc::new(());
        let mut waiting = Box::pin(apart({
            let held = held.clone();
            async move {
                pending::<()>().await;
                drop(held);
            }
        }));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&held), 2);
        drop(waiting);
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    #[should_panic(expected = "of the work")]
    async fn its_panic_is_a_panic_here() {
        apart(async { panic!("of the work") }).await
    }
}
