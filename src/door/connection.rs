use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use russh::keys::PublicKey;
use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Response, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, Pty};
use ssh_key::Certificate;
use thiserror::Error;

use super::admission::StartupPermit;
use super::jump::{Asked, Jumps};
use super::login::Login;
use super::trust::{Claim, Proof};
use super::{Rules, Shared, certificate, gauge, key_rules};
use crate::access::{Operator, OperatorName, TargetName};

/// Why a connection ended.
#[derive(Debug, Error)]
pub(super) enum ConnectionError {
    #[error(transparent)]
    Ssh(#[from] russh::Error),
    #[error("the user name changed during authentication")]
    UserChanged,
}

/// What one connection means: the library calls, this decides.
///
/// **Invariant**: `operator` is set only from a callback that the library makes after it has verified a signature.
pub(super) struct Connection {
    pub(super) shared: Arc<Shared>,
    /// The rules as they were when it was accepted.
    pub(super) rules: Arc<Rules>,
    pub(super) login: Login,
    pub(super) source: std::net::SocketAddr,
    pub(super) client_version: String,
    /// Told to the wire, whose deadline ends with it.
    pub(super) authenticated: Arc<AtomicBool>,
    /// Given back at authentication.
    pub(super) startup: Option<StartupPermit>,
    pub(super) operator: Option<Operator>,
    pub(super) jumps: Jumps,
}

impl Connection {
    fn pin(&self, user: &str) -> Result<(), ConnectionError> {
        if self.login.claim(user) { Ok(()) } else { Err(ConnectionError::UserChanged) }
    }

    /// A name that is none takes the way of a name that nobody has.
    fn claim(&self, user: &str, proof: Proof) -> Claim {
        Claim { operator: OperatorName::parse(user).ok(), source: self.source.ip(), proof }
    }

    async fn prove(&mut self, user: &str, proof: Proof, described: String) -> Auth {
        let claim = self.claim(user, proof);
        let name = claim.operator.clone();
        let proven = self.rules.trust.admit(claim).await.and_then(|restrictions| {
            let name = name.ok_or_else(|| "not an operator's name".to_owned())?;
            let operator = Operator { name, key: described.as_str().into(), source: self.source, restrictions };
            self.login
                .prove(&self.shared.audit, &operator, &self.client_version)
                .map_err(|error| format!("the login could not be recorded: {error}"))?;
            Ok(operator)
        });
        match proven {
            Ok(operator) => {
                tracing::info!(operator = %operator.name, key = %operator.key, source = %operator.source, "authenticated");
                self.operator = Some(operator);
                Auth::Accept
            }
            Err(reason) => {
                self.login.refuse(described, reason);
                Auth::reject()
            }
        }
    }
}

impl Handler for Connection {
    type Error = ConnectionError;

    async fn auth_none(&mut self, user: &str) -> Result<Auth, Self::Error> {
        self.pin(user)?;
        Ok(Auth::reject())
    }

    async fn auth_password(&mut self, user: &str, _: &str) -> Result<Auth, Self::Error> {
        self.pin(user)?;
        Ok(Auth::reject())
    }

    async fn auth_keyboard_interactive<'a>(&'a mut self, user: &str, _: &str, _: Option<Response<'a>>) -> Result<Auth, Self::Error> {
        self.pin(user)?;
        Ok(Auth::reject())
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        self.pin(user)?;
        let claim = self.claim(user, Proof::Key(offer.public_key.key_data().clone()));
        match self.rules.trust.would_admit(claim, offer.algorithm).await {
            Ok(()) => Ok(Auth::Accept),
            Err(reason) => {
                self.login.refuse(key_rules::fingerprint(offer.public_key.key_data()), reason);
                Ok(Auth::reject())
            }
        }
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        self.pin(user)?;
        let public_key: &PublicKey = key.public_key;
        let described = key_rules::fingerprint(public_key.key_data());
        if let Err(reason) = key_rules::acceptable_signature(key.algorithm) {
            self.login.refuse(described, reason);
            return Ok(Auth::reject());
        }
        Ok(self.prove(user, Proof::Key(public_key.key_data().clone()), described).await)
    }

    async fn auth_openssh_certificate(&mut self, user: &str, certificate: &Certificate) -> Result<Auth, Self::Error> {
        self.pin(user)?;
        let described = certificate::describe(certificate);
        Ok(self.prove(user, Proof::Certificate(Box::new(certificate.clone())), described).await)
    }

    async fn auth_succeeded(&mut self, _: &mut Session) -> Result<(), Self::Error> {
        self.authenticated.store(true, Ordering::Release);
        self.startup = None;
        Ok(())
    }

    async fn channel_open_direct_tcpip(
        &mut self,
        channel: Channel<Msg>,
        host: &str,
        port: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        let Some(operator) = &self.operator else { return Ok(()) };
        let asked = Asked {
            operator,
            client_version: &self.client_version,
            host,
            port,
            fleet_aliases: &self.rules.fleet_aliases,
            limits: &self.shared.slots,
            pipe: self.shared.limits.pipe,
            sessions: &*self.shared.sessions,
        };
        match self.jumps.open(channel, asked) {
            Ok(()) => reply.accept().await,
            Err(code) => {
                let host: String = host.chars().take(TargetName::MAX_LEN).collect();
                tracing::info!(operator = %operator.name, host, port, ?code, "refused a channel: only port 22 of a target is reached here, and not without bound");
                reply.reject(code).await;
            }
        }
        Ok(())
    }

    async fn channel_open_session(&mut self, _: Channel<Msg>, reply: ChannelOpenHandle, _: &mut Session) -> Result<(), Self::Error> {
        self.refuse("session", reply).await
    }

    async fn channel_open_x11(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refuse("x11", reply).await
    }

    async fn channel_open_forwarded_tcpip(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        _: u32,
        _: &str,
        _: u32,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refuse("forwarded-tcpip", reply).await
    }

    async fn channel_open_direct_streamlocal(
        &mut self,
        _: Channel<Msg>,
        _: &str,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), Self::Error> {
        self.refuse("direct-streamlocal", reply).await
    }

    /// The library has put the data into the channel's queue already.
    async fn data(&mut self, channel: ChannelId, data: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        self.count(channel, data.len(), session).await
    }

    async fn extended_data(&mut self, channel: ChannelId, _: u32, data: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        self.count(channel, data.len(), session).await
    }

    async fn window_adjusted(&mut self, channel: ChannelId, _: u32, session: &mut Session) -> Result<(), Self::Error> {
        self.count(channel, 0, session).await
    }

    /// Called at each grant for the target of the next.
    fn adjust_window(&mut self, channel: ChannelId, _: u32) -> u32 {
        self.jumps.window(channel, gauge::window(self.shared.limits.pipe))
    }

    async fn channel_close(&mut self, channel: ChannelId, _: &mut Session) -> Result<(), Self::Error> {
        self.jumps.closed(channel);
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        _: u32,
        _: u32,
        _: u32,
        _: u32,
        _: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(session.channel_failure(channel)?)
    }

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        Ok(session.channel_failure(channel)?)
    }

    async fn exec_request(&mut self, channel: ChannelId, _: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        Ok(session.channel_failure(channel)?)
    }

    async fn subsystem_request(&mut self, channel: ChannelId, _: &str, session: &mut Session) -> Result<(), Self::Error> {
        Ok(session.channel_failure(channel)?)
    }

    async fn env_request(&mut self, channel: ChannelId, _: &str, _: &str, session: &mut Session) -> Result<(), Self::Error> {
        Ok(session.channel_failure(channel)?)
    }

    async fn x11_request(
        &mut self,
        channel: ChannelId,
        _: bool,
        _: &str,
        _: &str,
        _: u32,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        Ok(session.channel_failure(channel)?)
    }
}

impl Connection {
    async fn count(&mut self, channel: ChannelId, bytes: usize, session: &mut Session) -> Result<(), ConnectionError> {
        if !self.jumps.count(channel, bytes).await {
            tracing::warn!(source = %self.source, ?channel, "closed a channel: its session took nothing for too long");
            session.close(channel)?;
        }
        Ok(())
    }

    async fn refuse(&mut self, kind: &str, reply: ChannelOpenHandle) -> Result<(), ConnectionError> {
        let operator = self.operator.as_ref().map_or("", |operator| operator.name.as_str());
        tracing::info!(operator, kind, "refused a channel: only direct-tcpip to a target is accepted here");
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        Ok(())
    }
}
