use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty};
use ssh_key::Certificate;
use tokio_util::sync::CancellationToken;

use super::admission::StartupPermit;
use super::attempts::Attempts;
use super::closing::DRAINING;
use super::commands::SessionChannels;
use super::connections::{Outer, Proof};
use super::door::{SessionPermits, Shared};
use super::gauge::{self, Counted};
use super::jumps::Jumps;
use super::key_rules::acceptable_signature;
use super::pending::Pending;
use super::rejected::REFUSALS;
use super::tally::{Tally, TallyPermit};
use super::{Forward, Jump};
use crate::access::{Code, Failure, Operator, OperatorName, TargetName};
use crate::audit::{AuditError, Event, Subject};
use crate::broker::BoxFuture;

/// The port that a jump to a target names.
const SSH_PORT: u32 = 22;

/// One connection's decisions. Each callback decides and returns: it runs inside the connection's only loop.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    pub(super) source: SocketAddr,
    pub(super) client_version: String,
    /// Held until the operator is proven.
    pub(super) startup: Option<StartupPermit>,
    pub(super) proven: Arc<AtomicBool>,
    pub(super) attempts: Arc<Mutex<Attempts>>,
    pub(super) name: Option<OperatorName>,
    pub(super) outer: Arc<Outer>,
    pub(super) refusals: Arc<Tally<()>>,
    pub(super) channels: SessionChannels,
    pub(super) jumps: Jumps,
    /// The forwards to other ports than SSH that are open, or were of late.
    pub(super) forwards: HashMap<ChannelId, CancellationToken>,
}

/// The slots that a session, or the sentence that there is none, stands on until its end.
enum Slots {
    Session(#[expect(dead_code, reason = "held for its drop")] SessionPermits),
    Refusal(#[expect(dead_code, reason = "held for its drop")] TallyPermit<()>),
}

impl Connection {
    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// At every request to be let in: whose it is, and whether it is the connection's first.
    fn begin(&mut self, user: &str) -> Result<(Option<OperatorName>, bool), russh::Error> {
        let is_first = self.attempts().begin(user, self.shared.attempts()).map_err(|_over| russh::Error::Disconnect)?;
        if self.name.is_none() {
            self.name = OperatorName::parse(user).ok();
        }
        Ok((self.name.clone(), is_first))
    }

    fn refuse(&self, reason: String) -> Auth {
        tracing::debug!(source = %self.source, reason, "authentication refused");
        let mut attempts = self.attempts();
        attempts.fail();
        attempts.reason = Some(reason);
        Auth::reject()
    }

    /// A method that proves nobody here.
    fn refuse_method(&mut self, user: &str, method: &str) -> Result<Auth, russh::Error> {
        self.begin(user)?;
        Ok(self.refuse(format!("{method} was tried, and only a key or a certificate counts")))
    }

    /// Writes what the audit had no room for.
    fn settle(&self) -> Result<(), AuditError> {
        let mut attempts = self.attempts();
        if let Some((subject, event)) = &attempts.owed {
            self.shared.audit.try_record(subject, event.clone())?;
            attempts.owed = None;
        }
        Ok(())
    }

    fn decide(&mut self, proof: Proof) -> Auth {
        match proof.judge(&self.shared.rules().operators, self.source) {
            Ok(operator) => {
                self.outer.prove(proof, operator);
                Auth::Accept
            }
            Err(reason) => self.refuse(reason),
        }
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
        if let Err(error) = self.settle() {
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

    fn note_rejected(&self, operator: &Operator, typed: &str) {
        let mut attempts = self.attempts();
        attempts.rejected.note(&self.shared.audit, operator, typed);
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

/// Whose connection is gone, so are their forwards.
impl Drop for Connection {
    fn drop(&mut self) {
        self.forwards.values().for_each(CancellationToken::cancel);
    }
}

impl Handler for Box<Connection> {
    type Error = russh::Error;

    /// Clients begin with it, to learn what they may try: that one is no failure (as in OpenSSH's auth2.c), any later one is.
    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        let (_, is_first) = self.begin(user)?;
        if !is_first {
            self.attempts().fail();
        }
        Ok(Auth::reject())
    }

    async fn auth_password(&mut self, user: &str, _password: &str) -> Result<Auth, Self::Error> {
        self.refuse_method(user, "a password")
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        user: &str,
        _submethods: &str,
        _response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        self.refuse_method(user, "keyboard-interactive")
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        // A name that cannot be an operator's takes the same way as one that is not.
        let name = self.begin(user)?.0.map_or_else(|| OperatorName::parse("_"), Ok);
        let name = match name {
            Ok(name) => name,
            Err(invalid) => return Ok(self.refuse(invalid.to_string())),
        };
        let key = offer.public_key.key_data();
        let could = acceptable_signature(offer.algorithm, key).and_then(|()| self.shared.rules().operators.could_prove(&name, key));
        Ok(match could {
            Ok(()) => Auth::Accept,
            Err(reason) => self.refuse(reason),
        })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        let Some(name) = self.begin(user)?.0 else { return Ok(self.refuse("not an operator's name".to_owned())) };
        let data = key.public_key.key_data();
        if let Err(reason) = acceptable_signature(key.algorithm, data) {
            return Ok(self.refuse(reason));
        }
        Ok(self.decide(Proof::Key { name, key: Box::new(data.clone()) }))
    }

    async fn auth_openssh_certificate(&mut self, user: &str, certificate: &Certificate) -> Result<Auth, Self::Error> {
        let Some(name) = self.begin(user)?.0 else { return Ok(self.refuse("not an operator's name".to_owned())) };
        Ok(self.decide(Proof::Certificate { name, certificate: Box::new(certificate.clone()) }))
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        let operator = self.outer.operator().ok_or(russh::Error::Disconnect)?;
        let event = Event::OperatorAuthenticated { client: self.client_version.as_str().into() };
        self.attempts().owed = Some((Subject::operator(&operator), event));
        if let Err(error @ AuditError::Stopped) = self.settle() {
            tracing::error!(%error, operator = %operator.name, "a login was refused: it could not be audited");
            return Err(russh::Error::Disconnect);
        }
        tracing::info!(operator = %operator.name, source = %self.source, key = %operator.key, "operator authenticated");
        self.proven.store(true, Ordering::Relaxed);
        if let Some(startup) = self.startup.take() {
            startup.proven();
        }
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _originator: &str,
        _originator_port: u32,
        reply: ChannelOpenHandle,
        _session: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(operator) = self.outer.operator() else {
            reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
            return Ok(());
        };
        let typed = shown(host);
        let Some((name, slots)) = self.judge(&operator, host) else {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            self.note_rejected(&operator, &typed);
            return Ok(());
        };
        let client_version = self.client_version.clone();
        if port == SSH_PORT {
            reply.accept().await;
            let stream = Box::new(self.jumps.open(channel, self.shared.pipe()));
            let jump = Jump { operator, client_version, typed, name, stream };
            self.spawn(self.shared.sessions.run(jump), slots);
            return Ok(());
        }
        let (name, port) = forwarded(name, port);
        let gone = CancellationToken::new();
        self.forwards.retain(|_, gone| !gone.is_cancelled());
        self.forwards.insert(channel.id(), gone.clone());
        let stream = self.jumps.open(channel, self.shared.pipe());
        let forward =
            Forward { operator, client_version, typed, name, port, channel: Box::new(Pending { stream, reply }), gone: gone.clone() };
        let running = self.shared.sessions.forward(forward);
        // Also marks it for being forgotten.
        self.spawn(Box::pin(running.inspect(move |()| gone.cancel())), slots);
        Ok(())
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.channels.close(channel);
        self.jumps.closed(channel);
        if let Some(gone) = self.forwards.remove(&channel) {
            gone.cancel();
        }
        Ok(())
    }

    async fn channel_open_session(&mut self, channel: Channel<Msg>, reply: ChannelOpenHandle, _: &mut Session) -> Result<(), Self::Error> {
        match self.outer.operator().is_some() {
            false => reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await,
            true if self.channels.open(channel) => reply.accept().await,
            true => reply.reject(ChannelOpenFailure::ResourceShortage).await,
        }
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _term: &str,
        _columns: u32,
        _rows: u32,
        _width: u32,
        _height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.channels.pty(channel, self.outer.operator().as_ref()) {
            true => session.channel_success(channel),
            false => session.channel_failure(channel),
        }
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        self.channels.run(channel, b"", self.outer.operator(), &self.shared, session)
    }

    async fn exec_request(&mut self, channel: ChannelId, words: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        self.channels.run(channel, words, self.outer.operator(), &self.shared, session)
    }

    async fn subsystem_request(&mut self, channel: ChannelId, _name: &str, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn env_request(&mut self, channel: ChannelId, _: &str, _: &str, session: &mut Session) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _single: bool,
        _protocol: &str,
        _cookie: &str,
        _screen: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        session.channel_failure(channel)
    }

    /// The library has put the message into the channel's queue.
    async fn data(&mut self, channel: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        if self.jumps.count(channel, data.len()).await == Counted::Stalled {
            tracing::warn!(source = %self.source, "a session is ended: it took nothing for too long");
            session.close(channel)?;
        }
        Ok(())
    }

    fn adjust_window(&mut self, channel: ChannelId, _current: u32) -> u32 {
        self.jumps.window(channel, gauge::window(self.shared.pipe()))
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
