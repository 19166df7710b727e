use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Limits;
use super::tally::{Tally, TallyPermit};
use crate::access::{Code, Failure, OperatorName};

/// The sessions that may be open at once: in all, by operator, by connection.
#[derive(Debug)]
pub(super) struct Slots {
    limits: Limits,
    all: Arc<Semaphore>,
    operators: Arc<Tally<OperatorName>>,
    draining: AtomicBool,
}

/// One session's place, given back when the session has ended.
#[derive(Debug)]
pub(super) struct SessionPermit {
    _all: OwnedSemaphorePermit,
    _operator: TallyPermit<OperatorName>,
    _connection: OwnedSemaphorePermit,
}

/// The places of one connection.
#[derive(Debug)]
pub(super) struct ConnectionSlots {
    sessions: Arc<Semaphore>,
    /// Jumps that only tell why there is no session.
    sentences: Arc<Semaphore>,
}

impl Slots {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            all: Arc::new(Semaphore::new(limits.sessions.min(Semaphore::MAX_PERMITS))),
            operators: Tally::new(),
            draining: AtomicBool::new(false),
        }
    }

    pub(super) fn connection(&self) -> ConnectionSlots {
        let permits = self.limits.sessions_per_connection.min(Semaphore::MAX_PERMITS);
        ConnectionSlots { sessions: Arc::new(Semaphore::new(permits)), sentences: Arc::new(Semaphore::new(permits.max(8))) }
    }

    /// From now on every session is refused as `broker-draining`.
    pub(super) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    pub(super) fn take(&self, operator: &OperatorName, connection: &ConnectionSlots) -> Result<SessionPermit, Failure> {
        if self.draining.load(Ordering::Acquire) {
            return Err(Failure::new(Code::BrokerDraining, "the broker is going down for a restart, try again in a moment"));
        }
        let busy = |text: String| Failure::new(Code::BrokerBusy, text);
        let limits = &self.limits;
        let _connection =
            connection.sessions.clone().try_acquire_owned().map_err(|_| {
                busy(format!("this connection has {} sessions open, and may not have more", limits.sessions_per_connection))
            })?;
        let _operator = self
            .operators
            .take(operator.clone(), limits.sessions_per_operator)
            .ok_or_else(|| busy(format!("you have {} sessions open, and may not have more", limits.sessions_per_operator)))?;
        let _all = self.all.clone().try_acquire_owned().map_err(|_| busy("the broker has as many sessions as it can carry".to_owned()))?;
        Ok(SessionPermit { _all, _operator, _connection })
    }
}

impl ConnectionSlots {
    /// A place for a jump that ends with a sentence; none when too many are being told one already.
    pub(super) fn sentence(&self) -> Option<OwnedSemaphorePermit> {
        self.sentences.clone().try_acquire_owned().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_has_its_sentence_and_a_refusal_holds_nothing() {
        let limits = Limits { sessions: 4, sessions_per_operator: 3, sessions_per_connection: 2, ..crate::door::tests::LIMITS };
        let slots = Slots::new(limits);
        let (alice, bob) = (OperatorName::parse("alice").unwrap(), OperatorName::parse("bob").unwrap());
        let (first, second, third) = (slots.connection(), slots.connection(), slots.connection());
        let mut held = vec![slots.take(&alice, &first).unwrap(), slots.take(&alice, &first).unwrap()];
        let text = |refused: Result<SessionPermit, Failure>| refused.unwrap_err().text;
        assert!(text(slots.take(&alice, &first)).contains("this connection"));
        held.push(slots.take(&alice, &second).unwrap());
        assert!(text(slots.take(&alice, &second)).contains("you have 3"));
        held.push(slots.take(&bob, &third).unwrap());
        assert!(text(slots.take(&bob, &third)).contains("the broker has"));
        held.clear();
        held.push(slots.take(&alice, &first).unwrap());
        held.push(slots.take(&bob, &third).unwrap());
        slots.drain();
        assert_eq!(slots.take(&bob, &second).unwrap_err().code, Code::BrokerDraining);
    }
}
