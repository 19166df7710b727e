//! A simulated instance.
//!
//! It uses russh's server, an accepted exception to "russh only in `src/door`": it listens on loopback alone, for the demo and the tests,
//! and a second, independent SSH implementation is what the transport should be tried against.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use russh::keys::{Algorithm, PrivateKey, PublicKey};
use russh::{Limits, MethodKind, MethodSet, Preferred, SshId, cipher, compression, kex, mac, server};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::connection::Connection;
use super::keys::random_hex;
use super::process::sweep;
use super::tasks::{Spawner, Tasks};
use crate::access::{Invalid, Secret};

/// The one thing that proves the login.
pub enum Credential {
    Password(Secret),
    Key(PublicKey),
}

pub struct InstanceConfig {
    /// `ins-…`; its processes find it in `SSH_BROKER_DEMO_INSTANCE`.
    pub name: String,
    /// Must be loopback; port 0 takes any free one.
    pub address: SocketAddr,
    pub login: String,
    pub credential: Credential,
    pub host_key: PrivateKey,
    /// Bytes after which the instance wants new keys, each way; `None` is 1 GiB.
    pub rekey_after: Option<usize>,
}

/// A simulated instance: an SSH server on loopback that runs real commands of this machine as the current user. Dropping it stops it, and
/// kills every process it started.
pub struct Instance {
    machine: Arc<Machine>,
    host_key: PublicKey,
    tasks: Tasks,
}

/// What the connections of an instance share.
pub(super) struct Machine {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    pub(super) login: String,
    /// Random: the value of [`super::process::MARK`] in this instance's processes.
    pub(super) mark: String,
    pub(super) logins: AtomicU64,
    /// Refused attempts, the opening `none` not counted.
    pub(super) failed: AtomicU64,
    credential: RwLock<Arc<Credential>>,
}

impl Machine {
    pub(super) fn credential(&self) -> Arc<Credential> {
        self.credential.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Connections served at once.
const MAX_CONNECTIONS: usize = 256;
/// From the connection to the proven login.
const LOGIN_GRACE: Duration = Duration::from_secs(30);

impl Instance {
    /// # Errors
    /// When the address is not loopback, or cannot be bound.
    pub async fn start(config: InstanceConfig) -> io::Result<Self> {
        if !config.address.ip().is_loopback() {
            let why = Invalid(format!("a simulated instance cannot listen on {}: the address must be loopback", config.address));
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        let listener = TcpListener::bind(config.address).await?;
        let host_key = config.host_key.public_key().clone();
        let machine = Arc::new(Machine {
            name: config.name,
            address: listener.local_addr()?,
            login: config.login,
            mark: random_hex::<16>()?,
            logins: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            credential: RwLock::new(Arc::new(config.credential)),
        });
        let protocol = Arc::new(protocol(config.host_key, config.rekey_after));
        let tasks = Tasks::new();
        if let Some(spawner) = tasks.spawner() {
            spawner.spawn(accept(listener, protocol, machine.clone(), spawner.clone()));
        }
        Ok(Self { machine, host_key, tasks })
    }

    pub fn name(&self) -> &str {
        &self.machine.name
    }

    pub fn address(&self) -> SocketAddr {
        self.machine.address
    }

    pub fn login(&self) -> &str {
        &self.machine.login
    }

    pub fn host_key(&self) -> &PublicKey {
        &self.host_key
    }

    /// Replaces what proves the login; connections that are logged in stay.
    pub fn set_credential(&self, credential: Credential) {
        *self.machine.credential.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(credential);
    }

    /// Logins proven so far.
    pub fn logins(&self) -> u64 {
        self.machine.logins.load(Ordering::Relaxed)
    }

    /// Attempts refused so far; the opening `none` is not one.
    pub fn failed_attempts(&self) -> u64 {
        self.machine.failed.load(Ordering::Relaxed)
    }

    /// Stops, and waits until every connection and process is gone.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // Tasks may not run any more; their processes are found by their mark.
        sweep(&self.machine.mark);
    }
}

/// Modern algorithms; aes128-gcm is not among russh's own defaults. RSA and ECDSA are for client keys, the host key is what it is.
fn protocol(host_key: PrivateKey, rekey_after: Option<usize>) -> server::Config {
    const MOST: usize = 1 << 30;
    let rekey_after = rekey_after.unwrap_or(MOST).clamp(64 * 1024, MOST);
    server::Config {
        server_id: SshId::Standard("SSH-2.0-ssh-broker-demo".into()),
        methods: MethodSet::from(&[MethodKind::PublicKey, MethodKind::Password][..]),
        auth_rejection_time: Duration::from_millis(50),
        auth_rejection_time_initial: Some(Duration::ZERO),
        keys: vec![host_key],
        limits: Limits::new(rekey_after, rekey_after, Duration::from_secs(3600)),
        preferred: Preferred {
            kex: vec![
                kex::MLKEM768X25519_SHA256,
                kex::CURVE25519,
                kex::CURVE25519_PRE_RFC_8731,
                kex::ECDH_SHA2_NISTP256,
                kex::EXTENSION_SUPPORT_AS_SERVER,
                kex::EXTENSION_OPENSSH_STRICT_KEX_AS_SERVER,
            ]
            .into(),
            key: Preferred::DEFAULT.key.iter().filter(|key| !matches!(key, Algorithm::Rsa { hash: None })).cloned().collect(),
            cipher: vec![cipher::AES_128_GCM, cipher::AES_256_GCM, cipher::CHACHA20_POLY1305, cipher::AES_128_CTR, cipher::AES_256_CTR]
                .into(),
            mac: vec![mac::HMAC_SHA256_ETM, mac::HMAC_SHA512_ETM, mac::HMAC_SHA256, mac::HMAC_SHA512].into(),
            compression: vec![compression::NONE].into(),
            ..Preferred::DEFAULT
        },
        max_auth_attempts: 6,
        // An idle shell is a good shell; loopback peers do not vanish unnoticed.
        inactivity_timeout: None,
        nodelay: true,
        ..server::Config::default()
    }
}

async fn accept(listener: TcpListener, protocol: Arc<server::Config>, machine: Arc<Machine>, spawner: Spawner) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "a simulated instance could not accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let served = serve(stream, peer, protocol.clone(), machine.clone(), spawner.clone());
        spawner.spawn_watching(async move {
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection to a simulated instance ended");
            }
            drop(permit);
        });
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    protocol: Arc<server::Config>,
    machine: Arc<Machine>,
    spawner: Spawner,
) -> Result<(), russh::Error> {
    stream.set_nodelay(true)?;
    // russh's loop runs in a task of its own that nothing can cancel, but it ends with its socket.
    let socket = socket2::SockRef::from(&stream).try_clone()?;
    let hang_up = || drop(socket.shutdown(std::net::Shutdown::Both));
    let (authenticated, mut proven) = watch::channel(false);
    let stop = spawner.stop().clone();
    let connection = Connection { machine, spawner, peer, authenticated, channels: HashMap::new() };
    let mut session = tokio::select! {
        session = tokio::time::timeout(LOGIN_GRACE, server::run_stream(protocol, stream, connection)) => {
            session.map_err(|_| russh::Error::ConnectionTimeout)??
        }
        () = stop.cancelled() => return Ok(()),
    };
    tokio::select! {
        ended = &mut session => return ended,
        proof = tokio::time::timeout(LOGIN_GRACE, proven.wait_for(|proven| *proven)) => {
            if proof.is_err() {
                hang_up();
            }
        }
        () = stop.cancelled() => hang_up(),
    }
    tokio::select! {
        ended = &mut session => return ended,
        () = stop.cancelled() => hang_up(),
    }
    session.await
}
