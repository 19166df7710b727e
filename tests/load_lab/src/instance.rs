use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ssh_broker::demo::ed25519;
use ssh_broker::transport::wire::Reader;
use ssh_broker::transport::{Connection, HostIdentity, Leg, Preferences, ServerAuth, Step, TransportError, msg};
use tokio::net::{TcpListener, TcpStream};

use crate::dice::Dice;
use crate::wire;

/// What a line of a busy session is answered with.
pub const ANSWER: usize = 4096;

/// Instances that know three commands: `true`; `idle`, which waits; `echo`, which answers each message with [`ANSWER`] bytes. One listener is
/// all of them.
pub struct Instances {
    pub address: SocketAddr,
    faults: Arc<Faults>,
}

/// How many of 100,000 connections go wrong, and how many did.
#[derive(Default)]
struct Faults {
    of_100_000: AtomicU32,
    made: AtomicU64,
}

/// Where an instance leaves the conversation without a word.
#[derive(PartialEq, Eq, Clone, Copy)]
enum Leaves {
    AtOnce,
    AfterKex,
    InSession,
}

impl Faults {
    fn draw(&self) -> Option<Leaves> {
        let mut dice = Dice::new();
        let hit = dice.below(100_000) < self.of_100_000.load(Ordering::Relaxed) as usize;
        hit.then(|| [Leaves::AtOnce, Leaves::AfterKex, Leaves::InSession][dice.below(3)])
    }
}

impl Instances {
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let faults = Arc::new(Faults::default());
        let identity = HostIdentity::new(Arc::new(ed25519("load")?), None);
        tokio::spawn({
            let faults = faults.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, identity.clone(), faults.clone()));
                }
            }
        });
        Ok(Self { address, faults })
    }

    pub fn set_faults(&self, percent: f64) {
        self.faults.of_100_000.store((percent * 1000.0) as u32, Ordering::Relaxed);
    }

    pub fn faults_made(&self) -> u64 {
        self.faults.made.load(Ordering::Relaxed)
    }
}

async fn serve(stream: TcpStream, identity: HostIdentity, faults: Arc<Faults>) {
    let leaves = faults.draw();
    let left = converse(stream, identity, leaves).await;
    if matches!(left, Ok(())) && leaves.is_some() {
        faults.made.fetch_add(1, Ordering::Relaxed);
    }
}

/// `Ok` when the instance itself left.
async fn converse(stream: TcpStream, identity: HostIdentity, leaves: Option<Leaves>) -> Result<(), TransportError> {
    stream.set_nodelay(true)?;
    if leaves == Some(Leaves::AtOnce) {
        return Ok(());
    }
    let mut connection = Connection::new(Leg::server(Preferences::modern(), identity, "SSH-2.0-OpenSSH_9.2 load"), stream);
    // At once, as sshd does.
    connection.identify().await?;
    connection.leg.start_kex()?;
    connection.establish().await?;
    if leaves == Some(Leaves::AfterKex) {
        return Ok(());
    }
    let mut auth = ServerAuth::default();
    loop {
        let message = connection.next().await?;
        if auth.receive(&mut connection.leg, &message)? == Step::Requested {
            break;
        }
        connection.drain().await?;
    }
    ServerAuth::succeed(&mut connection.leg)?;
    connection.drain().await?;
    loop {
        connection.release_idle_memory();
        let message = connection.next().await?;
        for answer in answers(&message)? {
            if leaves == Some(Leaves::InSession) {
                return Ok(());
            }
            connection.leg.send(&answer)?;
        }
        connection.drain().await?;
    }
}

fn answers(message: &[u8]) -> Result<Vec<Vec<u8>>, TransportError> {
    let mut reader = Reader::new(message);
    Ok(match reader.u8()? {
        msg::CHANNEL_OPEN => vec![wire::confirm()],
        msg::CHANNEL_REQUEST => {
            let (_, _, wants_reply, command) = (reader.u32()?, reader.string()?, reader.bool()?, reader.string()?);
            let mut answers = if wants_reply { vec![wire::of_channel(msg::CHANNEL_SUCCESS)] } else { Vec::new() };
            if command == b"true" {
                answers.extend([wire::exit_status(), wire::of_channel(msg::CHANNEL_EOF), wire::of_channel(msg::CHANNEL_CLOSE)]);
            }
            answers
        }
        msg::CHANNEL_DATA => vec![wire::data(&[b'x'; ANSWER])],
        _ => Vec::new(),
    })
}
