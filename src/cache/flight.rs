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
/// How long one follows a call whose request gets no answer.
const PATIENCE: Duration = Duration::from_secs(1);

type Outcome<T> = Result<T, Failure>;

/// Calls on their way: one per key, however many ask, as long as it gets on. A request may be lost on a connection that hangs, and the API
/// be well again before it times out: a follower has [`PATIENCE`] with one that is not answered, and then starts a flight of its own, which
/// others join; when that lands well, it does for all who wait.
///
/// **Invariants**: a call runs in a task of its own, so no asker's leaving ends it for the others; a call without askers ends as soon as it
/// waits for its quota; a flight leaves the map when its call ends, however that is, and its followers hear of it; an asker has one call of
/// its own under way at most.
pub(super) struct Flights<K, T>(Arc<Mutex<HashMap<K, Flight<T>>>>);

type Outcomes<T> = Vec<Arc<watch::Sender<Option<Outcome<T>>>>>;

struct Flight<T> {
    outcome: Arc<watch::Sender<Option<Outcome<T>>>>,
    /// Of the flights that this one has overtaken.
    overtaken: Outcomes<T>,
    place: Arc<QueuePlace>,
    deadline: Instant,
}

/// One asker's seat in a flight.
struct Seat<T> {
    outcome: watch::Receiver<Option<Outcome<T>>>,
    place: Arc<QueuePlace>,
    /// When the flight ends for lack of its first asker's time.
    until: Instant,
    is_first: bool,
}

impl<T: Clone> Seat<T> {
    /// Until the flight lands, or the deadline; `None` when a follower loses patience.
    async fn landed(&mut self, deadline: Instant) -> Option<Outcome<T>> {
        loop {
            let look = if self.is_first { deadline } else { deadline.min(patient_until(&self.place)) };
            return Some(match timeout_at(look, self.outcome.wait_for(Option::is_some)).await {
                Ok(Ok(outcome)) => outcome.clone().unwrap_or_else(|| Err(too_late(&self.place))),
                // The call panicked, or the runtime is stopping.
                Ok(Err(_)) => {
                    Err(Failure::new(Code::ApiUnavailable, "asking the cloud API broke off").because("the call ended without an outcome"))
                }
                Err(_) if Instant::now() >= deadline => Err(too_late(&self.place)),
                Err(_) if is_stuck(&self.place) => return None,
                Err(_) => continue,
            });
        }
    }
}

/// When to look whether a call is stuck.
fn patient_until(place: &QueuePlace) -> Instant {
    place.unanswered_since().map_or_else(Instant::now, Instant::from_std) + PATIENCE
}

fn is_stuck(place: &QueuePlace) -> bool {
    place.unanswered_since().is_some_and(|since| Instant::from_std(since).elapsed() >= PATIENCE)
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
            let mut seat = self.board(key, asker, &call);
            asker.follow(seat.place.clone());
            let Some(outcome) = seat.landed(deadline).await else { continue };
            let ran_out = matches!(&outcome, Err(failure) if matches!(failure.code, Code::ApiThrottled | Code::ApiUnavailable));
            // The first asker had less time than this one.
            if ran_out && seat.until < deadline && Instant::now() < deadline && boardings < BOARDINGS {
                continue;
            }
            return outcome;
        }
    }

    /// Joins the flight for `key`, or starts one: where there is none, or it is stuck.
    fn board<F, C>(&self, key: &K, asker: &Asker, call: &C) -> Seat<T>
    where
        C: Fn(Asker) -> F,
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        let mut flights = lock(&self.0);
        let mut overtaken = Vec::new();
        if let Some(flight) = flights.get(key) {
            if !is_stuck(&flight.place) {
                let outcome = flight.outcome.subscribe();
                return Seat { outcome, place: flight.place.clone(), until: flight.deadline, is_first: false };
            }
            overtaken = flight.overtaken.iter().chain([&flight.outcome]).filter(|outcome| outcome.receiver_count() > 0).cloned().collect();
        }
        let own = Asker::new(asker.operator.clone(), asker.deadline);
        let place = own.place();
        let until = Instant::from_std(asker.deadline);
        let (sender, outcome) = watch::channel(None);
        let sender = Arc::new(sender);
        let flight = Flight { outcome: sender.clone(), overtaken: overtaken.clone(), place: place.clone(), deadline: until };
        flights.insert(key.clone(), flight);
        let landing = Landing { flights: self.0.clone(), key: key.clone(), outcome: sender, overtaken, place: place.clone() };
        tokio::spawn(landing.run(call(own)));
        Seat { outcome, place, until, is_first: true }
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
    overtaken: Outcomes<T>,
    place: Arc<QueuePlace>,
}

impl<K: Hash + Eq, T: Clone> Landing<K, T> {
    async fn run(self, call: impl Future<Output = Outcome<T>>) {
        tokio::select! {
            biased;
            outcome = call => self.land(outcome),
            () = self.abandoned() => {}
        }
    }

    fn land(&self, outcome: Outcome<T>) {
        // What fails here may succeed there.
        for overtaken in self.overtaken.iter().filter(|_| outcome.is_ok()) {
            tell(overtaken, outcome.clone());
        }
        tell(&self.outcome, outcome);
    }

    /// Ends when nobody waits for the outcome and the call has not got its quota: from then on nobody can board.
    async fn abandoned(&self) {
        loop {
            self.outcome.closed().await;
            {
                let mut flights = lock(&self.flights);
                if self.outcome.receiver_count() == 0 && self.place.ahead().is_some() {
                    self.leave(&mut flights);
                    return;
                }
            }
            sleep(ABANDONED_CHECK).await;
        }
    }
}

impl<K: Hash + Eq, T> Landing<K, T> {
    /// Another may have started under the same key: after an abandoned flight, or overtaking this one.
    fn leave(&self, flights: &mut HashMap<K, Flight<T>>) {
        if flights.get(&self.key).is_some_and(|flight| Arc::ptr_eq(&flight.outcome, &self.outcome)) {
            flights.remove(&self.key);
        }
    }
}

impl<K: Hash + Eq, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        self.leave(&mut lock(&self.flights));
    }
}

/// The first that is told stands.
fn tell<T>(to: &watch::Sender<Option<Outcome<T>>>, outcome: Outcome<T>) {
    to.send_if_modified(|told| {
        let first = told.is_none();
        if first {
            *told = Some(outcome);
        }
        first
    });
}
