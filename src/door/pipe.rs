use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use russh::server::Msg;
use russh::{Channel, ChannelMsg, ChannelReadHalf, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::ReusableBoxFuture;

use super::gauge::Gauge;

/// Bytes of one write that go into one message.
const WRITE_MAX: usize = 32 << 10;
/// How long a close may wait for the connection's loop.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(300);

type Read = ReusableBoxFuture<'static, (ChannelReadHalf, Option<ChannelMsg>)>;
type WriteHalf = Arc<ChannelWriteHalf<Msg>>;

/// A jump's channel as a stream of bytes.
///
/// Reading takes the messages straight from the channel's queue and tells the [`Gauge`]; writing honours the client's window. A write that
/// was begun and could not be finished is finished by the next call, which must bring the same bytes: a caller that keeps its buffer until
/// it is told how much was taken does that by itself. Shutting down sends EOF; dropping closes the channel.
pub(super) struct Pipe {
    gauge: Arc<Gauge>,
    read: Read,
    chunk: Bytes,
    /// EOF or the end of the channel was read, so `read` must not be polled again.
    read_ended: bool,
    write: WriteHalf,
    writing: ReusableBoxFuture<'static, bool>,
    /// Bytes that `writing` is about to hand over.
    in_flight: Option<usize>,
    eof_sent: bool,
    /// Counts the channels of this connection that this side closed first: the library keeps a little for each until the connection ends.
    left_open: Arc<AtomicUsize>,
}

impl Pipe {
    pub(super) fn new(channel: Channel<Msg>, gauge: Arc<Gauge>, left_open: Arc<AtomicUsize>) -> Self {
        let (read, write) = channel.split();
        Self {
            gauge,
            read: ReusableBoxFuture::new(next(read)),
            chunk: Bytes::new(),
            read_ended: false,
            write: Arc::new(write),
            writing: ReusableBoxFuture::new(std::future::ready(true)),
            in_flight: None,
            eof_sent: false,
            left_open,
        }
    }

    /// Finishes the write that is under way.
    fn poll_written(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let Some(bytes) = self.in_flight else { return Poll::Ready(Ok(0)) };
        self.gauge.register_writer(cx.waker());
        if self.gauge.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let written = ready!(self.writing.poll(cx));
        self.in_flight = None;
        Poll::Ready(if written { Ok(bytes) } else { Err(io::ErrorKind::BrokenPipe.into()) })
    }
}

async fn next(mut read: ChannelReadHalf) -> (ChannelReadHalf, Option<ChannelMsg>) {
    let message = read.wait().await;
    (read, message)
}

async fn send(write: WriteHalf, bytes: Bytes) -> bool {
    write.data_bytes(bytes).await.is_ok()
}

impl AsyncRead for Pipe {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.chunk.is_empty() {
            if self.gauge.has_stalled() {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the session took nothing for too long")));
            }
            if self.read_ended || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let (read, message) = ready!(self.read.poll(cx));
            match message {
                Some(ChannelMsg::Data { data }) => {
                    self.gauge.take(data.len());
                    self.chunk = data;
                    self.read.set(next(read));
                }
                Some(ChannelMsg::Eof) => {
                    self.read.set(next(read));
                    self.read_ended = true;
                }
                Some(ChannelMsg::Close) => {
                    self.read_ended = true;
                    self.read.set(std::future::ready((read, None)));
                    self.gauge.close();
                }
                None => {
                    self.read_ended = true;
                    self.read.set(std::future::ready((read, None)));
                    self.gauge.close();
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the operator's connection ended")));
                }
                Some(ChannelMsg::WindowAdjusted { .. }) => {
                    self.gauge.take(0);
                    self.read.set(next(read));
                }
                // Nothing else has a meaning on a direct-tcpip channel (RFC 4254, 7.2).
                Some(_) => self.read.set(next(read)),
            }
        }
        let now = self.chunk.len().min(buf.remaining());
        buf.put_slice(self.chunk.get(..now).unwrap_or_default());
        self.chunk.advance(now);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if self.eof_sent {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        if self.in_flight.is_none() {
            let now = buf.get(..WRITE_MAX).unwrap_or(buf);
            let write = self.write.clone();
            self.writing.set(send(write, Bytes::copy_from_slice(now)));
            self.in_flight = Some(now.len());
        }
        self.poll_written(cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_written(cx).map_ok(|_| ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_written(cx))?;
        if !self.eof_sent {
            let write = self.write.clone();
            self.writing.set(async move { write.eof().await.is_ok() });
            self.in_flight = Some(0);
            self.eof_sent = true;
        }
        self.poll_written(cx).map_ok(|_| ())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // When the client has closed the channel, the library has answered that.
        if self.gauge.is_closed() && !self.gauge.has_stalled() {
            return;
        }
        // The loop must not wait for a session that is gone.
        self.gauge.close();
        self.left_open.fetch_add(1, Ordering::Relaxed);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (write, eof_sent) = (self.write.clone(), self.eof_sent);
        // At once: OpenSSH's `ssh -W` ends only when its channel is closed, and does not close it first.
        runtime.spawn(tokio::time::timeout(CLOSE_TIMEOUT, async move {
            if eof_sent || write.eof().await.is_ok() {
                let _ = write.close().await;
            }
        }));
    }
}
