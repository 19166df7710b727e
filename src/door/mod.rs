//! Edge: russh, the only thing that an unauthenticated peer reaches: admission, one deadline, authentication, and byte streams to named
//! targets for whoever was proven.
//!
//! 1. `listener`: a permit (`admission`), then `accept`; the socket answers at once (`quick_ack`).
//! 2. `prelude`: both identifications; by the client's the ciphers are chosen (`algorithms`).
//! 3. russh runs on a `wire` that fails when `login_grace` is over, and calls `connection`.
//! 4. `trust`: the proven key or `certificate` against `authorized_keys`, authorities and revoked keys; `login` tells the audit.
//! 5. `jump`: each direct-tcpip channel takes a place (`slots`) and becomes a [`Jump`] on a `pipe`, whose `gauge` bounds it.
//!
//! **Invariant**: nothing behind the door knows russh, and no operator exists before a signature was verified.
//!
//! Security keys (`sk-…`) are refused: russh does not show whether their owner touched them. SHA-1 signatures are refused.

mod admission;
mod algorithms;
mod authorized_keys;
mod certificate;
mod check;
mod connection;
mod expiry;
mod gauge;
mod jump;
mod key_file;
mod key_options;
mod key_rules;
mod listener;
mod login;
mod pipe;
mod prelude;
mod quick_ack;
mod serve;
mod slots;
mod source_list;
mod tally;
mod trust;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use ssh_key::PrivateKey;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::access::{Failure, FleetAliases, Operator, TargetName};
use crate::audit::Audit;
use crate::broker::BoxFuture;

use admission::Admission;
use algorithms::Algorithms;
use slots::Slots;
use trust::Trust;

pub use authorized_keys::{AuthorizedKeys, LineProblem};
pub use check::{Problem, check_operator_files};
pub use key_file::KeyFileError;

/// The seam: what the door hands over for every direct-tcpip open to port 22 of an authenticated operator. Nothing behind it knows russh.
pub struct Jump {
    pub operator: Operator,
    /// The operator's client, as it names itself in the outer connection (`SSH-2.0-OpenSSH_9.2p1 …`).
    pub client_version: String,
    /// The host string as it came (attacker-controlled text, at most [`TargetName::MAX_LEN`] bytes of it), for the sentence and the audit.
    pub typed: String,
    /// The target's name, or why there will be no session (`target-name`, `broker-busy`, `broker-draining`): the operator reads that
    /// sentence on this very stream.
    pub name: Result<TargetName, Failure>,
    pub stream: Box<dyn ByteStream>,
}

pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// What runs a session on a jump's stream, until either side ends it.
pub trait Sessions: Send + Sync + 'static {
    fn run(&self, jump: Jump) -> BoxFuture<'static, ()>;
}

/// Settings of `[listen]`, `[operators]` and the part of `[limits]` that the door enforces.
#[derive(Debug, Clone)]
pub struct Config {
    pub addresses: Vec<SocketAddr>,
    /// One wall-clock deadline over identification, key exchange and authentication.
    pub login_grace: Duration,
    pub authorized_keys_dir: PathBuf,
    pub trusted_user_ca: Option<PathBuf>,
    pub revoked_keys: Option<PathBuf>,
    /// The fleets' short names that a target's name may use.
    pub fleet_aliases: FleetAliases,
    pub limits: Limits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all, authenticated or not.
    pub connections: usize,
    /// Connections that have not authenticated yet.
    pub startups: usize,
    /// … of them from one source (/32, /64).
    pub startups_per_source: usize,
    /// … of them from one netblock (/24, /48).
    pub startups_per_netblock: usize,
    /// Authentication attempts a connection, beside the keys that an honest agent offers in vain.
    pub attempts: usize,
    /// Sessions (operator on target) in all.
    pub sessions: usize,
    /// Sessions of one operator.
    pub sessions_per_operator: usize,
    /// Targets open at once on one connection.
    pub sessions_per_connection: usize,
    /// Bytes that wait between the door and one target's session.
    pub pipe: usize,
}

/// Why there is no door.
#[derive(Debug, Error)]
pub enum DoorError {
    #[error(transparent)]
    Keys(#[from] KeyFileError),
    #[error("the host key is {0}: it must be an unencrypted ssh-ed25519 key")]
    HostKey(String),
}

/// The door: what accepts, proves and hands over. Clones share it.
#[derive(Clone)]
pub struct Door(Arc<Shared>);

/// What every connection of a door shares.
struct Shared {
    limits: Limits,
    rules: RwLock<Arc<Rules>>,
    admission: Admission,
    algorithms: Algorithms,
    slots: Slots,
    audit: Audit,
    sessions: Arc<dyn Sessions>,
    /// Ends every connection.
    closing: CancellationToken,
    failed_at_gcm: FailedAtGcm,
}

/// The part of the settings that a reload changes. A connection keeps those that it began with.
struct Rules {
    login_grace: Duration,
    fleet_aliases: FleetAliases,
    trust: Arc<Trust>,
}

impl Rules {
    fn new(config: &Config) -> Result<Arc<Self>, KeyFileError> {
        let trust = Arc::new(Trust::read(config)?);
        Ok(Arc::new(Self { login_grace: config.login_grace, fleet_aliases: config.fleet_aliases.clone(), trust }))
    }
}

impl Door {
    pub fn new(config: &Config, host_key: &PrivateKey, audit: Audit, sessions: Arc<dyn Sessions>) -> Result<Self, DoorError> {
        if host_key.algorithm() != ssh_key::Algorithm::Ed25519 || host_key.is_encrypted() {
            return Err(DoorError::HostKey(host_key.algorithm().to_string()));
        }
        Ok(Self(Arc::new(Shared {
            limits: config.limits,
            rules: RwLock::new(Rules::new(config)?),
            admission: Admission::new(config.limits),
            algorithms: Algorithms::new(host_key, &config.limits),
            slots: Slots::new(config.limits),
            audit,
            sessions,
            closing: CancellationToken::new(),
            failed_at_gcm: FailedAtGcm::default(),
        })))
    }

    /// Accepts until `shutdown`, then drains: the listeners are closed, new sessions are refused as `broker-draining`, and what is open
    /// goes on. See [`Door::ended`].
    pub async fn run(&self, listeners: Vec<TcpListener>, shutdown: CancellationToken) {
        let shared = &self.0;
        listener::run(listeners, &shared.admission, &shutdown, |admitted| {
            tokio::spawn(serve::serve(shared.clone(), admitted));
        })
        .await;
        shared.slots.drain();
    }

    /// Takes over what a reload may change: the files of keys, `login_grace`, the fleets' aliases. The limits stay as they were. On an
    /// error everything does.
    pub fn reload(&self, config: &Config) -> Result<(), KeyFileError> {
        let rules = Rules::new(config)?;
        *self.0.rules.write().unwrap_or_else(PoisonError::into_inner) = rules;
        Ok(())
    }

    /// Resolves when no connection is left.
    pub async fn ended(&self) {
        self.0.admission.empty().await;
    }

    /// Tells every client that the broker goes down, and closes. The caller may wait for [`Door::ended`].
    pub fn disconnect(&self) {
        self.0.closing.cancel();
    }
}

impl Shared {
    fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Sources whose client should have AES-GCM by its version, and had it switched off: they are offered more the next time. Bounded, the
/// oldest goes first.
#[derive(Debug, Default)]
struct FailedAtGcm(Mutex<VecDeque<IpAddr>>);

impl FailedAtGcm {
    const MAX: usize = 256;

    fn contains(&self, source: IpAddr) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(&source)
    }

    fn insert(&self, source: IpAddr) {
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !sources.contains(&source) {
            sources.truncate(Self::MAX - 1);
            sources.push_front(source);
        }
    }
}
