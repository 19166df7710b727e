use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::access::Operator;
use crate::audit::{Audit, AuditError, Event, Subject, Text};

/// How long the one event of a refused connection may wait for room in the audit's queue. The connection's permit waits with it.
const AUDIT_WAIT: Duration = Duration::from_secs(5);
/// Characters of a claimed name that the log shows.
const SHOWN: usize = 80;
/// What a key that nobody knows is refused with: it says the least, so any other reason stands before it.
const LEAST: &str = "no such key";

/// What a connection has said and proven until it ends; its handler writes it, its task reports it.
#[derive(Debug, Clone)]
pub(super) struct Login {
    source: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    claimed: Option<String>,
    key: Option<Arc<str>>,
    reason: Option<String>,
    proven: bool,
}

impl Login {
    pub(super) fn new(source: SocketAddr) -> Self {
        Self { source, state: Arc::default() }
    }

    fn with<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Pins the user name at its first mention. False when it is another than before.
    pub(super) fn claim(&self, user: &str) -> bool {
        self.with(|state| match &state.claimed {
            Some(claimed) if claimed == user => true,
            Some(_) => {
                state.reason = Some("the user name changed during authentication".to_owned());
                false
            }
            None => {
                state.claimed = Some(user.to_owned());
                true
            }
        })
    }

    /// Remembers why a key or certificate was refused.
    pub(super) fn refuse(&self, key: String, reason: String) {
        self.with(|state| {
            if state.reason.is_none() || reason != LEAST {
                state.key = Some(key.into());
                state.reason = Some(reason);
            }
        });
    }

    /// Writes that the operator is in. When that cannot be written, nobody is in.
    pub(super) fn prove(&self, audit: &Audit, operator: &Operator, client_version: &str) -> Result<(), AuditError> {
        audit.try_record(&Subject::operator(operator), Event::OperatorAuthenticated { client: Text::from(client_version) })?;
        self.with(|state| state.proven = true);
        Ok(())
    }

    /// Once the connection has ended: one event if somebody tried to be an operator and was not. A peer that never said a name is no event,
    /// or every port scan would be.
    pub(super) async fn report(&self, audit: &Audit, how_it_ended: &str) {
        let (claimed, key, reason) = self.with(|state| {
            let claimed = state.claimed.take().filter(|_| !state.proven);
            (claimed, state.key.take(), state.reason.take())
        });
        let Some(claimed) = claimed else { return };
        let reason = reason.unwrap_or_else(|| how_it_ended.to_owned());
        let shown: String = claimed.chars().take(SHOWN).collect();
        tracing::info!(source = %self.source, claimed = shown, reason, "an operator was refused");
        let subject = Subject { key, ..Subject::source(self.source) };
        let event = Event::OperatorRefused { claimed: Text::from(claimed.as_str()), reason: Text::from(reason.as_str()) };
        match tokio::time::timeout(AUDIT_WAIT, audit.record(&subject, event)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "failed to record a refused operator"),
            Err(_) => tracing::error!("failed to record a refused operator: the audit queue is full"),
        }
    }
}
