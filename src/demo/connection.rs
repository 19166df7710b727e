use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use russh::server::{Auth, ChannelOpenHandle, Handler, Msg, PublicKeyOffer, Session, VerifiedPublicKey};
use russh::{Channel, ChannelId, ChannelOpenFailure, MethodKind, MethodSet, Pty};
use tokio::sync::{oneshot, watch};

use super::inbox::size;
use super::instance::{Credential, Machine};
use super::process::{MARK, Process, Program, Surroundings};
use super::tasks::Spawner;
use super::{forward, session};

/// One SSH connection to a simulated instance.
///
/// **Invariant**: a callback decides and returns; whatever waits runs in a task of its own, because callbacks run in the connection's
/// only loop.
pub(super) struct Connection {
    pub(super) machine: Arc<Machine>,
    pub(super) spawner: Spawner,
    pub(super) peer: SocketAddr,
    /// Told once, when the login is proven: it ends the login's deadline.
    pub(super) authenticated: watch::Sender<bool>,
    pub(super) channels: HashMap<ChannelId, Prepared>,
}

/// A session channel whose program has not started yet.
pub(super) struct Prepared {
    surroundings: Surroundings,
    start: oneshot::Sender<session::Started>,
}

/// Channels of one connection whose program has not started.
const MAX_PREPARED: usize = 64;
/// Environment variables of one channel, and the bytes of each.
const MAX_VARIABLES: usize = 64;
const MAX_VARIABLE: usize = 1024;

impl Connection {
    fn is_login(&self, user: &str) -> bool {
        user == self.machine.login
    }

    /// Names the one method that can succeed.
    fn refused(&self) -> Auth {
        self.machine.failed.fetch_add(1, Ordering::Relaxed);
        let method = match *self.machine.credential() {
            Credential::Password(_) => MethodKind::Password,
            Credential::Key(_) => MethodKind::PublicKey,
        };
        Auth::Reject { proceed_with_methods: Some(MethodSet::from(&[method][..])), partial_success: false }
    }

    fn accepts_key(&self, user: &str, key: &russh::keys::PublicKey) -> bool {
        self.is_login(user) && matches!(&*self.machine.credential(), Credential::Key(known) if known.key_data() == key.key_data())
    }

    fn start(&mut self, channel: ChannelId, program: Program<'_>, session: &mut Session) -> Result<(), russh::Error> {
        let Some(prepared) = self.channels.remove(&channel) else {
            return session.channel_failure(channel);
        };
        match Process::spawn(program, &prepared.surroundings) {
            Ok(started) => {
                session.channel_success(channel)?;
                // The task is gone when the channel is; then dropping the process ends it.
                drop(prepared.start.send(started));
                Ok(())
            }
            Err(error) => {
                tracing::debug!(%error, "a simulated instance could not start a program");
                session.channel_failure(channel)
            }
        }
    }
}

impl Handler for Connection {
    type Error = russh::Error;

    async fn auth_none(&mut self, _user: &str) -> Result<Auth, Self::Error> {
        let refused = self.refused();
        // The opening `none` is a question, not a failed attempt.
        self.machine.failed.fetch_sub(1, Ordering::Relaxed);
        Ok(refused)
    }

    async fn auth_password(&mut self, user: &str, password: &str) -> Result<Auth, Self::Error> {
        let right = matches!(&*self.machine.credential(), Credential::Password(known)
            if aws_lc_rs::constant_time::verify_slices_are_equal(known.expose(), password.as_bytes()).is_ok());
        Ok(if right && self.is_login(user) { Auth::Accept } else { self.refused() })
    }

    async fn auth_publickey_offered(&mut self, user: &str, offer: PublicKeyOffer<'_>) -> Result<Auth, Self::Error> {
        Ok(if self.accepts_key(user, offer.public_key) { Auth::Accept } else { self.refused() })
    }

    async fn auth_publickey(&mut self, user: &str, key: VerifiedPublicKey<'_>) -> Result<Auth, Self::Error> {
        Ok(if self.accepts_key(user, key.public_key) { Auth::Accept } else { self.refused() })
    }

    async fn auth_succeeded(&mut self, _session: &mut Session) -> Result<(), Self::Error> {
        self.machine.logins.fetch_add(1, Ordering::Relaxed);
        self.authenticated.send_replace(true);
        Ok(())
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        self.channels.retain(|_, prepared| !prepared.start.is_closed());
        if self.channels.len() >= MAX_PREPARED {
            reply.reject(ChannelOpenFailure::ResourceShortage).await;
            return Ok(());
        }
        let (start, started) = oneshot::channel();
        let mut surroundings = Surroundings::default();
        let local = self.machine.address;
        surroundings.environment = vec![
            (MARK.to_owned(), self.machine.mark.clone()),
            ("SSH_BROKER_DEMO_INSTANCE".to_owned(), self.machine.name.clone()),
            ("SSH_CONNECTION".to_owned(), format!("{} {} {} {}", self.peer.ip(), self.peer.port(), local.ip(), local.port())),
        ];
        self.channels.insert(channel.id(), Prepared { surroundings, start });
        let stop = self.spawner.stop().clone();
        self.spawner.spawn_watching(session::serve(channel, started, session.handle(), stop));
        reply.accept().await;
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
        let stop = self.spawner.stop().clone();
        self.spawner.spawn_watching(forward::serve(channel, host.to_owned(), port, reply, stop));
        Ok(())
    }

    async fn pty_request(
        &mut self,
        channel: ChannelId,
        term: &str,
        columns: u32,
        rows: u32,
        width: u32,
        height: u32,
        _modes: &[(Pty, u32)],
        session: &mut Session,
    ) -> Result<(), Self::Error> {
        match self.channels.get_mut(&channel) {
            Some(prepared) if prepared.surroundings.terminal.is_none() && is_text(term) => {
                prepared.surroundings.terminal = Some(size(columns, rows, width, height));
                prepared.surroundings.environment.push(("TERM".to_owned(), term.to_owned()));
                session.channel_success(channel)
            }
            _ => session.channel_failure(channel),
        }
    }

    async fn env_request(&mut self, channel: ChannelId, name: &str, value: &str, session: &mut Session) -> Result<(), Self::Error> {
        let allowed = name == "LANG" || name.starts_with("LC_");
        match self.channels.get_mut(&channel) {
            Some(Prepared { surroundings, .. })
                if allowed && is_text(name) && !name.contains('=') && is_text(value) && surroundings.environment.len() < MAX_VARIABLES =>
            {
                surroundings.environment.push((name.to_owned(), value.to_owned()));
                session.channel_success(channel)
            }
            _ => session.channel_failure(channel),
        }
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

    async fn shell_request(&mut self, channel: ChannelId, session: &mut Session) -> Result<(), Self::Error> {
        self.start(channel, Program::Shell, session)
    }

    async fn exec_request(&mut self, channel: ChannelId, command: &[u8], session: &mut Session) -> Result<(), Self::Error> {
        if command.contains(&0) {
            return session.channel_failure(channel);
        }
        self.start(channel, Program::Command(command), session)
    }

    async fn subsystem_request(&mut self, channel: ChannelId, name: &str, session: &mut Session) -> Result<(), Self::Error> {
        match name {
            "sftp" => self.start(channel, Program::Sftp, session),
            _ => session.channel_failure(channel),
        }
    }

    async fn channel_close(&mut self, channel: ChannelId, _session: &mut Session) -> Result<(), Self::Error> {
        self.channels.remove(&channel);
        Ok(())
    }
}

/// Fit for an environment variable.
fn is_text(text: &str) -> bool {
    text.len() <= MAX_VARIABLE && !text.contains('\0')
}
