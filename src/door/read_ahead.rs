use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::quick_ack::QuickAck;

/// Bytes taken beyond what was asked for.
const AHEAD: usize = 4 * 1024;

/// A socket that is read with fewer calls.
///
/// The library asks for a packet's length, then for the rest of it. What follows comes with the same call: a packet's body goes where the
/// library wants it, without a copy, and the begin of the next one is kept here, so that its length costs no call of its own.
pub(super) struct ReadAhead {
    stream: QuickAck,
    /// Holds no memory while nothing moves.
    ahead: Vec<u8>,
    taken: usize,
    end: usize,
}

impl ReadAhead {
    pub(super) fn new(stream: QuickAck) -> Self {
        Self { stream, ahead: Vec::new(), taken: 0, end: 0 }
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let waiting = this.ahead.get(this.taken..this.end).unwrap_or_default();
        if !waiting.is_empty() {
            let now = waiting.get(..buf.remaining()).unwrap_or(waiting);
            buf.put_slice(now);
            this.taken += now.len();
            return Poll::Ready(Ok(()));
        }
        (this.taken, this.end) = (0, 0);
        // Asked first: after each packet there is a try in vain, for which no memory need be taken and wiped.
        let polled = match this.stream.get_ref().poll_read_ready(cx)? {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                this.ahead.resize(AHEAD, 0);
                this.stream.poll_read_both(cx, buf.initialize_unfilled(), &mut this.ahead)
            }
        };
        if polled.is_pending() {
            this.ahead = Vec::new();
        }
        let read = ready!(polled)?;
        let room = buf.remaining();
        this.end = read.saturating_sub(room);
        buf.advance(read.min(room));
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
        for size in [4, 1, 4096, 4, 4095, 4, 4097, 4, 40_000, 3].into_iter().cycle() {
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
        assert_eq!(near.ahead.len(), AHEAD);
    }

    #[tokio::test]
    async fn a_silent_stream_holds_no_memory() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _far = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut near = ReadAhead::new(QuickAck::new(listener.accept().await.unwrap().0).unwrap());
        assert!(tokio::time::timeout(std::time::Duration::from_millis(20), near.read_u8()).await.is_err());
        assert_eq!(near.ahead.capacity(), 0);
    }
}
