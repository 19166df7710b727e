use std::collections::HashMap;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::attempts::Attempts;
use super::beside::{Beside, Woken};
use super::channels::{Event, Kind, Request, reason};
use super::closing::DRAINING;
use super::commands::SessionChannels;
use super::connections::Outer;
use super::door::{SessionPermits, Shared};
use super::rejected::REFUSALS;
use super::tally::{Tally, TallyPermit};
use super::wire::{ChannelStream, Wire};
use super::{ByteStream, Forward, Jump, PendingChannel, Refusal};
use crate::access::{Code, Failure, Operator, TargetName};
use crate::broker::BoxFuture;
use crate::transport::{IDLE_TICK, KeyLimits, TICK, TransportError};

/// The port that a jump to a target names.
const SSH_PORT: u32 = 22;
/// For a client to take what is still to be sent when its connection ends.
const PARTING: Duration = Duration::from_secs(2);

/// An operator's connection, from the proof to its end.
pub(super) struct Serving<S: AsyncRead + AsyncWrite + Unpin> {
    shared: Arc<Shared>,
    client_version: String,
    attempts: Arc<Mutex<Attempts>>,
    outer: Arc<Outer>,
    wire: Arc<Wire<S>>,
    refusals: Arc<Tally<()>>,
    commands: SessionChannels<S>,
    /// The forwards to other ports than SSH that are open, or were of late.
    forwards: HashMap<u32, CancellationToken>,
}

/// The slots that a session, or the sentence that there is none, stands on until its end.
enum Slots {
    Session(#[expect(dead_code, reason = "held for its drop")] SessionPermits),
    Refusal(#[expect(dead_code, reason = "held for its drop")] TallyPermit<()>),
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> Serving<S> {
    pub(super) fn new(
        shared: Arc<Shared>,
        wire: Arc<Wire<S>>,
        client_version: String,
        reached: SocketAddr,
        attempts: Arc<Mutex<Attempts>>,
        outer: Arc<Outer>,
    ) -> Self {
        let commands = SessionChannels::new(wire.clone(), reached, outer.commands.clone());
        Self { shared, client_version, attempts, outer, wire, refusals: Tally::new(), commands, forwards: HashMap::new() }
    }

    /// To its end; an error is the peer's, or how its stream ended.
    pub(super) async fn run(mut self) -> Result<(), TransportError> {
        let ended = self.serve().await;
        match &ended {
            Ok(()) => {}
            Err(error @ (TransportError::Misbehaved(_) | TransportError::Deadline(_))) => self.wire.complain(&error.to_string()),
            Err(_) => return ended,
        }
        let _ = timeout(PARTING, poll_fn(|cx| self.wire.poll_part(cx))).await;
        ended
    }

    async fn serve(&mut self) -> Result<(), TransportError> {
        let wire = self.wire.clone();
        let mut beside = Beside::new(self.outer.end.clone(), Instant::now() + TICK);
        loop {
            let next = poll_fn(|cx| match wire.poll_event(cx) {
                Poll::Ready(event) => Poll::Ready(Ok(event)),
                Poll::Pending => beside.poll(cx).map(Err),
            });
            match next.await {
                Ok(event) => self.take(event?),
                Err(Woken::Stop) => return Ok(()),
                Err(Woken::Tick) => {
                    let now = Instant::now();
                    let moved = wire.look(now, KeyLimits::default())?;
                    beside.set_tick(now + if moved { TICK } else { IDLE_TICK });
                }
            }
        }
    }

    /// Not a part of what moves bytes, which is to be small.
    #[inline(never)]
    fn take(&mut self, event: Event) {
        match event {
            Event::Open { channel, kind: Kind::DirectTcpip { host, port }, is_crowded } => self.open(channel, &host, port, is_crowded),
            Event::Open { channel, kind: Kind::Session, is_crowded } => match !is_crowded && self.commands.open(channel) {
                true => self.wire.confirm(channel),
                false => self.wire.refuse(channel, reason::SHORTAGE, "this connection has as many sessions as it may"),
            },
            Event::Request { channel, request, replies } => {
                let operator = self.outer.operator();
                let granted = match request {
                    Request::Pty => self.commands.pty(channel, operator.as_ref()),
                    Request::Run(words) => return self.commands.run(channel, &words, operator, &self.shared, replies),
                };
                if replies {
                    self.wire.answer(channel, granted);
                }
            }
            Event::Closed { channel } => {
                self.commands.close(channel);
                if let Some(gone) = self.forwards.remove(&channel) {
                    gone.cancel();
                }
            }
        }
    }

    fn open(&mut self, channel: u32, host: &str, port: u32, is_crowded: bool) {
        let Some(operator) = self.outer.operator() else {
            return self.wire.refuse(channel, reason::PROHIBITED, "");
        };
        let typed = shown(host);
        let Some((name, slots)) = self.judge(&operator, host).filter(|_| !is_crowded) else {
            self.wire.refuse(channel, reason::SHORTAGE, "this connection is being told enough already");
            return self.note_rejected(&operator, &typed);
        };
        let client_version = self.client_version.clone();
        let stream = ChannelStream::new(self.wire.clone(), channel);
        if port == SSH_PORT {
            self.wire.confirm(channel);
            let jump = Jump { operator, client_version, typed, name, stream: Box::new(stream) };
            return self.spawn(self.shared.sessions.run(jump), slots);
        }
        let (name, port) = forwarded(name, port);
        let gone = CancellationToken::new();
        self.forwards.retain(|_, gone| !gone.is_cancelled());
        self.forwards.insert(channel, gone.clone());
        let forward = Forward { operator, client_version, typed, name, port, channel: Box::new(stream), gone: gone.clone() };
        let running = self.shared.sessions.forward(forward);
        // Also marks it for being forgotten.
        self.spawn(Box::pin(running.inspect(move |()| gone.cancel())), slots);
    }

    /// Runs what was admitted; its slots go back when it has ended.
    fn spawn(&self, running: BoxFuture<'static, ()>, slots: Slots) {
        self.shared.tracker.spawn(async move {
            running.await;
            drop(slots);
        });
    }

    /// What a jump to this name becomes. `None` when it is not even told why not.
    fn judge(&self, operator: &Operator, host: &str) -> Option<(Result<TargetName, Failure>, Slots)> {
        let refused = |failure| Some((Err(failure), Slots::Refusal(self.refusals.take((), REFUSALS)?)));
        if let Err(error) = self.attempts().settle(&self.shared.audit) {
            return refused(error.into());
        }
        if self.shared.is_draining() {
            return refused(Failure::new(Code::BrokerDraining, DRAINING));
        }
        let name = match TargetName::parse(host, &self.shared.rules().aliases) {
            Ok(name) => name,
            Err(invalid) => return refused(Failure::new(Code::TargetName, invalid.to_string())),
        };
        match self.shared.session_permits(&operator.name, &self.outer.sessions) {
            Ok(permits) => Some((Ok(name), Slots::Session(permits))),
            Err(full) => refused(Failure::new(Code::BrokerBusy, full)),
        }
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_rejected(&self, operator: &Operator, typed: &str) {
        self.attempts().rejected.note(&self.shared.audit, operator, typed);
    }
}

/// Whose connection is gone, so are its channels and forwards.
impl<S: AsyncRead + AsyncWrite + Unpin> Drop for Serving<S> {
    fn drop(&mut self) {
        self.forwards.values().for_each(CancellationToken::cancel);
        self.wire.end();
    }
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> PendingChannel for ChannelStream<S> {
    fn accept(self: Box<Self>) -> BoxFuture<'static, Box<dyn ByteStream>> {
        self.wire().confirm(self.channel());
        self.wire().flush();
        Box::pin(async move { self as Box<dyn ByteStream> })
    }

    fn refuse(self: Box<Self>, kind: Refusal, sentence: String) -> BoxFuture<'static, ()> {
        let code = match kind {
            Refusal::Prohibited => reason::PROHIBITED,
            Refusal::ConnectFailed => reason::CONNECT_FAILED,
            Refusal::Shortage => reason::SHORTAGE,
        };
        self.wire().refuse(self.channel(), code, &sentence);
        self.wire().flush();
        Box::pin(async {})
    }
}

/// The host string as it may be shown.
fn shown(host: &str) -> String {
    host.chars().take(TargetName::MAX_LEN).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// What a forward is for. A number that is no port, which SSH has room for, is refused as a name that is no target's: with a sentence, and
/// in the audit.
fn forwarded(name: Result<TargetName, Failure>, port: u32) -> (Result<TargetName, Failure>, u16) {
    match u16::try_from(port) {
        Ok(port) => (name, port),
        Err(_) => (name.and_then(|_| Err(Failure::new(Code::TargetName, format!("there is no port {port}")))), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::FleetAliases;

    #[test]
    fn a_number_that_is_no_port_is_told_of_and_what_was_wrong_before_it_stays() {
        let name = || TargetName::parse("ins-a", &FleetAliases::default()).map_err(|_| unreachable!());
        assert!(matches!(forwarded(name(), 65_535), (Ok(_), 65_535)));
        for port in [65_536, 65_536 + 22, u32::MAX] {
            let (refused, _) = forwarded(name(), port);
            let failure = refused.unwrap_err();
            assert_eq!((failure.code, failure.text), (Code::TargetName, format!("there is no port {port}")));
        }
        let full = || Err(Failure::new(Code::BrokerBusy, "full"));
        assert_eq!(forwarded(full(), 65_536).0.unwrap_err().code, Code::BrokerBusy);
    }
}
