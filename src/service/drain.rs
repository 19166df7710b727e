//! The end of a process, in steps: no more connections, no more targets, farewell, nothing.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::signals::Signals;
use super::{Service, notify};
use crate::access::{Code, Failure};

/// For sessions that were told to end: what they still have to say and to write down.
const FAREWELL: Duration = Duration::from_secs(6);

/// Why the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Another one has taken over: whoever is connected here stays as before.
    HandedOver,
    /// It was told to.
    Stop,
}

pub(super) struct Drain<'a> {
    pub(super) service: &'a Service,
    pub(super) signals: &'a mut Signals,
    pub(super) drain_timeout: Duration,
    pub(super) stop_timeout: Duration,
}

impl Drain<'_> {
    /// Until the last session has ended, or none may go on.
    pub(super) async fn run(mut self, why: Why, mut serving: JoinHandle<()>) {
        self.service.door.closing().stop_accepting();
        if why == Why::HandedOver {
            tracing::info!(sessions = self.service.live.list().len(), timeout = ?self.drain_timeout, "another process took over; draining");
            tokio::select! {
                _ = &mut serving => return,
                () = tokio::time::sleep(self.drain_timeout) => return self.end(serving, "the process that served it was replaced").await,
                () = self.signals.stop() => {}
            }
        }
        self.stop(&mut serving).await;
        if !serving.is_finished() {
            self.end(serving, "the broker stops").await;
        }
    }

    async fn stop(&mut self, serving: &mut JoinHandle<()>) {
        let sessions = self.service.live.list().len();
        tracing::info!(sessions, timeout = ?self.stop_timeout, "stopping");
        let status = format!("stopping: {sessions} sessions may go on for {} s", self.stop_timeout.as_secs());
        notify::stopping(&status, self.stop_timeout + FAREWELL * 2);
        self.service.door.closing().stop_opening();
        let left = humantime::format_duration(Duration::from_secs(self.stop_timeout.as_secs()));
        self.service.live.list().iter().for_each(|session| session.notice(&format!("the broker is about to stop, in {left} at most")));
        tokio::select! {
            _ = serving => {}
            () = tokio::time::sleep(self.stop_timeout) => tracing::warn!("stop_timeout is over"),
            () = self.signals.stop() => tracing::warn!("told to stop a second time"),
        }
    }

    /// The sessions that are left read why; their ends are written to the audit.
    async fn end(&self, mut serving: JoinHandle<()>, why: &str) {
        let failure = Failure::new(Code::BrokerDraining, why);
        self.service.live.list().iter().for_each(|session| session.end(&failure));
        let _ = tokio::time::timeout(FAREWELL, &mut serving).await;
        self.service.door.closing().stop_serving();
        if !serving.is_finished() {
            let _ = serving.await;
        }
    }
}
