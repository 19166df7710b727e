use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout_at};

use crate::access::{Code, Failure};
use crate::broker::{Asker, QueuePlace};

/// How often a flight whose askers have all gone looks whether it is back in the queue.
const ABANDONED_CHECK: Duration = Duration::from_millis(100);
/// How often an asker boards again after a flight that ended for lack of its first asker's time.
const BOARDINGS: usize = 4;

type Outcome<T> = Result<T, Failure>;

/// Calls on their way: one per key, however many ask.
///
/// **Invariants**: a call runs in a task of its own, so no asker's leaving ends it for the others; a call without askers ends as soon as it
/// waits for its quota; a flight leaves the map when its call ends, however that is, and its followers hear of it.
pub(super) struct Flights<K, T>(Arc<Mutex<HashMap<K, Flight<T>>>>);

struct Flight<T> {
    outcome: Arc<watch::Sender<Option<Outcome<T>>>>,
    place: Arc<QueuePlace>,
    deadline: Instant,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

fn lock<K, T>(flights: &Mutex<HashMap<K, Flight<T>>>) -> MutexGuard<'_, HashMap<K, Flight<T>>> {
    flights.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<K, T> Flights<K, T>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    T: Clone + Send + Sync + 'static,
{
    /// The outcome of the call for `key`: of the one that is on its way, else of `call`, until the asker's deadline.
    pub(super) async fn join<F, C>(&self, key: &K, asker: &Asker, call: C) -> Outcome<T>
    where
        C: Fn(Asker) -> F,
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        let deadline = Instant::from_std(asker.deadline);
        let mut boardings = 0;
        loop {
            boardings += 1;
            let (mut outcome, place, until) = self.board(key, asker, &call);
            asker.follow(place.clone());
            let landed = timeout_at(deadline, outcome.wait_for(Option::is_some)).await;
            let outcome = match landed {
                Ok(Ok(outcome)) => outcome.clone(),
                // The call panicked, or the runtime is stopping.
                Ok(Err(_)) => Some(Err(
                    Failure::new(Code::ApiUnavailable, "asking the cloud API broke off").because("the call ended without an outcome")
                )),
                Err(_) => Some(Err(too_late(&place))),
            };
            let outcome = outcome.unwrap_or_else(|| Err(too_late(&place)));
            let ran_out = matches!(&outcome, Err(failure) if matches!(failure.code, Code::ApiThrottled | Code::ApiUnavailable));
            // The first asker had less time than this one.
            if ran_out && until < deadline && Instant::now() < deadline && boardings < BOARDINGS {
                continue;
            }
            return outcome;
        }
    }

    /// Joins the flight for `key`, or starts one.
    fn board<F, C>(&self, key: &K, asker: &Asker, call: &C) -> (watch::Receiver<Option<Outcome<T>>>, Arc<QueuePlace>, Instant)
    where
        C: Fn(Asker) -> F,
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        let mut flights = lock(&self.0);
        if let Some(flight) = flights.get(key) {
            return (flight.outcome.subscribe(), flight.place.clone(), flight.deadline);
        }
        let own = Asker::new(asker.operator.clone(), asker.deadline);
        let place = own.place();
        let deadline = Instant::from_std(asker.deadline);
        let (sender, receiver) = watch::channel(None);
        let sender = Arc::new(sender);
        flights.insert(key.clone(), Flight { outcome: sender.clone(), place: place.clone(), deadline });
        let landing = Landing { flights: self.0.clone(), key: key.clone(), outcome: sender, place: place.clone() };
        tokio::spawn(landing.run(call(own)));
        (receiver, place, deadline)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        lock(&self.0).len()
    }
}

fn too_late(place: &QueuePlace) -> Failure {
    match place.ahead() {
        Some(_) => Failure::new(Code::ApiThrottled, "the cloud API's request limit is used up; try again shortly"),
        None => Failure::new(Code::ApiUnavailable, "the cloud API is not available; try again shortly"),
    }
}

/// The task's side of a flight. Dropped for whatever reason, it takes the flight from the map; and with the last sender gone, followers hear of it.
struct Landing<K: Hash + Eq, T> {
    flights: Arc<Mutex<HashMap<K, Flight<T>>>>,
    key: K,
    outcome: Arc<watch::Sender<Option<Outcome<T>>>>,
    place: Arc<QueuePlace>,
}

impl<K: Hash + Eq, T> Landing<K, T> {
    async fn run(self, call: impl Future<Output = Outcome<T>>) {
        tokio::select! {
            biased;
            outcome = call => {
                self.outcome.send_replace(Some(outcome));
            }
            () = self.abandoned() => {}
        }
    }

    /// Ends when nobody waits for the outcome and the call has not got its quota: from then on nobody can board.
    async fn abandoned(&self) {
        loop {
            self.outcome.closed().await;
            {
                let mut flights = lock(&self.flights);
                if self.outcome.receiver_count() == 0 && self.place.ahead().is_some() {
                    flights.remove(&self.key);
                    return;
                }
            }
            sleep(ABANDONED_CHECK).await;
        }
    }
}

impl<K: Hash + Eq, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        let mut flights = lock(&self.flights);
        // After an abandoned flight another may have started under the same key.
        if flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(&flight.outcome, &self.outcome)) {
            flights.remove(&self.key);
        }
    }
}
