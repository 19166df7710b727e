use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ipnet::IpNet;
use rustix::process::{Resource, getrlimit};
use ssh_key::PrivateKey;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::acceptor::Acceptor;
use super::admission::Admission;
use super::closing::Closing;
use super::commands::Commands;
use super::connections::{ConnectionCounts, Connections, Entry, Judged};
use super::key_file::KeyFileError;
use super::lanes::Lanes;
use super::penalties::Penalties;
use super::pulse::Pulse;
use super::rules::Rules;
use super::tally::{Tally, TallyPermit};
use super::turned_away::TurnedAway;
use super::{Config, Limits, Sessions};
use crate::access::{FleetAliases, OperatorName};
use crate::audit::Audit;
use crate::transport::HostIdentity;

/// For what sessions still have to say when the door stops.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often a closing door looks for connections that carry no session.
const LOOK: Duration = Duration::from_millis(250);
/// How long such a connection may stay when it could still open one, and when it cannot.
const IDLE_GRACE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(1));

#[derive(Debug, Error)]
pub enum DoorError {
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    #[error("cannot start the threads that run connections: {0}")]
    Threads(#[from] io::Error),
}

/// What all connections share.
pub(super) struct Shared {
    rules: RwLock<Arc<Rules>>,
    pub(super) audit: Audit,
    pub(super) sessions: Arc<dyn Sessions>,
    pub(super) commands: Arc<dyn Commands>,
    pub(super) commands_by_operator: Arc<Tally<OperatorName>>,
    pub(super) tracker: TaskTracker,
    connections: Arc<Connections>,
    closing: Closing,
    pulse: Arc<Pulse>,
    window: u32,
    attempts: usize,
    all_sessions: Arc<Tally<()>>,
    by_operator: Arc<Tally<OperatorName>>,
}

/// A session's slots under every limit that counts sessions.
pub(super) struct SessionPermits {
    _connection: TallyPermit<()>,
    _operator: TallyPermit<OperatorName>,
    _all: TallyPermit<()>,
}

impl Shared {
    pub(super) fn is_draining(&self) -> bool {
        !self.closing.is_opening()
    }

    pub(super) fn closing(&self) -> &Closing {
        &self.closing
    }

    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    /// Counts a connection among those that are open.
    pub(super) fn enter(&self, source: SocketAddr) -> Entry {
        self.connections.enter(source, self.closing.serving().child_token())
    }

    pub(super) fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes that a client may send on a channel before its session takes any: what may wait for one.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// Requests of a connection to be let in that may fail.
    pub(super) fn attempts(&self) -> usize {
        self.attempts
    }

    /// Or which limit is reached.
    pub(super) fn session_permits(&self, operator: &OperatorName, connection: &Arc<Tally<()>>) -> Result<SessionPermits, String> {
        let Limits { sessions, sessions_per_operator, sessions_per_connection, .. } = self.rules().limits;
        let full = |limit: usize, of: &str| format!("{of} has {limit} sessions open already, as many as it may");
        Ok(SessionPermits {
            _connection: connection.take((), sessions_per_connection).ok_or_else(|| full(sessions_per_connection, "this connection"))?,
            _operator: self
                .by_operator
                .take(operator.clone(), sessions_per_operator)
                .ok_or_else(|| full(sessions_per_operator, "this operator"))?,
            _all: self.all_sessions.take((), sessions).ok_or_else(|| full(sessions, "the broker"))?,
        })
    }
}

/// Takes connections, proves operators, hands over jumps.
pub struct Door {
    shared: Arc<Shared>,
    lanes: Arc<Lanes>,
    admission: Arc<Admission>,
    penalties: Arc<Penalties>,
    turned_away: Arc<TurnedAway>,
    balancers: Arc<[IpNet]>,
    identity: HostIdentity,
}

impl Door {
    pub fn new(
        config: Config,
        aliases: FleetAliases,
        host_key: PrivateKey,
        audit: Audit,
        sessions: Arc<dyn Sessions>,
        commands: Arc<dyn Commands>,
    ) -> Result<Self, DoorError> {
        let rules = Rules::read(&config, aliases)?;
        let limits = rules.limits;
        let pulse = Arc::new(Pulse::new());
        Ok(Self {
            shared: Arc::new(Shared {
                rules: RwLock::new(Arc::new(rules)),
                audit,
                sessions,
                commands,
                commands_by_operator: Tally::new(),
                tracker: TaskTracker::new(),
                connections: Arc::default(),
                closing: Closing::default(),
                pulse: pulse.clone(),
                window: u32::try_from(limits.pipe).unwrap_or(u32::MAX),
                attempts: limits.attempts,
                all_sessions: Tally::new(),
                by_operator: Tally::new(),
            }),
            lanes: Arc::new(Lanes::start(&pulse)?),
            admission: Arc::new(Admission::new(limits)),
            penalties: Arc::new(Penalties::new(config.penalties)),
            turned_away: Arc::default(),
            balancers: config.proxy_protocol_from.into(),
            identity: HostIdentity::new(Arc::new(host_key), None),
        })
    }

    /// Takes connections from all listeners until it is told to stop, and serves those that are open to their end, or until it is told not to.
    pub async fn run(&self, listeners: Vec<TcpListener>) {
        let Shared { closing, tracker, .. } = &*self.shared;
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(self.acceptor().accept_all(listener, self.lanes.clone()));
        }
        closing.accepting().cancelled().await;
        accepting.join_all().await;
        tracker.close();
        tokio::select! {
            () = tracker.wait() => return,
            () = self.end_idle_connections() => {}
            () = closing.serving().cancelled() => {}
        }
        if tokio::time::timeout(LAST_WORDS, tracker.wait()).await.is_err() {
            tracing::warn!(open = tracker.len(), "some sessions did not end in time");
        }
    }

    /// How far it is closed, and the way to close it further.
    pub fn closing(&self) -> &Closing {
        &self.shared.closing
    }

    pub fn pulse(&self) -> &Pulse {
        &self.shared.pulse
    }

    pub fn connections(&self) -> ConnectionCounts {
        self.shared.connections.counts()
    }

    /// Tasks of connections and their sessions that have not ended.
    pub fn tasks(&self) -> usize {
        self.lanes.tasks()
    }

    /// From now on these rules count. Connections that are open are not looked at: [`Door::judge`].
    pub fn apply(&self, rules: Rules) {
        *self.shared.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// Judges the operators of the open connections by the rules of now.
    pub fn judge(&self) -> Vec<Judged> {
        self.shared.connections.judge(&self.shared.rules().operators)
    }

    /// Ends the connections from there, with whatever they carry.
    pub fn end(&self, source: SocketAddr) {
        self.shared.connections.end(source);
    }

    /// Without an end: whoever waits for it waits for something else too.
    async fn end_idle_connections(&self) {
        loop {
            tokio::time::sleep(LOOK).await;
            let grace = if self.shared.is_draining() { IDLE_GRACE.1 } else { IDLE_GRACE.0 };
            self.shared.connections.end_idle(grace);
        }
    }

    fn acceptor(&self) -> Acceptor {
        Acceptor {
            shared: self.shared.clone(),
            admission: self.admission.clone(),
            penalties: self.penalties.clone(),
            turned_away: self.turned_away.clone(),
            balancers: self.balancers.clone(),
            identity: self.identity.clone(),
        }
    }
}

/// The limits that this process's descriptors allow.
pub(super) fn fitted(limits: Limits) -> Limits {
    let Some(descriptors) = getrlimit(Resource::Nofile).current else { return limits };
    let fitted = limits.fitted_to(descriptors);
    if fitted != limits {
        let Limits { connections, sessions, startups, .. } = fitted;
        tracing::warn!(descriptors, connections, sessions, startups, "the limit of open files is too low for [limits]; these hold instead");
    }
    fitted
}
