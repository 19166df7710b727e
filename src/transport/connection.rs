use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Buffer, Leg, Received, TransportError};

/// Bytes asked of the stream at once: few to begin with, for most sessions never move more, and for those that fill what they ask for as
/// many as OpenSSH's largest packet has. With more of them they leave the processor's cache before they are sent.
const FIRST_READ: usize = 4 * 1024;
const MOST_READ: usize = 36 * 1024;

/// What reading came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// Bytes came, and more may be there.
    Some,
    /// All that was there, and our waker is left for more.
    All,
    /// The peer has closed its side.
    Closed,
}

/// A leg on its stream. Every method may be cancelled: what was read or is to be written stays in the leg.
pub struct Connection<S> {
    pub leg: Leg,
    stream: S,
    scratch: Buffer,
    /// What the next read asks for.
    ask: usize,
    /// Bytes that may still be read.
    left: u64,
    /// Nothing was written since the stream was flushed.
    is_flushed: bool,
    /// Met behind bytes, to be told after them.
    broken: Option<TransportError>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn new(leg: Leg, stream: S) -> Self {
        Self { leg, stream, scratch: Buffer::default(), ask: FIRST_READ, left: u64::MAX, is_flushed: true, broken: None }
    }

    pub fn stream(&mut self) -> &mut S {
        &mut self.stream
    }

    /// So much may be read from now on; more is an error.
    pub fn limit(&mut self, bytes: u64) {
        self.left = bytes;
    }

    /// Reads more from the peer. Pending when nothing was there.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, TransportError>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        let n = ready!(self.poll_read(cx, self.ask))?;
        if n == 0 {
            return Poll::Ready(Ok(Filled::Closed));
        }
        if n == self.ask {
            self.ask = (self.ask * 4).min(MOST_READ);
            return Poll::Ready(Ok(Filled::Some));
        }
        // Most often that was all. To find it out here spares the caller a round; an end that is met now is met again.
        Poll::Ready(Ok(match self.poll_read(cx, self.ask - n) {
            Poll::Pending => Filled::All,
            Poll::Ready(more) => {
                self.broken = more.err();
                Filled::Some
            }
        }))
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, most: usize) -> Poll<Result<usize, TransportError>> {
        let received = self.leg.received();
        let start = received.tail();
        let mut room = ReadBuf::new(received.grow(most));
        let read = Pin::new(&mut self.stream).poll_read(cx, &mut room);
        let n = room.filled().len();
        received.truncate(start + n);
        ready!(read)?;
        let Some(left) = self.left.checked_sub(n as u64) else { return Poll::Ready(Err(TransportError::Flood)) };
        self.left = left;
        Poll::Ready(Ok(n))
    }

    /// Writes what can be written; ready when nothing is left.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let out = self.leg.outgoing();
        if out.is_empty() && self.is_flushed {
            return Poll::Ready(Ok(()));
        }
        self.is_flushed = false;
        while !out.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, out.unsent()))?;
            if n == 0 {
                return Poll::Ready(Err(TransportError::Closed));
            }
            out.sent(n);
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.is_flushed = true;
        Poll::Ready(Ok(()))
    }

    pub async fn drain(&mut self) -> Result<(), TransportError> {
        poll_fn(|cx| self.poll_drain(cx)).await
    }

    async fn fill(&mut self) -> Result<(), TransportError> {
        // Both at once: a peer that does not read must not keep us from reading it.
        let more = poll_fn(|cx| {
            if let Poll::Ready(Err(error)) = self.poll_drain(cx) {
                return Poll::Ready(Err(error));
            }
            self.poll_fill(cx)
        });
        if more.await? == Filled::Closed { Err(TransportError::Closed) } else { Ok(()) }
    }

    /// Reads until the peer's version line is there.
    pub async fn identify(&mut self) -> Result<(), TransportError> {
        while self.leg.peer_version().is_none() {
            if self.leg.receive(&mut self.scratch)? == Received::NeedMore {
                self.fill().await?;
            }
        }
        Ok(())
    }

    /// Reads until the peer's KEXINIT has come, so that a server may offer one unasked if it does not.
    pub async fn await_kexinit(&mut self) -> Result<(), TransportError> {
        self.identify().await?;
        while !self.leg.is_exchanging() {
            if self.leg.receive(&mut self.scratch)? == Received::NeedMore {
                self.fill().await?;
            }
        }
        Ok(())
    }

    /// Drives the first key exchange to its end. Messages behind it stay unread.
    pub async fn establish(&mut self) -> Result<(), TransportError> {
        while !self.leg.is_established() {
            if self.leg.receive(&mut self.scratch)? == Received::NeedMore {
                self.fill().await?;
            }
        }
        Ok(())
    }

    /// The next message of the layers above.
    pub async fn next(&mut self) -> Result<Vec<u8>, TransportError> {
        loop {
            match self.leg.receive(&mut self.scratch)? {
                Received::NeedMore => self.fill().await?,
                Received::Transport => {}
                Received::Message { start, len } => {
                    let message = self.scratch.since(start).get(Leg::HEADER..Leg::HEADER + len).unwrap_or_default().to_vec();
                    self.scratch.truncate(0);
                    return Ok(message);
                }
            }
        }
    }

    /// Writes the last words and reads past everything until the peer closes: closing first could take its chance to read them.
    pub async fn part(&mut self) -> Result<(), TransportError> {
        self.drain().await?;
        loop {
            self.leg.received().truncate(0);
            self.fill().await?;
        }
    }

    /// Gives idle memory back.
    pub fn release_idle_memory(&mut self) {
        self.scratch = Buffer::default();
        self.ask = FIRST_READ;
        self.leg.outgoing().release_if_empty();
        self.leg.received().release_if_empty();
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::task::Waker;

    use tokio::io::ReadBuf;

    use super::*;
    use crate::transport::Preferences;

    /// What each read gives, then nothing.
    struct Script(Vec<io::Result<usize>>);

    impl AsyncRead for Script {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            match self.0.pop() {
                Some(Ok(n)) => buf.put_slice(&vec![b'x'; n.min(buf.remaining())]),
                Some(Err(error)) => return Poll::Ready(Err(error)),
                None => return Poll::Pending,
            }
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncWrite for Script {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// What reading comes to until nothing is there, or the connection has closed.
    fn fills(connection: &mut Connection<Script>) -> Vec<Poll<Result<Filled, TransportError>>> {
        let mut came = Vec::new();
        loop {
            came.push(connection.poll_fill(&mut Context::from_waker(Waker::noop())));
            if matches!(came.last(), Some(Poll::Pending | Poll::Ready(Ok(Filled::Closed) | Err(TransportError::Io(_))))) {
                return came;
            }
        }
    }

    #[test]
    fn a_read_says_whether_that_was_all_and_tells_an_end_after_what_came_before_it() {
        let whole = usize::MAX;
        for (reads, told) in [
            (vec![], "[Pending]"),
            (vec![Ok(5)], "[Ready(Ok(All)), Pending]"),
            (vec![Ok(5), Ok(7)], "[Ready(Ok(Some)), Pending]"),
            (vec![Ok(whole), Ok(5)], "[Ready(Ok(Some)), Ready(Ok(All)), Pending]"),
            (vec![Ok(5), Ok(0), Ok(0)], "[Ready(Ok(Some)), Ready(Ok(Closed))]"),
            (vec![Ok(5), Err(io::ErrorKind::ConnectionReset.into())], "[Ready(Ok(Some)), Ready(Err(Io(Kind(ConnectionReset))))]"),
        ] {
            let leg = Leg::patient_client(Preferences::modern(), "SSH-2.0-a");
            let mut connection = Connection::new(leg, Script(reads.into_iter().rev().collect()));
            assert_eq!(format!("{:?}", fills(&mut connection)), told);
        }
    }

    #[test]
    fn what_comes_beyond_the_limit_is_an_error_and_without_one_nothing_is() {
        for (limit, told) in [(11, "[Ready(Ok(Some)), Ready(Err(Flood)), Pending]"), (12, "[Ready(Ok(Some)), Pending]")] {
            let leg = Leg::patient_client(Preferences::modern(), "SSH-2.0-a");
            let mut connection = Connection::new(leg, Script(vec![Ok(7), Ok(5)]));
            connection.limit(limit);
            assert_eq!(format!("{:?}", fills(&mut connection)), told);
            connection.limit(u64::MAX);
            connection.stream.0 = vec![Ok(5)];
            assert_eq!(format!("{:?}", fills(&mut connection)), "[Ready(Ok(All)), Pending]");
        }
    }
}
