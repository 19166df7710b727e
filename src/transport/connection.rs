use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::io::poll_read_buf;

use super::{Buffer, Leg, Received, TransportError};

/// Bytes asked of the stream at once: few to begin with, for most sessions never move more, and many for those that fill what they ask for.
const FIRST_READ: usize = 4 * 1024;
const MOST_READ: usize = 64 * 1024;

/// A leg on its stream. Every method may be cancelled: what was read or is to be written stays in the leg.
pub struct Connection<S> {
    pub leg: Leg,
    stream: S,
    scratch: Buffer,
    /// What the next read asks for.
    ask: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    pub fn new(leg: Leg, stream: S) -> Self {
        Self { leg, stream, scratch: Buffer::default(), ask: FIRST_READ }
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Reads more from the peer; `false` when it has closed its side.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, TransportError>> {
        let received = self.leg.received();
        received.reserve(self.ask);
        let room = received.capacity() - received.len();
        let n = ready!(poll_read_buf(Pin::new(&mut self.stream), cx, received))?;
        if n == room {
            self.ask = (self.ask * 4).min(MOST_READ);
        }
        Poll::Ready(Ok(n > 0))
    }

    /// Writes what can be written; ready when nothing is left.
    pub fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), TransportError>> {
        let out = self.leg.outgoing();
        while !out.is_empty() {
            let n = ready!(Pin::new(&mut self.stream).poll_write(cx, out.unsent()))?;
            if n == 0 {
                return Poll::Ready(Err(TransportError::Closed));
            }
            out.sent(n);
        }
        Pin::new(&mut self.stream).poll_flush(cx).map_err(TransportError::Io)
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
        if more.await? { Ok(()) } else { Err(TransportError::Closed) }
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
            self.leg.received().clear();
            self.fill().await?;
        }
    }

    /// Gives idle memory back.
    pub fn release_idle_memory(&mut self) {
        self.scratch = Buffer::default();
        self.ask = FIRST_READ;
        self.leg.outgoing().release_if_empty();
        if self.leg.received().is_empty() {
            *self.leg.received() = bytes::BytesMut::new();
        }
    }
}
