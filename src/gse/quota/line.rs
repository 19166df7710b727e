use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::Notify;

use crate::access::OperatorName;
use crate::broker::QueuePlace;

/// One call that waits for a slot.
#[derive(Debug)]
pub(super) struct Waiter {
    number: u64,
    place: Arc<QueuePlace>,
    called: Arc<Notify>,
}

/// Who waits, in which order: first come first served for one operator, round robin between operators.
///
/// **Invariants**: `waiting` is the sum of all queues and at most the bound; no queue is empty; whoever is first has been called since the
/// last change that made it first; every place says how many go first.
#[derive(Debug)]
pub(super) struct Line {
    ring: VecDeque<(OperatorName, VecDeque<Waiter>)>,
    waiting: usize,
    bound: usize,
    next_number: u64,
}

/// A waiter's claim on its place.
pub(super) struct Ticket {
    pub(super) number: u64,
    pub(super) called: Arc<Notify>,
}

impl Line {
    pub(super) fn new(bound: usize) -> Self {
        Self { ring: VecDeque::new(), waiting: 0, bound, next_number: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting
    }

    /// Queues up, `None` when the line is full. An operator who holds less of a full line than another gets the other's last place, so that
    /// one who asks for much cannot lock the rest out.
    pub(super) fn join(&mut self, operator: &OperatorName, place: Arc<QueuePlace>) -> Option<Ticket> {
        if self.waiting >= self.bound && !self.yield_place(operator) {
            return None;
        }
        let ticket = Ticket { number: self.next_number, called: Arc::new(Notify::new()) };
        self.next_number += 1;
        let waiter = Waiter { number: ticket.number, place, called: ticket.called.clone() };
        match self.ring.iter_mut().find(|(name, _)| name == operator) {
            Some((_, queue)) => queue.push_back(waiter),
            None => self.ring.push_back((operator.clone(), VecDeque::from([waiter]))),
        }
        self.waiting += 1;
        self.renumber();
        Some(ticket)
    }

    fn yield_place(&mut self, operator: &OperatorName) -> bool {
        let own = self.ring.iter().find(|(name, _)| name == operator).map_or(0, |(_, queue)| queue.len());
        let Some((_, longest)) = self.ring.iter_mut().max_by_key(|(_, queue)| queue.len()) else { return false };
        if longest.len() < own + 2 {
            return false;
        }
        let Some(last) = longest.pop_back() else { return false };
        last.place.set(None);
        last.called.notify_one();
        self.waiting -= 1;
        true
    }

    pub(super) fn is_first(&self, number: u64) -> bool {
        self.ring.front().and_then(|(_, queue)| queue.front()).is_some_and(|waiter| waiter.number == number)
    }

    pub(super) fn holds(&self, operator: &OperatorName, number: u64) -> bool {
        self.ring.iter().any(|(name, queue)| name == operator && queue.iter().any(|waiter| waiter.number == number))
    }

    /// The first leaves with its slot; its operator goes to the end of the ring.
    pub(super) fn advance(&mut self) {
        let Some((operator, mut queue)) = self.ring.pop_front() else { return };
        if let Some(first) = queue.pop_front() {
            first.place.set(None);
            self.waiting -= 1;
        }
        if !queue.is_empty() {
            self.ring.push_back((operator, queue));
        }
        self.renumber();
        self.call_first();
    }

    /// A waiter leaves without a slot.
    pub(super) fn leave(&mut self, operator: &OperatorName, number: u64) {
        let Some(seat) = self.ring.iter().position(|(name, _)| name == operator) else { return };
        let Some((_, queue)) = self.ring.get_mut(seat) else { return };
        let Some(index) = queue.iter().position(|waiter| waiter.number == number) else { return };
        if let Some(waiter) = queue.remove(index) {
            waiter.place.set(None);
            self.waiting -= 1;
        }
        if queue.is_empty() {
            self.ring.remove(seat);
        }
        self.renumber();
        self.call_first();
    }

    /// Wakes the first to look at the slots again.
    pub(super) fn call_first(&self) {
        if let Some(first) = self.ring.front().and_then(|(_, queue)| queue.front()) {
            first.called.notify_one();
        }
    }

    /// Walks the line in the order in which it will be served.
    fn renumber(&self) {
        let mut queues: Vec<_> = self.ring.iter().map(|(_, queue)| queue.iter()).collect();
        let mut ahead = 0;
        while !queues.is_empty() {
            queues.retain_mut(|queue| match queue.next() {
                Some(waiter) => {
                    waiter.place.set(Some(ahead));
                    ahead += 1;
                    true
                }
                None => false,
            });
        }
    }
}
