//! From one process to the next: the listening sockets, and who is in charge. The two talk over a socket that is the new one's standard
//! input: sockets down, [`READY`] up, [`YOURS`] down.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::sockets::Sockets;

/// Tells a process that it is to take over from the one that started it.
pub(super) const SUCCESSOR: &str = "--successor";

/// Sockets that are handed over at most.
const MAX_SOCKETS: usize = 64;
/// Whether the last socket is the metrics'.
const WITH_METRICS: u8 = b'm';
const WITHOUT_METRICS: u8 = b'-';
const READY: u8 = b'r';
const YOURS: u8 = b'y';

/// How this process was started, so that another can be.
#[derive(Debug, Clone)]
pub struct Invocation {
    pub program: PathBuf,
    /// Without `SUCCESSOR`.
    pub arguments: Vec<OsString>,
}

impl Invocation {
    /// To be called early: the program's path is looked up now, and whatever is there later is the new one.
    pub fn of_this_process() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let named = arguments.next().map(PathBuf::from).filter(|path| path.is_absolute());
        let program = named.map_or_else(std::env::current_exe, Ok)?;
        Ok(Self { program, arguments: arguments.filter(|argument| argument != SUCCESSOR).collect() })
    }
}

/// The new process, as the old one sees it.
pub(super) struct Successor {
    child: Child,
    talk: UnixStream,
}

impl Successor {
    /// Starts it and hands it the sockets. This process goes on as before.
    pub(super) fn start(invocation: &Invocation, sockets: &Sockets) -> io::Result<Self> {
        let (ours, theirs) = StdUnixStream::pair()?;
        // What is sent waits in the socket until the new process reads it.
        send(&ours, sockets)?;
        ours.set_nonblocking(true)?;
        let child = Command::new(&invocation.program)
            .args(&invocation.arguments)
            .arg(SUCCESSOR)
            // They speak of this process, or of sockets that it has.
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            .env_remove("WATCHDOG_PID")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()?;
        Ok(Self { child, talk: UnixStream::from_std(ours)? })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Waits until it could serve. An error says how it ended instead.
    pub(super) async fn ready(&mut self) -> io::Result<()> {
        match self.talk.read_u8().await {
            Ok(READY) => Ok(()),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(_) => {
                let status = self.child.wait().await?;
                Err(io::Error::other(format!("it ended before it was ready ({status})")))
            }
        }
    }

    /// It is in charge from now on.
    pub(super) async fn put_in_charge(mut self) -> io::Result<()> {
        self.talk.write_u8(YOURS).await
    }

    /// It has never served anybody.
    pub(super) async fn give_up(mut self) {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "the new process that was not wanted could not be ended");
        }
    }
}

/// The old process, as the new one sees it.
pub struct Predecessor {
    talk: StdUnixStream,
}

impl Predecessor {
    /// To be called first of all: standard input is the way to it.
    pub fn meet() -> io::Result<(Self, Sockets)> {
        let talk = StdUnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
        let sockets = receive(&talk)?;
        Ok((Self { talk }, sockets))
    }

    /// Says that this process can serve, and waits until it may. An old process that is gone has left everything to this one.
    pub(super) async fn take_over(self) -> io::Result<()> {
        self.talk.set_nonblocking(true)?;
        let mut talk = UnixStream::from_std(self.talk)?;
        talk.write_u8(READY).await?;
        match talk.read_u8().await {
            Ok(YOURS) => Ok(()),
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            Err(error) => {
                tracing::warn!(%error, "the process before this one is gone");
                Ok(())
            }
        }
    }
}

fn send(talk: &StdUnixStream, sockets: &Sockets) -> io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = sockets.door.iter().chain(&sockets.metrics).map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if fds.len() > MAX_SOCKETS || !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other(format!("more than {MAX_SOCKETS} sockets cannot be handed over")));
    }
    let word = [if sockets.metrics.is_some() { WITH_METRICS } else { WITHOUT_METRICS }];
    sendmsg(talk, &[IoSlice::new(&word)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(talk: &StdUnixStream) -> io::Result<Sockets> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_SOCKETS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut word = [0];
    recvmsg(talk, &mut [IoSliceMut::new(&mut word)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let mut door: Vec<TcpListener> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            door.extend(fds.map(TcpListener::from));
        }
    }
    if door.is_empty() {
        return Err(io::Error::other(format!("{SUCCESSOR} is for a broker that another one starts: no sockets were handed over")));
    }
    let metrics = if word == [WITH_METRICS] { door.pop() } else { None };
    Ok(Sockets { door, metrics })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn sockets_arrive_in_their_order_and_places() {
        for with_metrics in [false, true] {
            let (near, far) = StdUnixStream::pair().unwrap();
            let sent = Sockets { door: vec![listener(), listener()], metrics: with_metrics.then(listener) };
            send(&near, &sent).unwrap();
            let got = receive(&far).unwrap();
            let addresses = |sockets: &Sockets| -> Vec<_> {
                sockets.door.iter().chain(&sockets.metrics).map(|listener| listener.local_addr().unwrap()).collect()
            };
            assert_eq!(addresses(&got), addresses(&sent));
            assert_eq!(got.metrics.is_some(), with_metrics);
        }
    }

    #[test]
    fn nothing_handed_over_is_an_error_and_so_is_too_much() {
        let (near, far) = StdUnixStream::pair().unwrap();
        drop(near);
        assert!(receive(&far).unwrap_err().to_string().contains("no sockets"));
        let (near, _far) = StdUnixStream::pair().unwrap();
        let many = Sockets { door: (0..=MAX_SOCKETS).map(|_| listener()).collect(), metrics: None };
        assert!(send(&near, &many).is_err());
    }

    #[tokio::test]
    async fn a_program_that_cannot_serve_is_told_from_one_that_can() {
        let sockets = Sockets { door: vec![listener()], metrics: None };
        let run = |script: &str| {
            let arguments = ["-c", script].map(OsString::from).to_vec();
            Successor::start(&Invocation { program: "/bin/sh".into(), arguments }, &sockets).unwrap()
        };
        let error = run("exit 2").ready().await.unwrap_err().to_string();
        assert!(error.contains("exit status: 2"), "{error}");
        let mut hangs = run("exec sleep 100");
        assert!(tokio::time::timeout(std::time::Duration::from_millis(50), hangs.ready()).await.is_err());
        hangs.give_up().await;
        let mut good = run("printf r >&0; read -r _ <&0");
        good.ready().await.unwrap();
        good.put_in_charge().await.unwrap();
        let missing = Invocation { program: "/nonexistent".into(), arguments: Vec::new() };
        assert!(Successor::start(&missing, &sockets).is_err());
    }
}
