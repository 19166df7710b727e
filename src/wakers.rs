//! Where a task's waker is left for those who wake it.

use std::task::{Context, Waker};

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
