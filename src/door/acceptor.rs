use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use aws_lc_rs::rand;
use futures_util::FutureExt;
use ipnet::IpNet;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout_at};

use super::admission::{Admission, ConnectionPermit, StartupPermit, StartupSlot};
use super::attempts::Attempts;
use super::client::has_aes_gcm;
use super::connections::Outer;
use super::door::Shared;
use super::lanes::Lanes;
use super::login::Login;
use super::penalties::{Offence, Penalties};
use super::proxy::{self, Origin};
use super::serving::Serving;
use super::turned_away::{Refusal, TurnedAway};
use super::wire::Wire;
use crate::audit::{Event, Subject};
use crate::quick_ack::QuickAck;
use crate::tasks::apart;
use crate::transport::{Connection, HostIdentity, Leg, Preferences, TransportError, msg};

/// How the broker names itself: no product version for attackers to look up.
const VERSION: &str = "SSH-2.0-ssh-broker";

/// Bytes that are read of a peer before its operator is proven. A login takes some kilobytes; what takes more is a flood, and each of its
/// packets costs more than a place.
const UNPROVEN: u64 = 512 * 1024;

/// Reads that the handshakes take: both of a jump's, 16 with OpenSSH, and some keys that are offered in vain.
const HANDSHAKES: u8 = 24;

/// After an accept that failed for want of something that others hold.
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// Takes connections from a listener and sees each to its end.
#[derive(Clone)]
pub(super) struct Acceptor {
    pub(super) shared: Arc<Shared>,
    pub(super) admission: Arc<Admission>,
    pub(super) penalties: Arc<Penalties>,
    pub(super) turned_away: Arc<TurnedAway>,
    pub(super) balancers: Arc<[IpNet]>,
    pub(super) identity: HostIdentity,
}

/// A connection that was accepted, and what it stands on until its operator is proven.
enum Startup {
    From(StartupPermit),
    /// Where it comes from is still to be read.
    Balanced(StartupSlot),
}

/// One connection on its way in.
struct Arrival {
    outer: Arc<Outer>,
    deadline: Instant,
    proven: AtomicBool,
    attempts: Arc<Mutex<Attempts>>,
    /// Turned away, or a balancer's own: not the peer's fault.
    excused: AtomicBool,
}

impl Acceptor {
    /// A permit before each accept: what there is no room for waits in the kernel's backlog.
    pub(super) async fn accept_all(self, listener: TcpListener, lanes: Arc<Lanes>) {
        let stop = self.shared.closing().accepting().clone();
        let mut beat = self.shared.pulse().join();
        let accepting = async {
            while let Some(connection) = self.admission.connection().await {
                let (stream, peer) = loop {
                    match listener.accept().await {
                        Ok(accepted) => break accepted,
                        // EMFILE, ENFILE, ENOMEM, ECONNABORTED: none of them is a reason to stop taking connections.
                        Err(error) => {
                            tracing::warn!(%error, "failed to accept a connection");
                            tokio::time::sleep(ACCEPT_BACKOFF).await;
                        }
                    }
                };
                match self.admit(peer) {
                    Ok(startup) => match stream.into_std() {
                        Ok(stream) => lanes.spawn(&self.shared.tracker, self.clone().serve(stream, peer, connection, startup)),
                        Err(error) => tracing::warn!(%error, "failed to hand a connection over"),
                    },
                    Err(refusal) => self.turned_away.tell(&stream, peer, refusal),
                }
            }
        };
        tokio::select! {
            () = accepting => {}
            () = stop.cancelled() => {}
            () = beat.answer() => {}
        }
        if stop.is_cancelled() {
            beat.leave();
        }
    }

    fn admit(&self, peer: SocketAddr) -> Result<Startup, Refusal> {
        if self.is_balancer(peer) {
            // Who is dropped early is drawn when it is known who comes.
            return self.admission.startup(peer.ip(), 100).map(Startup::Balanced).ok_or(Refusal::Full);
        }
        self.startup(peer).map(Startup::From)
    }

    fn startup(&self, source: SocketAddr) -> Result<StartupPermit, Refusal> {
        if self.penalties.refuses(source.ip(), Instant::now()) {
            return Err(Refusal::Penalized);
        }
        let slot = self.admission.startup(source.ip(), draw()).ok_or(Refusal::Full)?;
        self.admission.charge_source(slot, source.ip()).ok_or(Refusal::Share)
    }

    fn is_balancer(&self, peer: SocketAddr) -> bool {
        let address = peer.ip().to_canonical();
        self.balancers.iter().any(|network| network.contains(&address))
    }

    /// One connection, from its first byte to its end.
    async fn serve(self, stream: std::net::TcpStream, peer: SocketAddr, connection: ConnectionPermit, startup: Startup) {
        let entry = self.shared.enter(peer);
        let arrival = Arrival {
            outer: entry.outer.clone(),
            deadline: Instant::now() + self.shared.rules().login_grace,
            proven: AtomicBool::new(false),
            attempts: Arc::default(),
            excused: AtomicBool::new(false),
        };
        let served = AssertUnwindSafe(self.converse(stream, &arrival, startup)).catch_unwind().await;
        // Boxed, for it would have its place in the future as long as the connection lasts.
        Box::pin(self.conclude(served, &arrival)).await;
        // Until here: while the audit takes nothing, those who wait to be told of are no more than the connections there may be.
        drop(connection);
    }

    /// What is told of a connection that has ended, and what it costs its source.
    async fn conclude(&self, served: thread::Result<Result<(), TransportError>>, arrival: &Arrival) {
        let source = arrival.source();
        let worst = match &served {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                tracing::debug!(%source, %error, "connection ended");
                matches!(error, TransportError::Flood).then_some(Offence::Flood)
            }
            Err(_panic) => Some(Offence::Crash),
        };
        if worst == Some(Offence::Crash) {
            tracing::error!(%source, "a connection ended in a panic");
            self.record(&Subject::source(source), Event::ConnectionCrashed {}).await;
        }
        let owed = {
            let mut attempts = arrival.attempts();
            [attempts.owed.take(), std::mem::take(&mut attempts.rejected).rest()]
        };
        for (subject, event) in owed.into_iter().flatten() {
            self.record(&subject, event).await;
        }
        if !arrival.proven.load(Ordering::Relaxed) {
            self.judge(source, worst, arrival).await;
        }
    }

    async fn converse(&self, stream: std::net::TcpStream, arrival: &Arrival, startup: Startup) -> Result<(), TransportError> {
        // Boxed: a connection is to hold the memory of its beginning no longer than that takes.
        let serving = Box::pin(async {
            tokio::select! {
                begun = timeout_at(arrival.deadline, self.begin(stream, arrival, startup)) => {
                    begun.unwrap_or(Err(TransportError::Deadline("the login")))
                }
                () = arrival.outer.end.cancelled() => Ok(None),
            }
        });
        match serving.await? {
            Some(serving) => apart(serving.run()).await,
            None => Ok(()),
        }
    }

    async fn begin(
        &self,
        stream: std::net::TcpStream,
        arrival: &Arrival,
        startup: Startup,
    ) -> Result<Option<Serving<QuickAck>>, TransportError> {
        let reached = stream.local_addr()?;
        let mut stream = QuickAck::new(TcpStream::from_std(stream)?, HANDSHAKES)?;
        let startup = match startup {
            Startup::From(permit) => permit,
            Startup::Balanced(slot) => match self.introduce(&mut stream, arrival, slot).await? {
                Some(permit) => permit,
                None => return Ok(None),
            },
        };
        let leg = Leg::server(Preferences::modern(), self.identity.clone(), VERSION).without_pings();
        let mut connection = Connection::new(leg, stream);
        connection.limit(UNPROVEN);
        let client_version = match self.log_in(&mut connection, arrival).await {
            Ok(client_version) => client_version,
            Err(error) => {
                // Its last words, as far as they are taken at once.
                if let TransportError::Misbehaved(_) | TransportError::NoCommon { .. } = &error
                    && connection.leg.peer_version().is_some()
                {
                    let _ = connection.leg.disconnect(msg::reason::PROTOCOL_ERROR, &error.to_string());
                    let _ = connection.drain().now_or_never();
                }
                return Err(error);
            }
        };
        startup.proven();
        connection.limit(u64::MAX);
        let wire = Wire::new(connection, self.shared.window());
        Ok(Some(Serving::new(self.shared.clone(), wire, client_version, reached, arrival.attempts.clone(), arrival.outer.clone())))
    }

    /// Versions, keys, the proof. Gives what the client calls itself.
    async fn log_in(&self, connection: &mut Connection<QuickAck>, arrival: &Arrival) -> Result<String, TransportError> {
        connection.identify().await?;
        let client_version = connection.leg.peer_version().unwrap_or_default().to_owned();
        if has_aes_gcm(&client_version) {
            connection.leg.keep_gcm_alone();
        }
        connection.leg.start_kex()?;
        connection.establish().await?;
        connection.leg.take_rekeys(false);
        let Arrival { outer, attempts, proven, .. } = arrival;
        let login = Login { shared: &self.shared, source: arrival.source(), client_version: &client_version, attempts, outer, proven };
        login.run(connection).await?;
        connection.leg.take_rekeys(true);
        Ok(client_version)
    }

    /// Learns from a balancer whose connection it is, and admits that source.
    async fn introduce(&self, stream: &mut QuickAck, arrival: &Arrival, slot: StartupSlot) -> io::Result<Option<StartupPermit>> {
        // Whatever a balancer does wrong, its network would pay for all who come through it.
        arrival.excused.store(true, Ordering::Relaxed);
        let Origin::Client(source) = proxy::read_header(stream).await? else {
            let peer = arrival.source();
            return Ok(self.admission.charge_source(slot, peer.ip()));
        };
        arrival.outer.set_source(source);
        drop(slot);
        match self.startup(source) {
            Ok(permit) => {
                arrival.excused.store(false, Ordering::Relaxed);
                Ok(Some(permit))
            }
            Err(refusal) => {
                self.turned_away.count(source, refusal);
                Ok(None)
            }
        }
    }

    /// What a connection that proved nobody costs its source, and what the audit says of it.
    async fn judge(&self, source: SocketAddr, worst: Option<Offence>, arrival: &Arrival) {
        let Attempts { claimed, reason, .. } = std::mem::take(&mut *arrival.attempts());
        let now = Instant::now();
        let offence = worst.unwrap_or(match &reason {
            _ if now >= arrival.deadline => Offence::GraceExceeded,
            Some(_) => Offence::AuthFailed,
            None => Offence::NoAuth,
        });
        // Who gave no name at all (a scanner, a health check) is not worth a line.
        if let Some(claimed) = claimed {
            let reason = reason.unwrap_or_else(|| "no key was offered".to_owned());
            self.record(
                &Subject::source(source),
                Event::OperatorRefused { claimed: claimed.as_str().into(), reason: reason.as_str().into() },
            )
            .await;
        }
        if arrival.excused.load(Ordering::Relaxed) || arrival.outer.end.is_cancelled() {
            return;
        }
        if let Some(refused_for) = self.penalties.add(source.ip(), offence, now) {
            tracing::info!(%source, offence = offence.name(), ?refused_for, "connections from there are refused for a while");
            let event = Event::SourcePenalized { offence: offence.name(), refused_s: refused_for.as_secs_f64() };
            self.record(&Subject::source(source), event).await;
        }
    }

    async fn record(&self, subject: &Subject, event: Event) {
        self.shared.audit.tell(subject, event, "what happened to a connection").await;
    }
}

impl Arrival {
    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn source(&self) -> SocketAddr {
        self.outer.source()
    }
}

/// A random number below 100. Without random numbers no key exchange succeeds either.
fn draw() -> usize {
    let mut random = [0; 2];
    let _ = rand::fill(&mut random);
    usize::from(u16::from_be_bytes(random)) % 100
}
