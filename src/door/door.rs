use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ipnet::IpNet;
use russh::server;
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};
use rustix::process::{Resource, getrlimit};
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, PrivateKey};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::acceptor::Acceptor;
use super::admission::Admission;
use super::commands::Commands;
use super::gauge;
use super::key_file::KeyFileError;
use super::lanes::Lanes;
use super::operators::Operators;
use super::penalties::Penalties;
use super::tally::{Tally, TallyPermit};
use super::turned_away::TurnedAway;
use super::{Config, Limits, Sessions, prelude};
use crate::access::{FleetAliases, OperatorName};
use crate::audit::Audit;

/// For a rejected authentication, so that what it took to reject it does not show.
const REJECTION_TIME: Duration = Duration::from_millis(20);
/// For what sessions still have to say when the door stops.
const LAST_WORDS: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum DoorError {
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    #[error("cannot start the threads that run connections: {0}")]
    Threads(#[from] io::Error),
}

/// What all connections share.
pub(super) struct Shared {
    pub(super) operators: Operators,
    pub(super) aliases: FleetAliases,
    pub(super) audit: Audit,
    pub(super) sessions: Arc<dyn Sessions>,
    pub(super) commands: Arc<dyn Commands>,
    pub(super) commands_by_operator: Arc<Tally<OperatorName>>,
    pub(super) tracker: TaskTracker,
    limits: Limits,
    draining: AtomicBool,
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
        self.draining.load(Ordering::Relaxed)
    }

    /// Bytes that may wait for one session.
    pub(super) fn pipe(&self) -> usize {
        self.limits.pipe
    }

    /// Or which limit is reached.
    pub(super) fn session_permits(&self, operator: &OperatorName, connection: &Arc<Tally<()>>) -> Result<SessionPermits, String> {
        let Limits { sessions, sessions_per_operator, sessions_per_connection, .. } = self.limits;
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
    login_grace: Duration,
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
        let limits = fitted(config.limits);
        Ok(Self {
            shared: Arc::new(Shared {
                operators: Operators::new(&config)?,
                aliases,
                audit,
                sessions,
                commands,
                commands_by_operator: Tally::new(),
                tracker: TaskTracker::new(),
                limits,
                draining: AtomicBool::new(false),
                all_sessions: Tally::new(),
                by_operator: Tally::new(),
            }),
            lanes: Arc::new(Lanes::start()?),
            admission: Arc::new(Admission::new(limits)),
            penalties: Arc::new(Penalties::new(config.penalties)),
            turned_away: Arc::default(),
            balancers: config.proxy_protocol_from.into(),
            login_grace: config.login_grace,
            gcm_alone: Arc::new(library_config(host_key.clone(), limits, GCM)),
            modern: Arc::new(library_config(host_key, limits, MODERN)),
        })
    }

    /// Takes connections from all listeners until `stop`; then no more, and the open ones end.
    pub async fn run(&self, listeners: Vec<TcpListener>, stop: CancellationToken) {
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(self.acceptor(stop.clone()).accept_all(listener, self.lanes.clone()));
        }
        stop.cancelled().await;
        self.shared.draining.store(true, Ordering::Relaxed);
        accepting.join_all().await;
        self.shared.tracker.close();
        if tokio::time::timeout(LAST_WORDS, self.shared.tracker.wait()).await.is_err() {
            tracing::warn!(open = self.shared.tracker.len(), "some sessions did not end in time");
        }
    }

    fn acceptor(&self, stop: CancellationToken) -> Acceptor {
        Acceptor {
            shared: self.shared.clone(),
            admission: self.admission.clone(),
            penalties: self.penalties.clone(),
            turned_away: self.turned_away.clone(),
            balancers: self.balancers.clone(),
            login_grace: self.login_grace,
            gcm_alone: self.gcm_alone.clone(),
            modern: self.modern.clone(),
            stop,
        }
    }
}

/// The limits that this process's descriptors allow.
fn fitted(limits: Limits) -> Limits {
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
        // The client's opening `none` counts as one.
        max_auth_attempts: limits.attempts.saturating_add(1),
        inactivity_timeout: None,
        keepalive_interval: None,
        keepalive_max: 0,
        nodelay: true,
    }
}
