use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ssh_key::Certificate;
use ssh_key::public::KeyData;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::operators::Operators;
use super::tally::Tally;
use crate::access::{Operator, OperatorName};

/// The connections that are open now.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: BTreeMap<u64, Arc<Outer>>,
}

/// One of them.
#[derive(Debug)]
pub(super) struct Outer {
    /// As far as it is known: a balancer's, until its header has been read.
    source: Mutex<SocketAddr>,
    pub(super) sessions: Arc<Tally<()>>,
    /// Commands to the broker itself that run, or whose answer is being taken.
    pub(super) commands: Arc<Tally<()>>,
    /// Ends it.
    pub(super) end: CancellationToken,
    proven: Mutex<Option<Proven>>,
    /// Since when it carries nothing, as far as somebody looked.
    idle_since: Mutex<Option<Instant>>,
}

/// The operator of a connection, as it was judged last.
#[derive(Debug)]
struct Proven {
    proof: Proof,
    operator: Operator,
}

/// By what an operator was proven: asked again when the operators change.
#[derive(Debug, Clone)]
pub(super) enum Proof {
    Key { name: OperatorName, key: Box<KeyData> },
    Certificate { name: OperatorName, certificate: Box<Certificate> },
}

impl Proof {
    /// The operator, if these operators admit the proof.
    pub(super) fn judge(&self, operators: &Operators, source: SocketAddr) -> Result<Operator, String> {
        match self {
            Self::Key { name, key } => operators.prove_key(name, key, source),
            Self::Certificate { name, certificate } => operators.prove_certificate(name, certificate, source),
        }
    }
}

/// What became of a connection's operator.
#[derive(Debug)]
pub struct Judged {
    pub source: SocketAddr,
    /// As the operator stands now, or why the proof counts no more.
    pub operator: Result<Operator, String>,
}

/// How many connections there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// With a proven operator.
    pub proven: usize,
    /// Without one yet.
    pub unproven: usize,
}

impl Outer {
    pub(super) fn prove(&self, proof: Proof, operator: Operator) {
        *self.proven() = Some(Proven { proof, operator });
    }

    /// The proven operator: with what the key restricts by the rules of the last reload, not of the login.
    pub(super) fn operator(&self) -> Option<Operator> {
        self.proven().as_ref().map(|proven| proven.operator.clone())
    }

    pub(super) fn source(&self) -> SocketAddr {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_source(&self, source: SocketAddr) {
        *self.source.lock().unwrap_or_else(PoisonError::into_inner) = source;
    }

    fn proven(&self) -> MutexGuard<'_, Option<Proven>> {
        self.proven.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judges its operator anew; whoever is still let in is from now on the operator that these rules make of them.
    fn judge(&self, operators: &Operators) -> Option<Judged> {
        let (source, proof) = (self.source(), self.proven().as_ref().map(|proven| proven.proof.clone())?);
        // Reads files: not under the lock.
        let operator = proof.judge(operators, source);
        if let (Ok(operator), Some(proven)) = (&operator, &mut *self.proven()) {
            proven.operator = operator.clone();
        }
        Some(Judged { source, operator })
    }

    /// Whether it has carried no session and run no command for so long.
    fn is_idle(&self, grace: Duration, now: Instant) -> bool {
        let mut idle_since = self.idle_since.lock().unwrap_or_else(PoisonError::into_inner);
        if self.sessions.held(&()) > 0 || self.commands.held(&()) > 0 {
            *idle_since = None;
            return false;
        }
        now.duration_since(*idle_since.get_or_insert(now)) >= grace
    }
}

impl Connections {
    /// Counts a connection among those that are open until the answer is dropped.
    pub(super) fn enter(self: &Arc<Self>, source: SocketAddr, end: CancellationToken) -> Entry {
        let outer = Arc::new(Outer {
            source: Mutex::new(source),
            sessions: Tally::new(),
            commands: Tally::new(),
            end,
            proven: Mutex::default(),
            idle_since: Mutex::default(),
        });
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let number = open.next;
        open.next += 1;
        open.connections.insert(number, outer.clone());
        Entry { connections: self.clone(), number, outer }
    }

    fn list(&self) -> Vec<Arc<Outer>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).connections.values().cloned().collect()
    }

    pub(super) fn counts(&self) -> ConnectionCounts {
        let all = self.list();
        let proven = all.iter().filter(|outer| outer.proven().is_some()).count();
        ConnectionCounts { proven, unproven: all.len() - proven }
    }

    pub(super) fn judge(&self, operators: &Operators) -> Vec<Judged> {
        self.list().iter().filter_map(|outer| outer.judge(operators)).collect()
    }

    pub(super) fn end(&self, source: SocketAddr) {
        self.list().iter().filter(|outer| outer.source() == source).for_each(|outer| outer.end.cancel());
    }

    /// Ends the connections that have carried nothing for so long.
    pub(super) fn end_idle(&self, grace: Duration) {
        let now = Instant::now();
        self.list().iter().filter(|outer| outer.is_idle(grace, now)).for_each(|outer| outer.end.cancel());
    }
}

/// A place among the open connections.
pub(super) struct Entry {
    connections: Arc<Connections>,
    number: u64,
    pub(super) outer: Arc<Outer>,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.connections.open.lock().unwrap_or_else(PoisonError::into_inner).connections.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_connection_that_stays_without_sessions_and_commands_is_idle() {
        let connections = Arc::new(Connections::default());
        let source = |port| SocketAddr::from(([192, 0, 2, 1], port));
        let (busy, idle) = (connections.enter(source(1), CancellationToken::new()), connections.enter(source(2), CancellationToken::new()));
        let asks = connections.enter(source(3), CancellationToken::new());
        let session = busy.outer.sessions.take((), 1).unwrap();
        let command = asks.outer.commands.take((), 1).unwrap();
        let grace = Duration::from_secs(10);
        let look = async |seconds| {
            tokio::time::advance(Duration::from_secs(seconds)).await;
            connections.end_idle(grace);
        };
        look(0).await;
        look(9).await;
        assert!(!idle.outer.end.is_cancelled());
        look(1).await;
        assert!(idle.outer.end.is_cancelled() && !busy.outer.end.is_cancelled() && !asks.outer.end.is_cancelled());
        drop((session, command));
        look(60).await;
        assert!(!busy.outer.end.is_cancelled(), "it is idle since it was seen to be");
        look(10).await;
        assert!(asks.outer.end.is_cancelled());
        drop((idle, asks));
        assert_eq!(connections.counts(), ConnectionCounts { proven: 0, unproven: 1 });
    }
}
