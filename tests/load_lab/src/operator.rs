use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use russh::client;
use russh::keys::{PrivateKey, PrivateKeyWithHashAlg, PublicKeyOrCertificate};
use russh::{Preferred, SshId, cipher};
use ssh_broker::transport::wire::{Reader, put_string};
use ssh_broker::transport::{Connection, Leg, Preferences, msg};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::heard::{FirstWords, Heard};
use crate::tally::Missed;
use crate::wire;

pub const OPERATORS: u32 = 10;
pub const INSTANCES: u32 = 20;
/// Netblocks that the operators come from: under the broker's own limits one of them could not do it.
const NETBLOCKS: u32 = 100;
const VERSION: &str = "SSH-2.0-OpenSSH_9.9 load";
const PATIENCE: Duration = Duration::from_secs(60);

/// Operators with one key. Each login is from the next netblock, of the next operator, on the next instance.
pub struct Operators {
    broker: SocketAddr,
    key: Arc<PrivateKey>,
    config: Arc<client::Config>,
    turn: AtomicU32,
}

/// The broker's keys are not what is measured.
struct Trusting;

impl client::Handler for Trusting {
    type Error = russh::Error;

    async fn check_server_key(&mut self, _: &PublicKeyOrCertificate) -> Result<bool, Self::Error> {
        Ok(true)
    }
}

/// One operator on one instance, over a connection of its own.
pub struct Session {
    inner: Connection<russh::ChannelStream<client::Msg>>,
    first: FirstWords,
    _outer: client::Handle<Trusting>,
}

/// Where an operator leaves without a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaves {
    Connected,
    Proven,
    InKex,
    InSession,
    /// Says nothing until the broker has enough of it.
    Silent,
}

impl Leaves {
    pub const ALL: [Self; 5] = [Self::Connected, Self::Proven, Self::InKex, Self::InSession, Self::Silent];
}

impl Operators {
    pub fn new(broker: SocketAddr, key: PrivateKey) -> Self {
        let config = client::Config {
            client_id: SshId::Standard(VERSION.into()),
            preferred: Preferred { cipher: (&[cipher::AES_128_GCM]).into(), ..Preferred::DEFAULT },
            nodelay: true,
            ..client::Config::default()
        };
        Self { broker, key: Arc::new(key), config: Arc::new(config), turn: AtomicU32::new(0) }
    }

    /// The whole way to a command on the instance.
    pub async fn log_in(&self, command: &str) -> Result<Session, Missed> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        tokio::time::timeout(PATIENCE, self.attempt(turn, command)).await.unwrap_or_else(|_| Err(Missed::lost("no answer in a minute")))
    }

    async fn attempt(&self, turn: u32, command: &str) -> Result<Session, Missed> {
        let (outer, first) = self.prove(turn).await?;
        let mut session = self.jump(turn, outer, first).await?;
        session.authenticate().await?;
        session.start(command).await?;
        Ok(session)
    }

    async fn connect(&self, turn: u32) -> io::Result<TcpStream> {
        let [low, high, ..] = (1 + turn % NETBLOCKS).to_le_bytes();
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, high, low, 1)), 0))?;
        let stream = socket.connect(self.broker).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn prove(&self, turn: u32) -> Result<(client::Handle<Trusting>, FirstWords), Missed> {
        let stream = self.connect(turn).await.map_err(|error| Missed::lost(format!("connect: {error}")))?;
        let (stream, first) = Heard::new(stream);
        let missed = |error: russh::Error| first.limit().map_or_else(|| Missed::lost(format!("door: {error}")), Missed::Refused);
        let mut outer = client::connect_stream(self.config.clone(), stream, Trusting).await.map_err(missed)?;
        let key = PrivateKeyWithHashAlg::new(self.key.clone(), None);
        let proven = outer.authenticate_publickey(format!("operator{}", turn % OPERATORS), key).await.map_err(missed)?;
        if proven.success() { Ok((outer, first)) } else { Err(Missed::lost("the door refused the key")) }
    }

    async fn jump(&self, turn: u32, outer: client::Handle<Trusting>, first: FirstWords) -> Result<Session, Missed> {
        let lost = |what: &str, error: &dyn std::fmt::Display| Missed::lost(format!("{what}: {error}"));
        let target = format!("ins-load{}", turn % INSTANCES);
        let channel = outer.channel_open_direct_tcpip(target, 22, "127.0.0.1", 0).await.map_err(|error| lost("jump", &error))?;
        let leg = Leg::client(Preferences::modern(), VERSION).map_err(|error| lost("key exchange", &error))?;
        Ok(Session { inner: Connection::new(leg, channel.into_stream()), first, _outer: outer })
    }

    /// Begins as others do and leaves in the middle.
    pub async fn leave(&self, when: Leaves) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // What becomes of it is the broker's business.
        let _ = tokio::time::timeout(PATIENCE, self.abandon(turn, when)).await;
    }

    async fn abandon(&self, turn: u32, when: Leaves) -> Result<(), Missed> {
        match when {
            Leaves::Connected | Leaves::Silent => {
                let lost = |error: io::Error| Missed::lost(error.to_string());
                let mut stream = self.connect(turn).await.map_err(lost)?;
                if when == Leaves::Silent {
                    let _ = stream.readable().await;
                } else {
                    stream.write_all(format!("{VERSION}\r\n").as_bytes()).await.map_err(lost)?;
                }
                stream.set_zero_linger().map_err(lost)
            }
            Leaves::Proven => self.prove(turn).await.map(drop),
            Leaves::InKex => {
                let (outer, first) = self.prove(turn).await?;
                let mut session = self.jump(turn, outer, first).await?;
                session.inner.drain().await.map_err(|error| session.missed("key exchange", &error))
            }
            Leaves::InSession => self.attempt(turn, "echo").await.map(drop),
        }
    }
}

impl Session {
    fn missed(&self, what: &str, error: &dyn std::fmt::Display) -> Missed {
        self.first.limit().map_or_else(|| Missed::by_sentence(&format!("{what}: {error}")), Missed::Refused)
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), Missed> {
        if let Err(error) = self.inner.leg.send(message) {
            return Err(self.missed("send", &error));
        }
        self.inner.drain().await.map_err(|error| self.missed("send", &error))
    }

    async fn next(&mut self, what: &str) -> Result<Vec<u8>, Missed> {
        self.inner.next().await.map_err(|error| self.missed(what, &error))
    }

    async fn authenticate(&mut self) -> Result<(), Missed> {
        self.inner.establish().await.map_err(|error| self.missed("key exchange", &error))?;
        let mut service = vec![msg::SERVICE_REQUEST];
        put_string(&mut service, b"ssh-userauth");
        self.send(&service).await?;
        let mut request = vec![msg::USERAUTH_REQUEST];
        for text in ["root", "ssh-connection", "none"] {
            put_string(&mut request, text.as_bytes());
        }
        self.send(&request).await?;
        let mut sentence = String::new();
        loop {
            let message = match self.inner.next().await {
                Ok(message) => message,
                Err(_) if !sentence.is_empty() => return Err(Missed::by_sentence(&sentence)),
                Err(error) => return Err(self.missed("authentication", &error)),
            };
            match message.first() {
                Some(&msg::USERAUTH_SUCCESS) => return Ok(()),
                Some(&msg::USERAUTH_BANNER) => sentence = String::from_utf8_lossy(message.get(5..).unwrap_or_default()).into_owned(),
                _ => {}
            }
        }
    }

    async fn start(&mut self, command: &str) -> Result<(), Missed> {
        self.send(&wire::open()).await?;
        self.await_message(msg::CHANNEL_OPEN_CONFIRMATION).await?;
        self.send(&wire::exec(command)).await?;
        self.await_message(msg::CHANNEL_SUCCESS).await?;
        self.inner.release_idle_memory();
        Ok(())
    }

    async fn await_message(&mut self, kind: u8) -> Result<(), Missed> {
        while self.next("session").await?.first() != Some(&kind) {}
        Ok(())
    }

    /// Until the command has ended with its status.
    pub async fn end(mut self) -> Result<(), Missed> {
        let mut exited = false;
        loop {
            let message = self.next("session").await?;
            let mut reader = Reader::new(&message);
            match reader.u8().ok() {
                Some(msg::CHANNEL_REQUEST) => exited |= reader.u32().is_ok() && reader.string().is_ok_and(|name| name == b"exit-status"),
                Some(msg::CHANNEL_CLOSE) if exited => return Ok(()),
                Some(msg::CHANNEL_CLOSE) => return Err(Missed::lost("no exit status")),
                _ => {}
            }
        }
    }

    /// A keystroke and what it brings: so many bytes.
    pub async fn exchange(&mut self, bytes: usize) -> Result<(), Missed> {
        self.send(&wire::data(b"k")).await?;
        let mut got = 0;
        while got < bytes {
            let message = self.next("session").await?;
            match message.first() {
                Some(&msg::CHANNEL_DATA) => got += message.len() - 9,
                Some(&msg::CHANNEL_CLOSE) => return Err(Missed::lost("closed")),
                _ => {}
            }
        }
        Ok(())
    }
}
