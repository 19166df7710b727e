//! An instance in an attacker's hands.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ssh_broker::access::Secret;
use ssh_broker::demo::InstanceRecord;
use ssh_broker::transport::{Connection, HostIdentity, Leg, Preferences, ServerAuth, Step, TransportError, msg};
use ssh_key::PrivateKey;
use ssh_key::private::Ed25519Keypair;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::Message;
use crate::lab::{FLEET, Lab};

/// The login's password, to be found in nothing.
pub const PASSWORD: &str = "evilPassword0123456789MARKER";
const VERSION: &[u8] = b"SSH-2.0-OpenSSH_9.2p1\r\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    // Before any key exchange, in plain text.
    Silence,
    EndlessLines,
    EndlessLine,
    Trickle,
    StallBehindKexinit,
    IgnoreFlood,
    Plain(&'static [u8]),
    Noise,
    /// Closes after so many bytes of an honest server.
    CloseAfter(usize),
    // Under keys, before the login.
    EndlessBanners,
    EndlessPrompts,
    /// 10^9 prompts in one request.
    ManyPrompts,
    AuthFlood(u8),
    WantsMore,
    WantsNewPassword,
    SuccessUnasked,
    StallInAuth,
    // In the session.
    Session(Deed),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Opens of every kind that nobody asked for.
    Opens,
    ForgedReplies,
    Flood(u8),
    GiantWindows,
    /// Messages at the size that a packet may have, and one beyond.
    AtTheLimit,
    BeyondTheLimit,
    RekeyStorm,
    Unknown,
    Close,
    /// Nothing: as a good server does.
    Nothing,
}

/// Listens as `ins-evil-…` at an address of its own until it is dropped.
pub struct Evil {
    _runtime: tokio::runtime::Runtime,
}

impl Evil {
    pub fn start(lab: &Lab, number: usize, act: Act) -> Self {
        let address: SocketAddr = format!("127.0.5.{}:{}", 1 + number, lab.ssh_port).parse().unwrap();
        lab.endpoint.change(|inventory| {
            inventory.insert(InstanceRecord {
                fleet: FLEET.to_owned(),
                instance: format!("ins-evil-{number}"),
                address: address.ip(),
                login: "root".to_owned(),
                secret: Secret::new(PASSWORD.as_bytes().to_vec()).into(),
                operating_system: "Ubuntu Server 22.04".to_owned(),
                status: "Active".to_owned(),
            });
        });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    // Whatever the broker does to end it ends it.
                    let _ = tokio::time::timeout(Duration::from_secs(60), act.perform(stream)).await;
                });
            }
        });
        Self { _runtime: runtime }
    }
}

fn identity() -> HostIdentity {
    HostIdentity::new(Arc::new(PrivateKey::from(Ed25519Keypair::from_seed(&[5; 32]))), None)
}

fn plain(payload: &[u8]) -> Vec<u8> {
    super::peer::packet(payload)
}

type Server = Connection<TcpStream>;

impl Act {
    async fn perform(self, mut stream: TcpStream) -> Result<(), TransportError> {
        match self {
            Self::Silence => tokio::time::sleep(Duration::from_secs(60)).await,
            Self::EndlessLines => loop {
                stream.write_all(&b"not yet\r\n".repeat(100)).await?;
            },
            Self::EndlessLine => loop {
                stream.write_all(&[b'a'; 64 * 1024]).await?;
            },
            Self::Trickle => {
                let bytes = [VERSION, &plain(&super::peer::kexinit("curve25519-sha256", "ssh-ed25519"))].concat();
                for byte in bytes {
                    stream.write_all(&[byte]).await?;
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            Self::StallBehindKexinit => {
                stream.write_all(&[VERSION, &plain(&super::peer::kexinit("curve25519-sha256", "ssh-ed25519"))].concat()).await?;
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            Self::IgnoreFlood => {
                stream.write_all(VERSION).await?;
                loop {
                    stream.write_all(&plain(b"\x02\0\0\0\x10aaaaaaaaaaaaaaaa").repeat(100)).await?;
                }
            }
            Self::Plain(bytes) => {
                stream.write_all(&[VERSION, bytes].concat()).await?;
                read_to_end(stream).await?;
            }
            Self::Noise => {
                let noise: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
                stream.write_all(&[VERSION, &noise].concat()).await?;
                read_to_end(stream).await?;
            }
            Self::CloseAfter(bytes) => close_after(stream, bytes).await?,
            _ => self.under_keys(Connection::new(Leg::server(Preferences::modern(), identity(), "SSH-2.0-OpenSSH_9.2p1"), stream)).await?,
        }
        Ok(())
    }

    async fn under_keys(self, mut server: Server) -> Result<(), TransportError> {
        server.establish().await?;
        if self == Self::SuccessUnasked {
            server.leg.send(&[msg::USERAUTH_SUCCESS])?;
            return server.part().await;
        }
        let mut auth = ServerAuth::default();
        loop {
            let message = server.next().await?;
            if auth.receive(&mut server.leg, &message)? == Step::Requested {
                break;
            }
        }
        let failure = |methods: &str, partial: u8| Message::new(msg::USERAUTH_FAILURE).text(methods).u8(partial);
        match self {
            Self::EndlessBanners => flood(&mut server, &Message::new(msg::USERAUTH_BANNER).text("hello\r\n").text("")).await,
            Self::EndlessPrompts => {
                server.leg.send(&failure("keyboard-interactive", 0).0)?;
                loop {
                    server.next().await?;
                    server.leg.send(&Message::new(msg::USERAUTH_60).text("").text("").text("").u32(0).0)?;
                    server.drain().await?;
                }
            }
            Self::ManyPrompts => {
                server.leg.send(&failure("keyboard-interactive", 0).0)?;
                server.next().await?;
                server
                    .leg
                    .send(&Message::new(msg::USERAUTH_60).text("").text("").text("").u32(1_000_000_000).text("Password: ").u8(0).0)?;
                server.part().await
            }
            Self::AuthFlood(number) => flood(&mut server, &transport_message(number)).await,
            Self::WantsMore => {
                server.leg.send(&failure("publickey", 1).0)?;
                server.part().await
            }
            Self::WantsNewPassword => {
                server.leg.send(&Message::new(msg::USERAUTH_60).text("change it").text("").0)?;
                server.part().await
            }
            Self::Session(deed) => {
                ServerAuth::succeed(&mut server.leg)?;
                deed.perform(server).await
            }
            _ => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                Ok(())
            }
        }
    }
}

impl Deed {
    async fn perform(self, mut server: Server) -> Result<(), TransportError> {
        // The client's channel, and the request that runs in it.
        loop {
            let message = server.next().await?;
            match message.first() {
                Some(&msg::CHANNEL_OPEN) => {
                    server.leg.send(&Message::new(msg::CHANNEL_OPEN_CONFIRMATION).u32(0).u32(7).u32(2 << 20).u32(32 * 1024).0)?;
                }
                Some(&msg::CHANNEL_REQUEST) if message.windows(4).any(|window| window == b"exec") => break,
                _ => {}
            }
        }
        match self {
            Self::Nothing => {}
            Self::Close => return Ok(()),
            Self::Opens => {
                for (number, kind) in
                    ["forwarded-tcpip", "x11", "auth-agent@openssh.com", "session", "direct-tcpip", "tun@openssh.com", "?"]
                        .into_iter()
                        .enumerate()
                {
                    let open = Message::new(msg::CHANNEL_OPEN).text(kind).u32(100 + number as u32).u32(1 << 20).u32(32 * 1024);
                    server.leg.send(&open.text("127.0.0.1").u32(22).text("127.0.0.1").u32(1).0)?;
                }
            }
            Self::ForgedReplies => {
                for _ in 0..1000 {
                    for number in [msg::REQUEST_SUCCESS, msg::REQUEST_FAILURE] {
                        server.leg.send(&[number])?;
                    }
                    for number in [msg::CHANNEL_SUCCESS, msg::CHANNEL_FAILURE, msg::CHANNEL_EOF, msg::CHANNEL_CLOSE] {
                        server.leg.send(&Message::new(number).u32(4711).0)?;
                    }
                    server.leg.send(&Message::new(msg::CHANNEL_OPEN_CONFIRMATION).u32(4711).u32(1).u32(1).u32(1).0)?;
                    server.leg.send(&Message::new(msg::CHANNEL_DATA).u32(4711).text("x").0)?;
                }
            }
            Self::Flood(number) => {
                let message = transport_message(number);
                for _ in 0..crate::hostile::scaled(50_000, 2_000_000) {
                    server.leg.send(&message.0)?;
                    if server.leg.waiting() > 256 * 1024 {
                        server.drain().await?;
                    }
                }
            }
            Self::GiantWindows => {
                for _ in 0..1000 {
                    server.leg.send(&Message::new(msg::CHANNEL_WINDOW_ADJUST).u32(0).u32(u32::MAX).0)?;
                }
            }
            Self::AtTheLimit => {
                for _ in 0..20 {
                    server.leg.send(&Message::new(msg::IGNORE).text(vec![b'a'; 200 * 1024]).0)?;
                    server.leg.send(&Message::new(msg::CHANNEL_DATA).u32(0).text(vec![b'a'; 200 * 1024]).0)?;
                    server.drain().await?;
                }
            }
            Self::BeyondTheLimit => server.leg.send(&Message::new(msg::CHANNEL_DATA).u32(0).text(vec![b'a'; 1 << 20]).0)?,
            Self::RekeyStorm => {
                for _ in 0..crate::hostile::scaled(200, 5000) {
                    server.leg.start_kex()?;
                    server.drain().await?;
                    while server.leg.in_kex() {
                        tokio::time::timeout(Duration::from_secs(20), server.next()).await.map_err(|_| TransportError::Closed)??;
                    }
                }
            }
            Self::Unknown => {
                for number in [0, 8, 19, 22, 29, 48, 49, 55, 79, 83, 89, 101, 127, 191, 194, 255] {
                    server.leg.send(&Message::new(number).raw(&[0xff; 64]).0)?;
                }
            }
        }
        // And then as a good server ends.
        server.leg.send(&Message::new(msg::CHANNEL_REQUEST).u32(0).text("exit-status").u8(0).u32(0).0)?;
        server.leg.send(&Message::new(msg::CHANNEL_CLOSE).u32(0).0)?;
        let _ = tokio::time::timeout(Duration::from_secs(5), server.part()).await;
        Ok(())
    }
}

fn transport_message(number: u8) -> Message {
    match number {
        msg::DEBUG => Message::new(number).u8(1).text("a debug message that goes on and on").text(""),
        msg::EXT_INFO => Message::new(number).u32(1).text("server-sig-algs").text("ssh-ed25519,rsa-sha2-512"),
        _ => Message::new(number).text([b'a'; 64]),
    }
}

/// Until the broker closes.
async fn flood(server: &mut Server, message: &Message) -> Result<(), TransportError> {
    loop {
        for _ in 0..100 {
            server.leg.send(&message.0)?;
        }
        server.drain().await?;
    }
}

async fn read_to_end(mut stream: TcpStream) -> Result<(), TransportError> {
    let mut sink = Vec::new();
    stream.read_to_end(&mut sink).await?;
    Ok(())
}

/// An honest server behind a wire that is cut.
async fn close_after(mut stream: TcpStream, bytes: usize) -> Result<(), TransportError> {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let mut server = Connection::new(Leg::server(Preferences::modern(), identity(), "SSH-2.0-OpenSSH_9.2p1"), near);
    let serve = async {
        server.establish().await?;
        let mut auth = ServerAuth::default();
        loop {
            let message = server.next().await?;
            if auth.receive(&mut server.leg, &message)? == Step::Requested {
                ServerAuth::succeed(&mut server.leg)?;
                break;
            }
        }
        server.part().await
    };
    let relay = async {
        let (mut from_broker, mut to_broker) = stream.split();
        let (mut from_server, mut to_server) = tokio::io::split(far);
        let mut first = (&mut from_server).take(bytes as u64);
        tokio::select! {
            _ = tokio::io::copy(&mut from_broker, &mut to_server) => {}
            _ = tokio::io::copy(&mut first, &mut to_broker) => {}
        }
    };
    tokio::select! {
        served = serve => served,
        () = relay => Ok(()),
    }
}
