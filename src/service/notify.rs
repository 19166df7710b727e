//! What systemd is told (`sd_notify(3)`). Without `$NOTIFY_SOCKET` nobody is.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;

/// systemd listens to the main process alone, and logs a warning for everything that another one says.
static HANDED_OVER: AtomicBool = AtomicBool::new(false);

pub(super) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

pub(super) fn status(status: &str) {
    tell(&[NotifyState::Status(status)]);
}

pub(super) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot read the monotonic clock"),
    }
}

/// `limit`: how long the stop may take, whatever the unit says.
pub(super) fn stopping(status: &str, limit: Duration) {
    let limit = NotifyState::ExtendTimeoutUsec(u32::try_from(limit.as_micros()).unwrap_or(u32::MAX));
    tell(&[NotifyState::Stopping, limit, NotifyState::Status(status)]);
}

/// Another process is the service from now on, and this one has nothing more to tell.
pub(super) fn main_process(pid: u32) {
    tell(&[NotifyState::MainPid(pid)]);
    HANDED_OVER.store(true, Ordering::Relaxed);
}

pub(super) fn alive() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(states: &[NotifyState<'_>]) {
    if HANDED_OVER.load(Ordering::Relaxed) {
        return;
    }
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
