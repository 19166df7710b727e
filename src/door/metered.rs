use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are read of a peer before its operator is proven. A login takes some kilobytes; what takes more is a flood, and each of its
/// packets costs more than a place.
const UNPROVEN: usize = 512 * 1024;
/// Of the error that ends a flood.
pub(super) const FLOOD: io::ErrorKind = io::ErrorKind::QuotaExceeded;

/// A connection's stream with a bound to what comes of it until its operator is proven.
pub(super) struct Metered<S> {
    stream: S,
    /// What may still come.
    left: Option<usize>,
}

impl<S> Metered<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, left: Some(UNPROVEN) }
    }

    /// From now on it is traffic.
    pub(super) fn lift(&mut self) {
        self.left = None;
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Some(left) = self.left else { return Pin::new(&mut self.stream).poll_read(cx, buf) };
        if left == 0 {
            return Poll::Ready(Err(io::Error::new(FLOOD, "too much was sent before the login")));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.left = Some(left.saturating_sub(buf.filled().len() - before));
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
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

    use super::*;

    #[tokio::test]
    async fn a_flood_before_the_proof_ends_it_and_after_the_proof_is_traffic() {
        for proves in [false, true] {
            let (near, mut far) = tokio::io::duplex(64 * 1024);
            let mut metered = Metered::new(near);
            if proves {
                metered.lift();
            }
            let flood = tokio::spawn(async move { far.write_all(&vec![0; 2 * UNPROVEN]).await });
            let mut got = Vec::new();
            let ended = metered.read_to_end(&mut got).await;
            assert_eq!(ended.is_ok(), proves);
            assert_eq!(got.len() == 2 * UNPROVEN, proves);
            assert!(proves || got.len() <= UNPROVEN + 64 * 1024);
            drop(metered);
            let _ = flood.await;
        }
    }
}
