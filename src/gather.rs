use std::io::{self, Read, Write};
use std::mem;
use std::net;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// Bytes that are much when they come ...
const MUCH: usize = 64 * 1024;
/// ... within this time.
const SHORTLY: Duration = Duration::from_millis(10);
/// Pieces that are larger cost little as they come.
const LARGE: usize = 16 * 1024;
/// How long pieces are gathered. The timers' own steps add up to a millisecond.
const PAUSE: Duration = Duration::from_millis(1);
/// What a pause must bring for another one to follow.
const WORTH: usize = 8 * 1024;

/// A TCP stream that reads small pieces together when many come.
///
/// The output of a terminal comes in pieces of 4 KiB at most: `cat` of a large file wakes its reader for every one of them. A stream that may
/// gather ([`Gather::allow`]) is not watched while more than [`MUCH`] comes within [`SHORTLY`] in pieces smaller than [`LARGE`], but read at
/// intervals of [`PAUSE`], until one brings less than [`WORTH`]. So what comes meanwhile is late by a pause at most.
pub(crate) struct Gather {
    socket: Socket,
    seen: Option<Box<Seen>>,
    /// A write waits for room, and the socket is watched for it.
    writes_wait: bool,
}

enum Socket {
    Watched(TcpStream),
    /// Nobody is told of what comes.
    Unwatched(Box<Unwatched>),
    /// It could not be watched again.
    Lost,
}

struct Unwatched {
    stream: net::TcpStream,
    pause: Pin<Box<Sleep>>,
    pauses: bool,
    /// Bytes since the last pause.
    read: usize,
}

/// What came since.
struct Seen {
    /// Whether what comes is nothing that anybody waits for to go on.
    may_wait: Arc<AtomicBool>,
    since: Option<Instant>,
    bytes: usize,
    pieces: usize,
}

impl Seen {
    fn may_wait(&self) -> bool {
        self.may_wait.load(Ordering::Relaxed)
    }

    /// Whether that is much in small pieces.
    fn count(&mut self, bytes: usize) -> bool {
        (self.bytes, self.pieces) = (self.bytes + bytes, self.pieces + 1);
        if self.bytes < MUCH {
            return false;
        }
        let is_small = self.bytes < self.pieces * LARGE;
        (self.bytes, self.pieces) = (0, 0);
        let now = Instant::now();
        self.since.replace(now).is_some_and(|since| now - since < SHORTLY) && is_small
    }
}

impl Gather {
    /// Not allowed to, at first.
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { socket: Socket::Watched(stream), seen: None, writes_wait: false }
    }

    /// From now on, whenever that says so of what came last: what is answered before more comes is not to wait for an answer.
    pub(crate) fn allow(&mut self, may_wait: Arc<AtomicBool>) {
        self.seen = Some(Box::new(Seen { may_wait, since: None, bytes: 0, pieces: 0 }));
    }

    /// The stream while it is watched.
    pub(crate) fn watched(&self) -> Option<&TcpStream> {
        if let Socket::Watched(stream) = &self.socket { Some(stream) } else { None }
    }

    fn watch(&mut self) -> io::Result<()> {
        self.socket = match mem::replace(&mut self.socket, Socket::Lost) {
            Socket::Unwatched(unwatched) => Socket::Watched(TcpStream::from_std(unwatched.stream)?),
            other => other,
        };
        Ok(())
    }

    fn unwatch(&mut self) -> io::Result<()> {
        self.socket = match mem::replace(&mut self.socket, Socket::Lost) {
            Socket::Watched(stream) => {
                let pause = Box::pin(sleep(PAUSE));
                Socket::Unwatched(Box::new(Unwatched { stream: stream.into_std()?, pause, pauses: true, read: 0 }))
            }
            other => other,
        };
        Ok(())
    }

    /// Counts what came, and ceases to watch the stream while that is much in small pieces.
    #[inline(never)]
    fn count(&mut self, bytes: usize) -> io::Result<()> {
        let is_much = self.seen.as_mut().is_some_and(|seen| seen.count(bytes) && seen.may_wait());
        if is_much && !self.writes_wait { self.unwatch() } else { Ok(()) }
    }

    // What is rare is apart from what moves every byte.

    #[inline(never)]
    fn poll_read_unwatched(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Socket::Unwatched(unwatched) = &mut self.socket else { return lost() };
        let may_wait = self.seen.as_ref().is_some_and(|seen| seen.may_wait());
        match ready!(unwatched.poll_read(may_wait, cx, buf)) {
            Some(read) => Poll::Ready(read),
            None => {
                self.watch()?;
                Pin::new(self).poll_read(cx, buf)
            }
        }
    }

    #[inline(never)]
    fn poll_write_unwatched(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Socket::Unwatched(unwatched) = &mut self.socket else { return lost() };
        match unwatched.stream.write(buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.watch()?;
                // Whoever reads had left its waker with the pause.
                cx.waker().wake_by_ref();
                Pin::new(self).poll_write(cx, buf)
            }
            written => Poll::Ready(written),
        }
    }
}

impl Unwatched {
    /// `None` when the stream is to be watched again: a pause brought little, or what must not wait.
    fn poll_read(&mut self, may_wait: bool, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<Option<io::Result<()>>> {
        if self.pauses {
            ready!(self.pause.as_mut().poll(cx));
            (self.pauses, self.read) = (false, 0);
        }
        let room = buf.initialize_unfilled();
        let most = room.len();
        match self.stream.read(room) {
            Ok(came) => {
                buf.advance(came);
                self.read += came;
                // There may be more than was asked for; and an end is to be met again.
                if came > 0 && came < most && self.read >= WORTH && may_wait {
                    self.rest();
                }
                Poll::Ready(Some(Ok(())))
            }
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Poll::Ready(Some(Err(error))),
            Err(_) if self.read < WORTH || !may_wait => Poll::Ready(None),
            Err(_) => {
                self.rest();
                self.pause.as_mut().poll(cx).map(|()| None)
            }
        }
    }

    fn rest(&mut self) {
        self.pauses = true;
        self.pause.as_mut().reset(Instant::now() + PAUSE);
    }
}

impl AsyncRead for Gather {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Socket::Watched(stream) = &mut self.socket else { return self.poll_read_unwatched(cx, buf) };
        let before = buf.filled().len();
        ready!(Pin::new(stream).poll_read(cx, buf))?;
        if self.seen.is_some() {
            self.count(buf.filled().len() - before)?;
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Gather {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let Socket::Watched(stream) = &mut self.socket else { return self.poll_write_unwatched(cx, buf) };
        let polled = Pin::new(stream).poll_write(cx, buf);
        self.writes_wait = polled.is_pending();
        polled
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A socket's writes wait for nothing of ours.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.socket {
            Socket::Watched(stream) => Pin::new(stream).poll_shutdown(cx),
            Socket::Unwatched(unwatched) => Poll::Ready(unwatched.stream.shutdown(net::Shutdown::Write)),
            Socket::Lost => lost(),
        }
    }
}

fn lost<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;
    use std::task::{Wake, Waker};

    use tokio::net::TcpListener;
    use tokio::time::advance;

    use super::*;

    const PIECE: usize = 4096;

    /// The stream, and its peer, whose bytes are there when they are written.
    async fn stream() -> (Gather, net::TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_nodelay(true).unwrap();
        (Gather::new(listener.accept().await.unwrap().0), peer)
    }

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll_read_in(stream: &mut Gather, cx: &mut Context<'_>) -> Poll<usize> {
        let mut room = vec![0; 36 * 1024];
        let mut buf = ReadBuf::new(&mut room);
        let polled = Pin::new(stream).poll_read(cx, &mut buf);
        polled.map(|read| read.map(|()| buf.filled().len()).unwrap())
    }

    fn poll_read(stream: &mut Gather, woken: &Arc<Woken>) -> Poll<usize> {
        poll_read_in(stream, &mut Context::from_waker(&Waker::from(woken.clone())))
    }

    /// Reads each piece as it comes.
    async fn take(stream: &mut Gather, peer: &mut net::TcpStream, pieces: usize, size: usize, apart: Duration) {
        for _ in 0..pieces {
            peer.write_all(&vec![b'x'; size]).unwrap();
            let mut left = size;
            while left > 0 {
                left -= poll_fn(|cx| poll_read_in(stream, cx)).await;
            }
            advance(apart).await;
        }
    }

    /// As many pieces as it takes.
    async fn until_it_gathers(stream: &mut Gather, peer: &mut net::TcpStream) {
        for _ in 0..4 * MUCH / PIECE {
            take(stream, peer, 1, PIECE, Duration::ZERO).await;
            if stream.watched().is_none() {
                return;
            }
        }
        panic!("it does not gather");
    }

    async fn gathering() -> (Gather, net::TcpStream) {
        let (mut stream, mut peer) = stream().await;
        stream.allow(Arc::new(true.into()));
        until_it_gathers(&mut stream, &mut peer).await;
        (stream, peer)
    }

    /// Until so much has come through the loopback interface.
    fn await_bytes(stream: &Gather, bytes: usize) {
        let mut room = vec![0; bytes];
        while let Socket::Unwatched(unwatched) = &stream.socket
            && unwatched.stream.peek(&mut room).unwrap_or_default() < bytes
        {
            std::thread::yield_now();
        }
    }

    async fn await_waker(woken: &Woken) {
        while woken.0.swap(0, Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn many_small_pieces_are_read_together_after_a_pause() {
        let (mut stream, mut peer) = gathering().await;
        let woken = Arc::new(Woken::default());
        for _ in 0..3 {
            for _ in 0..3 {
                peer.write_all(&[b'x'; PIECE]).unwrap();
                assert_eq!(poll_read(&mut stream, &woken), Poll::Pending);
            }
            await_bytes(&stream, 3 * PIECE);
            tokio::task::yield_now().await;
            assert_eq!(woken.0.load(Ordering::Relaxed), 0, "nobody is told of each");
            advance(2 * PAUSE).await;
            await_waker(&woken).await;
            assert_eq!(poll_read(&mut stream, &woken), Poll::Ready(3 * PIECE));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn when_little_comes_it_is_told_of_all_again() {
        let (mut stream, mut peer) = gathering().await;
        let woken = Arc::new(Woken::default());
        for pieces in [1, 0] {
            if pieces > 0 {
                peer.write_all(&[b'x'; PIECE]).unwrap();
                await_bytes(&stream, PIECE);
            }
            assert_eq!(poll_read(&mut stream, &woken), Poll::Pending);
            advance(2 * PAUSE).await;
            if pieces > 0 {
                assert_eq!(poll_read(&mut stream, &woken), Poll::Ready(PIECE));
            }
            assert_eq!(poll_read(&mut stream, &woken), Poll::Pending);
            assert!(stream.watched().is_some());
            woken.0.store(0, Ordering::Relaxed);
            peer.write_all(b"x").unwrap();
            await_waker(&woken).await;
            assert_eq!(poll_read(&mut stream, &woken), Poll::Ready(1));
            until_it_gathers(&mut stream, &mut peer).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_must_not_wait_is_not_gathered_nor_any_longer() {
        let (mut stream, mut peer) = stream().await;
        let may_wait = Arc::new(AtomicBool::new(false));
        stream.allow(may_wait.clone());
        take(&mut stream, &mut peer, 4 * MUCH / PIECE, PIECE, Duration::ZERO).await;
        assert!(stream.watched().is_some());
        may_wait.store(true, Ordering::Relaxed);
        until_it_gathers(&mut stream, &mut peer).await;
        may_wait.store(false, Ordering::Relaxed);
        take(&mut stream, &mut peer, 1, 3 * PIECE, Duration::ZERO).await;
        assert_eq!(poll_read(&mut stream, &Arc::default()), Poll::Pending);
        assert!(stream.watched().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_slow_or_large_or_was_not_allowed_is_read_as_it_comes() {
        let slow = SHORTLY / (MUCH / PIECE) as u32;
        for (is_allowed, size, apart) in [(false, PIECE, Duration::ZERO), (true, 2 * LARGE, Duration::ZERO), (true, PIECE, slow)] {
            let (mut stream, mut peer) = stream().await;
            if is_allowed {
                stream.allow(Arc::new(true.into()));
            }
            take(&mut stream, &mut peer, 4 * MUCH / PIECE, size, apart).await;
            assert!(stream.watched().is_some(), "{is_allowed} {size} {apart:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn writes_pass_at_once_and_one_that_must_wait_is_told_of_room() {
        let (mut stream, mut peer) = gathering().await;
        let woken = Arc::new(Woken::default());
        let write = |stream: &mut Gather, bytes: &[u8]| {
            Pin::new(stream).poll_write(&mut Context::from_waker(&Waker::from(woken.clone())), bytes).map(Result::unwrap)
        };
        assert_eq!(write(&mut stream, b"key"), Poll::Ready(3));
        let mut key = [0; 3];
        peer.read_exact(&mut key).unwrap();
        assert_eq!((&key, stream.watched().is_some()), (b"key", false));
        let mut written = 0;
        let block = vec![b'x'; 1 << 20];
        assert_eq!(poll_read(&mut stream, &woken), Poll::Pending);
        while let Poll::Ready(some) = write(&mut stream, &block) {
            written += some;
        }
        assert!(stream.watched().is_some());
        assert_ne!(woken.0.swap(0, Ordering::Relaxed), 0, "whoever reads is to look again");
        take(&mut stream, &mut peer, 4 * MUCH / PIECE, PIECE, Duration::ZERO).await;
        assert!(stream.watched().is_some(), "as long as the write waits");
        woken.0.store(0, Ordering::Relaxed);
        while written > 0 {
            written -= peer.read(&mut vec![0; written.min(1 << 20)]).unwrap();
        }
        await_waker(&woken).await;
        assert_eq!(write(&mut stream, b"key"), Poll::Ready(3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_is_met_after_what_came_before_it_and_met_again() {
        let (mut stream, mut peer) = gathering().await;
        let woken = Arc::new(Woken::default());
        peer.write_all(&[b'x'; 3 * PIECE]).unwrap();
        await_bytes(&stream, 3 * PIECE);
        drop(peer);
        let mut met = Vec::new();
        while met.len() < 3 {
            advance(2 * PAUSE).await;
            if let Poll::Ready(came) = poll_read(&mut stream, &woken) {
                met.push(came);
            }
        }
        assert_eq!(met, [3 * PIECE, 0, 0]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_shut_down_while_it_gathers_is_at_its_end_for_the_peer() {
        let (mut stream, mut peer) = gathering().await;
        poll_fn(|cx| Pin::new(&mut stream).poll_shutdown(cx)).await.unwrap();
        assert_eq!(peer.read(&mut [0; 1]).unwrap(), 0);
    }
}
