use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A stream that takes and gives as many bytes at a time as its pattern says, and at 0 none for now.
pub(super) struct Choppy<S> {
    stream: S,
    reads: Pattern,
    writes: Pattern,
}

/// Goes round for ever. It must not be all zeros.
#[derive(Debug, Clone)]
struct Pattern {
    chops: Vec<usize>,
    at: usize,
    /// Whether bytes moved since the last pause: a stream at rest must let its task rest too.
    moved: bool,
}

impl Pattern {
    fn next(&mut self, cx: &Context<'_>) -> Poll<usize> {
        loop {
            self.at = (self.at + 1) % self.chops.len();
            match self.chops[self.at] {
                0 if std::mem::take(&mut self.moved) => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                0 => {}
                n => return Poll::Ready(n),
            }
        }
    }
}

impl<S> Choppy<S> {
    pub(super) fn new(stream: S, chops: &[usize]) -> Self {
        let pattern = Pattern { chops: chops.to_vec(), at: 0, moved: false };
        Self { stream, reads: pattern.clone(), writes: pattern }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Choppy<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let n = std::task::ready!(self.reads.next(cx)).min(buf.remaining());
        let mut bytes = vec![0; n];
        let mut few = ReadBuf::new(&mut bytes);
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut few))?;
        self.reads.moved = true;
        buf.put_slice(few.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Choppy<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let n = std::task::ready!(self.writes.next(cx)).min(buf.len());
        let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, &buf[..n]));
        self.writes.moved = true;
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
