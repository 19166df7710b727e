use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ipnet::IpNet;
use russh::server;
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};
use rustix::process::{Resource, getrlimit};
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, PrivateKey};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::acceptor::Acceptor;
use super::admission::Admission;
use super::closing::Closing;
use super::commands::Commands;
use super::connections::{ConnectionCounts, Connections, Entry, Judged};
use super::gauge;
use super::key_file::KeyFileError;
use super::lanes::Lanes;
use super::penalties::Penalties;
use super::pulse::Pulse;
use super::rules::Rules;
use super::tally::{Tally, TallyPermit};
use super::turned_away::TurnedAway;
use super::{Config, Limits, Sessions, prelude};
use crate::access::{FleetAliases, OperatorName};
use crate::audit::Audit;

/// For a rejected authentication, so that what it took to reject it does not show.
const REJECTION_TIME: Duration = Duration::from_millis(20);
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
    pipe: usize,
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

    /// Bytes that may wait for one session.
    pub(super) fn pipe(&self) -> usize {
        self.pipe
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
    /// For clients known to have AES-GCM, and for all others: the client's order decides among what is offered, and OpenSSH before 10
    /// prefers ciphers of twice the cost.
    gcm_alone: Arc<server::Config>,
    modern: Arc<server::Config>,
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
        const GCM: &[cipher::Name] = &[cipher::AES_128_GCM, cipher::AES_256_GCM];
        const MODERN: &[cipher::Name] = &[
            cipher::AES_128_GCM,
            cipher::AES_256_GCM,
            cipher::CHACHA20_POLY1305,
            cipher::AES_128_CTR,
            cipher::AES_192_CTR,
            cipher::AES_256_CTR,
        ];
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
                pipe: limits.pipe,
                attempts: limits.attempts,
                all_sessions: Tally::new(),
                by_operator: Tally::new(),
            }),
            lanes: Arc::new(Lanes::start(&pulse)?),
            admission: Arc::new(Admission::new(limits)),
            penalties: Arc::new(Penalties::new(config.penalties)),
            turned_away: Arc::default(),
            balancers: config.proxy_protocol_from.into(),
            gcm_alone: Arc::new(library_config(host_key.clone(), limits, GCM)),
            modern: Arc::new(library_config(host_key, limits, MODERN)),
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
            gcm_alone: self.gcm_alone.clone(),
            modern: self.modern.clone(),
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

/// Every field is set on purpose: the library's defaults are not ours.
fn library_config(host_key: PrivateKey, limits: Limits, ciphers: &'static [cipher::Name]) -> server::Config {
    const KEX: &[kex::Name] = &[
        kex::MLKEM768X25519_SHA256,
        kex::CURVE25519,
        kex::CURVE25519_PRE_RFC_8731,
        kex::ECDH_SHA2_NISTP256,
        kex::ECDH_SHA2_NISTP384,
        kex::ECDH_SHA2_NISTP521,
        kex::DH_G16_SHA512,
        kex::DH_G14_SHA256,
        kex::EXTENSION_SUPPORT_AS_SERVER,
        kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
    ];
    const MACS: &[mac::Name] = &[mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512];
    // Also what server-sig-algs announces (RFC 8308): RSA with SHA-2 alone.
    let keys = vec![
        Algorithm::Ed25519,
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP256 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP384 },
        Algorithm::Ecdsa { curve: EcdsaCurve::NistP521 },
        Algorithm::Rsa { hash: Some(HashAlg::Sha512) },
        Algorithm::Rsa { hash: Some(HashAlg::Sha256) },
    ];
    server::Config {
        server_id: SshId::Standard(Cow::Borrowed(prelude::VERSION)),
        methods: MethodSet::from(&[MethodKind::PublicKey][..]),
        auth_rejection_time: REJECTION_TIME,
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key],
        certificates: Vec::new(),
        limits: russh::Limits::new(1 << 30, 1 << 30, Duration::from_secs(3600)),
        window_size: gauge::window(limits.pipe),
        maximum_packet_size: 32 * 1024,
        channel_buffer_size: gauge::queue_len(limits.pipe),
        event_buffer_size: 16,
        preferred: Preferred {
            kex: Cow::Borrowed(KEX),
            key: Cow::Owned(keys),
            host_key_certificates: Cow::Borrowed(&[]),
            cipher: Cow::Borrowed(ciphers),
            mac: Cow::Borrowed(MACS),
            compression: Cow::Borrowed(&[compression::NONE]),
        },
        // The library counts the client's opening `none` too; whoever begins without one is held to the number by the handler, except for
        // what the library refuses without asking it: a method or a key type that it does not know, a certificate out of its time.
        max_auth_attempts: limits.attempts.saturating_add(1),
        inactivity_timeout: None,
        keepalive_interval: None,
        keepalive_max: 0,
        nodelay: true,
    }
}
