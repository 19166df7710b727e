use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Reads after which a login is over, with room.
const READS: u32 = 32;
/// A host that is gone is noticed after this long, and so is a peer that takes nothing of what is sent to it.
const GONE_AFTER: Duration = Duration::from_secs(300);

/// A socket that acknowledges its first reads at once.
///
/// OpenSSH keeps Nagle's algorithm on until its session starts, so a delayed acknowledgement here costs a login about 40 ms, twice. The
/// kernel drops out of the quick mode by itself, so it is asked anew after each of the first reads.
#[derive(Debug)]
pub(super) struct QuickAck {
    socket: TcpStream,
    reads_left: u32,
}

impl QuickAck {
    /// Takes over an accepted socket and sets what it needs: no Nagle, keepalive, a bound on unacknowledged data.
    pub(super) fn new(socket: TcpStream) -> io::Result<Self> {
        let options = SockRef::from(&socket);
        options.set_tcp_nodelay(true)?;
        options.set_tcp_quickack(true)?;
        options.set_tcp_user_timeout(Some(GONE_AFTER))?;
        options.set_tcp_keepalive(
            &TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(15)).with_retries(8),
        )?;
        Ok(Self { socket, reads_left: READS })
    }
}

impl AsyncRead for QuickAck {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_read(cx, buf))?;
        if self.reads_left > 0 {
            self.reads_left -= 1;
            // It only saves time: a connection that cannot have it still works.
            let _ = SockRef::from(&self.socket).set_tcp_quickack(true);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for QuickAck {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
