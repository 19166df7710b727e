use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::quick_ack::QuickAck;

/// Bytes taken beyond what was asked for.
const AHEAD: usize = 512;
/// Who asks for no more asks for a packet's length.
const LENGTH: usize = 16;

/// A socket that is read with fewer calls.
///
/// The library asks for a packet's length, then for the rest of it. What follows comes with the same call: a packet's body goes where the
/// library wants it, without a copy, and the begin of the next one is kept here, so that its length costs no call of its own.
pub(super) struct ReadAhead {
    stream: QuickAck,
    ahead: Box<[u8; AHEAD]>,
    taken: usize,
    end: usize,
}

impl ReadAhead {
    pub(super) fn new(stream: QuickAck) -> Self {
        Self { stream, ahead: Box::new([0; AHEAD]), taken: 0, end: 0 }
    }

    /// What waits here, as far as there is room for it.
    fn take(&mut self, buf: &mut ReadBuf<'_>) {
        let waiting = self.ahead.get(self.taken..self.end).unwrap_or_default();
        let now = waiting.get(..buf.remaining()).unwrap_or(waiting);
        buf.put_slice(now);
        self.taken += now.len();
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.taken == this.end && buf.remaining() > LENGTH {
            let read = ready!(this.stream.poll_read_both(cx, buf.initialize_unfilled(), &mut this.ahead[..]))?;
            let room = buf.remaining();
            (this.taken, this.end) = (0, read.saturating_sub(room));
            buf.advance(read.min(room));
            return Poll::Ready(Ok(()));
        }
        if this.taken == this.end && buf.remaining() > 0 {
            let mut ahead = ReadBuf::new(&mut this.ahead[..]);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut ahead))?;
            (this.taken, this.end) = (0, ahead.filled().len());
        }
        this.take(buf);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_or_moved_whatever_is_asked_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = ReadAhead::new(QuickAck::new(listener.accept().await.unwrap().0).unwrap());
        let sent: Vec<u8> = (0..3_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let writing = tokio::spawn({
            let sent = sent.clone();
            async move {
                for (at, portion) in sent.chunks(10_007).enumerate() {
                    far.write_all(portion).await.unwrap();
                    if at % 32 == 0 {
                        tokio::task::yield_now().await;
                    }
                }
            }
        });
        let mut got = Vec::new();
        // As the library asks: a length, then a body; some of them longer than what is read ahead, some not.
        let bodies = [4, 1, 4096, 4, 4095, 4, 4097, 4, 40_000, 3];
        let edges = [AHEAD, 4, AHEAD - 1, 4, AHEAD + 1, LENGTH, LENGTH + 1];
        for size in bodies.into_iter().chain(edges).cycle() {
            let mut portion = vec![0; size.min(sent.len() - got.len())];
            near.read_exact(&mut portion).await.unwrap();
            got.extend(portion);
            if got.len() == sent.len() {
                break;
            }
        }
        assert!(got == sent);
        writing.await.unwrap();
        assert_eq!(near.read(&mut [0; 8]).await.unwrap(), 0);
    }
}
