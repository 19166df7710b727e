use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use super::pulse::Pulse;

/// Tasks polled before sockets are looked at again: one session that moves all it can must not keep the keystrokes of others waiting.
const EVENT_INTERVAL: u32 = 7;

/// One thread for each processor, each with a runtime of its own.
///
/// A connection stays on its thread with all its sessions. Their tasks wake each other for every batch of packets; on one thread that costs
/// nothing, between threads a quarter of all the time that a session takes.
pub(super) struct Lanes(Vec<Lane>);

struct Lane {
    runtime: Handle,
    /// A clone for each connection.
    connections: Arc<()>,
    /// The runtime ends, with all that is left on it.
    _stop: DropGuard,
}

impl Lanes {
    pub(super) fn start(pulse: &Pulse) -> io::Result<Self> {
        let count = thread::available_parallelism().map_or(1, usize::from);
        (0..count).map(|number| Lane::start(number, pulse)).collect::<io::Result<_>>().map(Self)
    }

    /// Tasks that have not ended, on all of them.
    pub(super) fn tasks(&self) -> usize {
        self.0.iter().map(|lane| lane.runtime.metrics().num_alive_tasks()).sum()
    }

    /// Runs a connection on the thread that has the fewest.
    pub(super) fn spawn(&self, tracker: &TaskTracker, connection: impl Future<Output = ()> + Send + 'static) {
        let Some(lane) = self.0.iter().min_by_key(|lane| Arc::strong_count(&lane.connections)) else { return };
        // Boxed: what a future awaits besides what it was given takes its place twice.
        let (counted, connection) = (lane.connections.clone(), Box::pin(connection));
        tracker.spawn_on(
            async move {
                connection.await;
                drop(counted);
            },
            &lane.runtime,
        );
    }
}

impl Lane {
    fn start(number: usize, pulse: &Pulse) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().event_interval(EVENT_INTERVAL).enable_io().enable_time().build()?;
        let (handle, stop) = (runtime.handle().clone(), CancellationToken::new());
        let stopped = stop.clone().cancelled_owned();
        let mut beat = pulse.join();
        thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = stopped => {}
                    () = beat.answer() => {}
                }
            });
        })?;
        Ok(Self { runtime: handle, connections: Arc::default(), _stop: stop.drop_guard() })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn connections_are_spread_and_end_with_their_lanes() {
        let lanes = Lanes((0..3).map(|number| Lane::start(number, &Pulse::new())).collect::<io::Result<_>>().unwrap());
        let tracker = TaskTracker::new();
        for _ in 0..7 {
            lanes.spawn(&tracker, std::future::pending());
        }
        let mut loads: Vec<_> = lanes.0.iter().map(|lane| Arc::strong_count(&lane.connections) - 1).collect();
        loads.sort_unstable();
        assert_eq!(loads, [2, 2, 3]);
        tracker.close();
        assert_eq!(tracker.len(), 7);
        assert_eq!(lanes.tasks(), 7);
        drop(lanes);
        tokio::time::timeout(Duration::from_secs(10), tracker.wait()).await.unwrap();
    }
}
