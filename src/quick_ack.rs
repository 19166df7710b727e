use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::gather::Gather;

/// How long sent bytes may stay unacknowledged, and how often an idle peer is asked whether it lives.
const USER_TIMEOUT: Duration = Duration::from_secs(60);
const KEEPALIVE: Duration = Duration::from_secs(30);

/// A TCP stream that acknowledges at once while handshakes are under way.
///
/// OpenSSH keeps Nagle's algorithm on until its session starts, so each delayed acknowledgement of ours costs a login 40 ms. The kernel
/// forgets TCP_QUICKACK by itself (tcp(7)): it is set again at each of the first reads. Later it costs a packet for each key.
pub struct QuickAck {
    stream: Gather,
    reads: u8,
}

impl QuickAck {
    /// `reads`: how many the handshakes take. Also sets TCP_NODELAY, keepalive probes and TCP_USER_TIMEOUT: a vanished peer ends its
    /// session within about a minute.
    pub fn new(stream: TcpStream, reads: u8) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(2))?;
        socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
        Ok(Self { stream: Gather::new(stream), reads })
    }

    /// From now on small pieces may be read together when many come, of what `may_wait`.
    pub fn gather(&mut self, may_wait: Arc<AtomicBool>) {
        self.stream.allow(may_wait);
    }

    fn acknowledge(&mut self) {
        if self.reads > 0
            && let Some(stream) = self.stream.watched()
        {
            self.reads -= 1;
            // A hint to the kernel: without it the login is slower, nothing else.
            let _ = SockRef::from(stream).set_tcp_quickack(true);
        }
    }
}

impl AsyncRead for QuickAck {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        if polled.is_ready() {
            self.acknowledge();
        }
        polled
    }
}

impl AsyncWrite for QuickAck {
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
