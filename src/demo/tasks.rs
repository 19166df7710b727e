use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The tasks of one simulated server, and the way to end them all.
///
/// **Invariant**: no task outlives this value by more than the step it is in: dropping it cancels every task, [`Tasks::shutdown`] also
/// waits for them.
pub(super) struct Tasks {
    spawner: Option<Spawner>,
    stop: CancellationToken,
    ended: mpsc::Receiver<Infallible>,
}

/// Starts tasks that end with their [`Tasks`].
#[derive(Clone)]
pub(super) struct Spawner {
    stop: CancellationToken,
    alive: mpsc::Sender<Infallible>,
}

impl Tasks {
    /// How long [`Tasks::shutdown`] waits for tasks that were told to end.
    const GRACE: Duration = Duration::from_secs(5);

    pub(super) fn new() -> Self {
        let stop = CancellationToken::new();
        let (alive, ended) = mpsc::channel(1);
        Self { spawner: Some(Spawner { stop: stop.clone(), alive }), stop, ended }
    }

    /// `None` after the shutdown began.
    pub(super) fn spawner(&self) -> Option<Spawner> {
        self.spawner.clone()
    }

    /// Ends every task and waits until they are gone.
    pub(super) async fn shutdown(&mut self) {
        self.stop.cancel();
        self.spawner = None;
        // Every task holds a sender, so the channel closes with the last of them.
        if tokio::time::timeout(Self::GRACE, self.ended.recv()).await.is_err() {
            tracing::warn!("a simulated server's task did not end in {:?}", Self::GRACE);
        }
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Spawner {
    /// Runs `task` until it ends or is cancelled; cancelling drops it where it waits.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Self { stop, alive } = self.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
            drop(alive);
        });
    }

    /// Runs a task that watches [`Spawner::stop`] itself, because it has something to do before it ends.
    pub(super) fn spawn_watching(&self, task: impl Future<Output = ()> + Send + 'static) {
        let alive = self.alive.clone();
        tokio::spawn(async move {
            task.await;
            drop(alive);
        });
    }

    pub(super) fn stop(&self) -> &CancellationToken {
        &self.stop
    }
}
