use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use russh::server;
use russh::{MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac};
use ssh_key::{Algorithm, EcdsaCurve, HashAlg, PrivateKey};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::admission::{Admission, ConnectionPermit, StartupPermit};
use super::closing::Closing;
use super::connections::{ConnectionCounts, Connections, Judged};
use super::guarded::Guarded;
use super::handler::{Attempts, Connection};
use super::key_file::KeyFileError;
use super::prelude::{self, Prelude};
use super::pulse::Pulse;
use super::rules::Rules;
use super::tally::{Tally, TallyPermit};
use super::{Config, Limits, Sessions};
use crate::access::{FleetAliases, OperatorName};
use crate::audit::{Audit, Event, Subject};
use crate::quick_ack::QuickAck;

/// After an accept that failed for want of something that others hold.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// For a rejected authentication, so that what it took to reject it does not show.
const REJECTION_TIME: Duration = Duration::from_millis(20);
/// One message of a channel in the library's queue, at the most.
const CHANNEL_MESSAGE: usize = 32 * 1024;
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
}

/// What all connections share.
pub(super) struct Shared {
    rules: RwLock<Arc<Rules>>,
    pub(super) audit: Audit,
    pub(super) sessions: Arc<dyn Sessions>,
    pub(super) tracker: TaskTracker,
    connections: Arc<Connections>,
    closing: Closing,
    pulse: Pulse,
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

    pub(super) fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
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
    admission: Arc<Admission>,
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
        let limits = config.limits;
        Ok(Self {
            shared: Arc::new(Shared {
                rules: RwLock::new(Arc::new(Rules::read(&config, aliases)?)),
                audit,
                sessions,
                tracker: TaskTracker::new(),
                connections: Arc::default(),
                closing: Closing::default(),
                pulse: Pulse::new(),
                all_sessions: Tally::new(),
                by_operator: Tally::new(),
            }),
            admission: Arc::new(Admission::new(limits)),
            gcm_alone: Arc::new(library_config(host_key.clone(), limits, GCM)),
            modern: Arc::new(library_config(host_key, limits, MODERN)),
        })
    }

    /// Takes connections from all listeners until it is told to stop, and serves those that are open to their end, or until it is told not to.
    pub async fn run(&self, listeners: Vec<TcpListener>) {
        let Shared { closing, tracker, .. } = &*self.shared;
        let mut accepting = JoinSet::new();
        for listener in listeners {
            accepting.spawn(self.acceptor().accept_all(listener));
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
            gcm_alone: self.gcm_alone.clone(),
            modern: self.modern.clone(),
        }
    }
}

#[derive(Clone)]
struct Acceptor {
    shared: Arc<Shared>,
    admission: Arc<Admission>,
    gcm_alone: Arc<server::Config>,
    modern: Arc<server::Config>,
}

impl Acceptor {
    /// A permit before each accept: what there is no room for waits in the kernel's backlog.
    async fn accept_all(self, listener: TcpListener) {
        let stop = self.shared.closing.accepting().clone();
        let mut beat = self.shared.pulse.join();
        let accepting = async {
            while let Some(entry) = self.admission.entry().await {
                let (stream, source) = loop {
                    match listener.accept().await {
                        Ok(accepted) => break accepted,
                        // EMFILE, ENFILE, ENOMEM, ECONNABORTED: none of them is a reason to stop taking connections.
                        Err(error) => {
                            tracing::warn!(%error, "failed to accept a connection");
                            tokio::time::sleep(ACCEPT_BACKOFF).await;
                        }
                    }
                };
                match self.admission.admit(entry, source.ip()) {
                    Some(permits) => drop(self.shared.tracker.spawn(self.clone().serve(stream, source, permits))),
                    None => tracing::info!(%source, "refused: too many unauthenticated connections from there"),
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = stop.cancelled() => {}
            () = beat.answer() => {}
        }
    }

    /// One connection, from its first byte to its end.
    async fn serve(self, stream: TcpStream, source: SocketAddr, (connection, startup): (ConnectionPermit, StartupPermit)) {
        let deadline = Instant::now() + self.shared.rules().login_grace;
        let entry = self.shared.connections.enter(source, self.shared.closing.serving().child_token());
        let proven = Arc::new(AtomicBool::new(false));
        let attempts = Arc::new(Mutex::new(Attempts::default()));
        let served = async {
            let stream = Guarded::new(QuickAck::new(stream)?, deadline, proven.clone(), entry.outer.end.clone());
            let (client_version, stream) = Prelude::exchange(stream).await?;
            let config = if prelude::has_aes_gcm(&client_version) { self.gcm_alone.clone() } else { self.modern.clone() };
            let handler = Connection {
                shared: self.shared.clone(),
                source,
                client_version,
                startup: Some(startup),
                proven: proven.clone(),
                attempts: attempts.clone(),
                name: None,
                operator: None,
                outer: entry.outer.clone(),
            };
            server::run_stream(config, stream, handler).await?.await
        };
        let ended: Result<(), russh::Error> = served.await;
        drop(connection);
        match ended {
            Ok(()) => tracing::debug!(%source, "connection ended"),
            Err(error) => tracing::debug!(%source, %error, "connection ended"),
        }
        if !proven.load(Ordering::Relaxed) {
            self.record_refusal(source, &attempts).await;
        }
    }

    /// Once a connection: who gave no name at all (a scanner, a health check) is not worth a line.
    async fn record_refusal(&self, source: SocketAddr, attempts: &Mutex<Attempts>) {
        let Attempts { claimed, reason } = std::mem::take(&mut *attempts.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(claimed) = claimed else { return };
        let reason = reason.unwrap_or_else(|| "no key was offered".to_owned());
        let event = Event::OperatorRefused { claimed: claimed.as_str().into(), reason: reason.as_str().into() };
        if let Err(error) = self.shared.audit.record(&Subject::source(source), event).await {
            tracing::error!(%error, "a refused login could not be written to the audit");
        }
    }
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
        window_size: 2 << 20,
        maximum_packet_size: 32 * 1024,
        channel_buffer_size: (limits.pipe / CHANNEL_MESSAGE).max(1),
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
