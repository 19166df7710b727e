use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use aws_lc_rs::rand;
use futures_util::FutureExt;
use ipnet::IpNet;
use russh::server::{self, RunningSession};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

use super::admission::{Admission, ConnectionPermit, StartupPermit, StartupSlot};
use super::attempts::Attempts;
use super::commands::SessionChannels;
use super::connections::Outer;
use super::door::Shared;
use super::guarded::{FLOOD, Guarded};
use super::handler::Connection;
use super::jumps::Jumps;
use super::lanes::Lanes;
use super::penalties::{Offence, Penalties};
use super::prelude::{self, Prelude};
use super::proxy::{self, Origin};
use super::read_ahead::ReadAhead;
use super::tally::Tally;
use super::turned_away::{Refusal, TurnedAway};
use crate::audit::{Event, Subject};
use crate::quick_ack::QuickAck;

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
    pub(super) gcm_alone: Arc<server::Config>,
    pub(super) modern: Arc<server::Config>,
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
    proven: Arc<AtomicBool>,
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
            proven: Arc::default(),
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
    async fn conclude(&self, served: thread::Result<Result<(), russh::Error>>, arrival: &Arrival) {
        let source = arrival.source();
        let worst = match &served {
            Ok(Ok(())) => None,
            Ok(Err(error)) => {
                tracing::debug!(%source, %error, "connection ended");
                match error {
                    // The library's own task ended without a word: it panicked, or the runtime stops.
                    russh::Error::Join(_) if !arrival.outer.end.is_cancelled() => Some(Offence::Crash),
                    russh::Error::IO(error) if error.kind() == FLOOD => Some(Offence::Flood),
                    _ => None,
                }
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

    async fn converse(&self, stream: std::net::TcpStream, arrival: &Arrival, startup: Startup) -> Result<(), russh::Error> {
        // Apart: a connection is to hold the memory of its beginning no longer than that takes.
        match Box::pin(self.begin(stream, arrival, startup)).await? {
            Some(session) => session.await,
            None => Ok(()),
        }
    }

    async fn begin(
        &self,
        stream: std::net::TcpStream,
        arrival: &Arrival,
        startup: Startup,
    ) -> Result<Option<RunningSession<Box<Connection>>>, russh::Error> {
        let reached = stream.local_addr()?;
        let stream = ReadAhead::new(QuickAck::new(TcpStream::from_std(stream)?)?);
        let mut stream = Guarded::new(stream, arrival.deadline, arrival.proven.clone(), arrival.outer.end.clone());
        let startup = match startup {
            Startup::From(permit) => permit,
            Startup::Balanced(slot) => match self.introduce(&mut stream, arrival, slot).await? {
                Some(permit) => permit,
                None => return Ok(None),
            },
        };
        let (client_version, stream) = Prelude::exchange(stream).await?;
        let config = if prelude::has_aes_gcm(&client_version) { self.gcm_alone.clone() } else { self.modern.clone() };
        let handler = Box::new(Connection {
            shared: self.shared.clone(),
            source: arrival.source(),
            client_version,
            startup: Some(startup),
            proven: arrival.proven.clone(),
            attempts: arrival.attempts.clone(),
            name: None,
            outer: arrival.outer.clone(),
            channels: SessionChannels::new(reached, arrival.outer.commands.clone()),
            jumps: Jumps::default(),
            forwards: HashMap::new(),
            refusals: Tally::new(),
        });
        // Both in places of their own: the library's future holds each of them four times.
        server::run_stream(config, Box::new(stream), handler).await.map(Some)
    }

    /// Learns from a balancer whose connection it is, and admits that source.
    async fn introduce(
        &self,
        stream: &mut Guarded<ReadAhead>,
        arrival: &Arrival,
        slot: StartupSlot,
    ) -> Result<Option<StartupPermit>, russh::Error> {
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
