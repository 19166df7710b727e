use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use russh::server::Msg;
use russh::{Channel, ChannelStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::gauge::Gauge;

/// A jump's channel as a stream of bytes; what is taken from it is counted.
pub(super) struct JumpStream {
    stream: ChannelStream<Msg>,
    gauge: Arc<Gauge>,
}

impl JumpStream {
    pub(super) fn new(channel: Channel<Msg>, gauge: Arc<Gauge>) -> Self {
        Self { stream: channel.into_stream(), gauge }
    }

    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        if self.gauge.has_stalled(cx.waker()) {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the instance took nothing of what was sent for too long"));
        }
        Ok(())
    }
}

impl AsyncRead for JumpStream {
    /// Takes as many messages as are there and fit: what is read at once is written to the instance at once.
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let begin = buf.filled().len();
        let polled = loop {
            let before = buf.filled().len();
            let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
            let more = buf.filled().len() > before && buf.remaining() > 0;
            if !more || !matches!(polled, Poll::Ready(Ok(()))) {
                break polled;
            }
        };
        let read = buf.filled().len() - begin;
        self.gauge.take(read, read == 0 && polled.is_pending());
        // An end that was met behind the bytes is met again.
        if read > 0 { Poll::Ready(Ok(())) } else { polled }
    }
}

impl AsyncWrite for JumpStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for JumpStream {
    fn drop(&mut self) {
        self.gauge.close();
    }
}
