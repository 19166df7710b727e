//! Edge: the way to an instance: dial, verify the host key against its pin, authenticate.

mod age;
mod credential;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod networks;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ssh_key::HashAlg;
use tokio::net::TcpStream;

use crate::access::{Code, Failure, FleetId, Grant, GrantedPort, InstanceId, Lease, Target};
use crate::broker::{Connected, Phases, Step, Unreached, Upstream, Witness};
use crate::pins::{Pins, PinsError, Verdict};
use crate::quick_ack::QuickAck;
use crate::transport::{
    AuthError, ClientAuth, Connection, Credential, HostKey, Leg, Preferences, SignatureAlgorithm, TransportError, is_legacy,
};

/// An instance that has not offered its algorithms by then, after its version line, waits for ours.
const KEXINIT_PATIENCE: Duration = Duration::from_secs(1);
/// Reads that an instance's handshake takes: 9 with OpenSSH, until the operator's shell speaks.
const HANDSHAKE: u8 = 16;
/// How the broker names itself to instances. By the first word sshd knows a peer that may be told of the end of writing (`eow@openssh.com`);
/// without it, an operator who sends to a command that stopped reading would send for ever. An operator's client that is no OpenSSH never
/// sees it.
const VERSION: &str = "SSH-2.0-OpenSSH_9.9 ssh-broker";

/// Settings of `[upstream]`, with the ports that `[gse]` names.
#[derive(Debug, Clone)]
pub struct Config {
    pub connect_timeout: Duration,
    /// Key exchange and authentication, after the TCP connection stands.
    pub handshake_timeout: Duration,
    pub host_keys: HostKeys,
    /// `state_dir/known_hosts`.
    pub known_hosts: PathBuf,
    /// Empty: any address but loopback, link-local, multicast, unspecified and metadata.
    pub allowed_networks: Vec<IpNet>,
    pub legacy_algorithms: LegacyAlgorithms,
    pub ssh_port: u16,
    pub ssh_ports: BTreeMap<FleetId, u16>,
}

/// What to do with an instance whose host key is not pinned yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeys {
    AcceptNew,
    Strict,
}

/// When the old, weak algorithms are offered to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyAlgorithms {
    /// Each one where the instance offers nothing better of its kind.
    Auto,
    Never,
    Always,
}

/// The way to the instances.
pub struct Dialer {
    config: Config,
    pins: Pins,
}

impl Dialer {
    pub fn new(config: Config) -> Result<Self, PinsError> {
        let pins = Pins::load(config.known_hosts.clone())?;
        Ok(Self { config, pins })
    }

    /// The pins that its connections are judged by.
    pub fn pins(&self) -> Pins {
        self.pins.clone()
    }

    async fn dial(&self, port: u16, lease: &Lease, deadline: Instant) -> Result<QuickAck, Unreached> {
        let unreachable = |text: String| Failure::new(Code::InstanceUnreachable, text);
        if !networks::may_dial(lease.address, &self.config.allowed_networks) {
            let failure = unreachable("the instance's address is not one that this broker may connect to".to_owned());
            return Err(stale(failure.because(format!("{} is not in upstream.allowed_networks", lease.address))));
        }
        let limit = self.config.connect_timeout.min(deadline.saturating_duration_since(Instant::now()));
        let connected = tokio::time::timeout(limit, TcpStream::connect((lease.address, port))).await;
        let stream = match connected {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                return Err(stale(unreachable(format!("nothing listens on the instance's port {port}")).because(error)));
            }
            Ok(Err(error)) => return Err(stale(unreachable("the instance cannot be reached".to_owned()).because(error))),
            Err(_) => {
                let text = format!("the instance did not answer within {} s", limit.as_secs_f64().round());
                return Err(stale(unreachable(text)));
            }
        };
        QuickAck::new(stream, HANDSHAKE)
            .map_err(|error| fresh(unreachable("the instance closed the connection at once".to_owned()).because(error)))
    }

    /// What may be offered. The keys that are pinned come first, so that an instance with several shows the one we know.
    fn preferences(&self, instance: &InstanceId) -> Preferences {
        let mut preferences = match self.config.legacy_algorithms {
            LegacyAlgorithms::Never => Preferences::modern(),
            LegacyAlgorithms::Auto | LegacyAlgorithms::Always => Preferences::with_legacy(),
        };
        let pinned = self.pins.pinned(instance);
        let is_pinned =
            |name: &&str| SignatureAlgorithm::find(name).is_some_and(|algorithm| pinned.iter().any(|key| algorithm.fits(&key.algorithm())));
        preferences.host_key.sort_by_key(|name| !is_pinned(name));
        preferences
    }

    /// Trust in the host key is settled before the first byte of authentication.
    async fn trust(&self, target: &Target, key: &HostKey, trail: &dyn Witness) -> Result<(), Unreached> {
        let instance = &target.instance;
        let offered = key.fingerprint();
        let mut verdict = self.pins.check(instance, &key.key);
        if verdict == Verdict::New && self.config.host_keys == HostKeys::Strict {
            let text = format!("the instance's host key {offered} is not pinned, and this broker takes no new ones");
            return Err(fresh(Failure::new(Code::InstanceHostkey, text)));
        }
        if verdict == Verdict::New {
            let (pins, instance, data) = (self.pins.clone(), instance.clone(), key.key.clone());
            let pinned = tokio::task::spawn_blocking(move || pins.pin(&instance, &data)).await;
            let not_kept = || Failure::new(Code::InstanceHostkey, "the instance's host key could not be remembered");
            verdict = match pinned {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(error)) => return Err(fresh(not_kept().because(error))),
                Err(error) => return Err(fresh(not_kept().because(error))),
            };
            if verdict == Verdict::New {
                trail.host_key_pinned(target, &offered);
            }
        }
        match verdict {
            Verdict::Known | Verdict::New => Ok(()),
            Verdict::Mismatch(pinned) => {
                let pinned = pinned.fingerprint(HashAlg::Sha256).to_string();
                trail.host_key_mismatch(target, &pinned, &offered);
                let text = format!("the instance's host key has changed: {pinned} is pinned, {offered} was offered");
                Err(fresh(Failure::new(Code::InstanceHostkey, text)))
            }
        }
    }

    /// The first key exchange. What the instance itself offers tells better than its name or version which algorithms it needs, and comes
    /// as early: so in `auto` it goes first.
    async fn exchange_keys(
        &self,
        stream: QuickAck,
        instance: &InstanceId,
        lease: &Lease,
    ) -> Result<(Connection<QuickAck>, HostKey), TransportError> {
        let preferences = self.preferences(instance);
        let mut connection = match self.config.legacy_algorithms {
            LegacyAlgorithms::Never | LegacyAlgorithms::Always => Connection::new(Leg::client(preferences, VERSION)?, stream),
            LegacyAlgorithms::Auto => {
                let mut connection = Connection::new(Leg::patient_client(preferences, VERSION), stream);
                connection.identify().await?;
                if tokio::time::timeout(KEXINIT_PATIENCE, connection.await_kexinit()).await.is_err() {
                    let version = connection.leg.peer_version().unwrap_or_default();
                    if !age::is_old(version, lease.operating_system.as_deref()) {
                        connection.leg.drop_legacy();
                    }
                    connection.leg.start_kex()?;
                }
                connection
            }
        };
        connection.establish().await?;
        let host_key = connection.leg.host_key().cloned().ok_or(TransportError::Closed)?;
        Ok((connection, host_key))
    }

    async fn shake_hands(
        &self,
        stream: QuickAck,
        grant: &Grant,
        lease: &Lease,
        trail: &dyn Witness,
    ) -> Result<(Connection<QuickAck>, Duration, Duration), Unreached> {
        let target = grant.target();
        let started = Instant::now();
        let (mut connection, host_key) = self.exchange_keys(stream, &target.instance, lease).await.map_err(no_key_exchange)?;
        let kex = started.elapsed();
        trail.passed(Step::Kex, kex);
        let started = Instant::now();
        self.trust(target, &host_key, trail).await?;
        trail.passed(Step::HostKey, started.elapsed());

        let started = Instant::now();
        let unusable = |error: credential::CredentialError| {
            fresh(Failure::new(Code::InstanceLogin, format!("the secret from the cloud API cannot be used: {error}")))
        };
        let credential = credential::read(&lease.secret).map_err(unusable)?;
        authenticate(&mut connection, &lease.login, &credential).await.map_err(not_let_in)?;
        let auth = started.elapsed();
        trail.passed(Step::Auth, auth);
        Ok((connection, kex, auth))
    }
}

fn no_key_exchange(error: TransportError) -> Unreached {
    let text = match &error {
        TransportError::NoCommon { what, ours, theirs } => {
            // Where old ones were offered and nothing fits all the same, forbidding them was not why.
            let forbidden = !ours.split(',').any(is_legacy) && theirs.split(',').any(is_legacy);
            let why = if forbidden { ", and upstream.legacy_algorithms does not allow the old ones among them" } else { "" };
            format!("no common {what} with the instance, which offers {theirs}{why}")
        }
        TransportError::Closed | TransportError::Io(_) => "the instance closed the connection during the key exchange".to_owned(),
        _ => "the key exchange with the instance failed".to_owned(),
    };
    fresh(Failure::new(Code::InstanceUnreachable, text).because(error))
}

async fn authenticate(connection: &mut Connection<QuickAck>, login: &str, credential: &Credential) -> Result<(), AuthError> {
    let mut auth = ClientAuth::start(&mut connection.leg, login, credential)?;
    loop {
        let message = connection.next().await?;
        if auth.receive(&mut connection.leg, &message)? {
            return Ok(());
        }
    }
}

fn not_let_in(error: AuthError) -> Unreached {
    let text = match &error {
        AuthError::Refused { .. } => "the instance refused the login that the cloud API gave",
        AuthError::WantsMore { .. } => "the instance wants more than the login that the cloud API gave",
        AuthError::PasswordExpired => "the instance wants its password changed first",
        AuthError::OtherPrompts { .. } => "the instance asks for more than a password",
        AuthError::NoSignatureAlgorithm { .. } => "the instance takes no signature algorithm of the key that the cloud API gave",
        AuthError::Transport(_) => "the instance closed the connection during the login",
    };
    Unreached {
        lease_may_be_stale: matches!(error, AuthError::Refused { .. }),
        failure: Failure::new(Code::InstanceLogin, text).because(error),
    }
}

fn stale(failure: Failure) -> Unreached {
    Unreached { failure, lease_may_be_stale: true }
}

fn fresh(failure: Failure) -> Unreached {
    Unreached { failure, lease_may_be_stale: false }
}

impl Upstream for Dialer {
    type Leg = Connection<QuickAck>;
    type Stream = QuickAck;

    async fn connect(
        &self,
        grant: &Grant,
        lease: &Lease,
        deadline: Instant,
        trail: &dyn Witness,
    ) -> Result<Connected<Self::Leg>, Unreached> {
        let started = Instant::now();
        let port = self.config.ssh_ports.get(&grant.target().fleet).copied().unwrap_or(self.config.ssh_port);
        let stream = self.dial(port, lease, deadline).await?;
        let connect = started.elapsed();
        trail.passed(Step::Connect, connect);
        let limit = self.config.handshake_timeout.min(deadline.saturating_duration_since(Instant::now()));
        match tokio::time::timeout(limit, self.shake_hands(stream, grant, lease, trail)).await {
            Ok(Ok((leg, kex, auth))) => Ok(Connected { leg, phases: Phases { connect, kex, auth, ..Phases::default() } }),
            Ok(Err(unreached)) => Err(unreached),
            Err(_) => {
                let text = format!("the instance did not finish the SSH handshake within {} s", limit.as_secs_f64().round());
                Err(fresh(Failure::new(Code::InstanceUnreachable, text)))
            }
        }
    }

    async fn reach(&self, port: GrantedPort, lease: &Lease, deadline: Instant) -> Result<Self::Stream, Unreached> {
        self.dial(port.number(), lease, deadline).await
    }
}
