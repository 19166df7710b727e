use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);
/// Added to every hold: timers and the endpoint's clock have millisecond grain.
const GRAIN: Duration = Duration::from_millis(2);
/// How long after we gave up on a request it may still arrive.
const STRAGGLING: Duration = Duration::from_secs(1);

/// The slots of one action: how many requests may still count against the endpoint's sliding second.
///
/// **Invariant**: a slot is taken from before its request is sent until a second after the request's arrival is certain, and there are
/// never more taken slots than the limit. So whatever the network does in between, no sliding second sees more arrivals than the limit.
///
/// When a request arrived is certain only once its answer is here. So a slot serves one request in a second and an answer time: at answer
/// times up to 100 ms at least 90 % of the rate can be used, beyond that less. (Crediting the way back to the next request used more of it
/// and was wrong by a few requests a burst where the way there had been slow once.)
#[derive(Debug)]
pub(super) struct Window {
    rate: usize,
    in_flight: usize,
    /// When the slots of answered requests become free.
    holds: BinaryHeap<Reverse<Instant>>,
    /// The limit after the last cut, and when that was (additive increase, multiplicative decrease).
    cut: Option<(usize, Instant)>,
}

impl Window {
    pub(super) fn new(rate: usize) -> Self {
        Self { rate: rate.max(1), in_flight: 0, holds: BinaryHeap::new(), cut: None }
    }

    /// How many slots there are now.
    pub(super) fn limit(&self, now: Instant) -> usize {
        match self.cut {
            None => self.rate,
            Some((limit, at)) => {
                let seconds = usize::try_from(now.saturating_duration_since(at).as_secs()).unwrap_or(usize::MAX);
                limit.saturating_add(seconds.saturating_mul(self.step())).min(self.rate)
            }
        }
    }

    /// Slots that come back each second after a cut.
    fn step(&self) -> usize {
        (self.rate / 20).max(1)
    }

    /// How many slots nobody has taken.
    pub(super) fn free(&self, now: Instant) -> usize {
        let held = self.holds.iter().filter(|Reverse(end)| *end > now).count();
        self.limit(now).saturating_sub(self.in_flight + held)
    }

    /// Takes a slot; when none is free, says when one will be, or `None` when that depends on an answer.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Option<Instant>> {
        while self.holds.peek().is_some_and(|Reverse(end)| *end <= now) {
            self.holds.pop();
        }
        let limit = self.limit(now);
        if limit == self.rate {
            self.cut = None;
        }
        if self.in_flight + self.holds.len() < limit {
            self.in_flight += 1;
            return Ok(());
        }
        let freed = self.holds.peek().map(|Reverse(end)| *end);
        let recovered = self.cut.map(|(_, at)| at + Duration::from_secs(now.saturating_duration_since(at).as_secs() + 1));
        Err(freed.into_iter().chain(recovered).min())
    }

    /// The answer to a request began to arrive.
    pub(super) fn answered(&mut self, now: Instant) {
        self.free_at(now + SECOND + GRAIN);
    }

    /// A request was given up without an answer: it may have arrived, or arrive yet.
    pub(super) fn abandoned(&mut self, now: Instant) {
        self.free_at(now + SECOND + GRAIN + STRAGGLING);
    }

    /// Nothing was sent.
    pub(super) fn unused(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    fn free_at(&mut self, end: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.holds.push(Reverse(end));
    }

    /// The endpoint says that it saw too many: others use the same account. Cuts the limit by half, once a second at most, as one overrun
    /// refuses several requests.
    pub(super) fn exceeded(&mut self, now: Instant) {
        if self.cut.is_none_or(|(_, at)| now.saturating_duration_since(at) >= SECOND) {
            self.cut = Some(((self.limit(now) / 2).max(1), now));
        }
    }
}
