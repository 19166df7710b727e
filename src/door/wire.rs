use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// How long a client may take to close its side after it was told that this one is closed.
const LINGER: Duration = Duration::from_secs(5);

/// What the SSH library is given for a socket.
///
/// It hands out again what the prelude took, drops the identification that the prelude has sent already, and fails once the login's
/// time is over, whatever is read or written meanwhile.
pub(super) struct Wire<S> {
    stream: S,
    /// What the prelude took and is still to be read.
    taken: io::Cursor<Vec<u8>>,
    /// Bytes of the library's own identification still to be dropped.
    to_drop: usize,
    deadline: Option<Pin<Box<Sleep>>>,
    authenticated: Arc<AtomicBool>,
    closing: bool,
}

impl<S> Wire<S> {
    pub(super) fn new(stream: S, taken: Vec<u8>, to_drop: usize, login_ends: Instant, authenticated: Arc<AtomicBool>) -> Self {
        Self {
            stream,
            taken: io::Cursor::new(taken),
            to_drop,
            deadline: Some(Box::pin(sleep_until(login_ends))),
            authenticated,
            closing: false,
        }
    }

    fn check_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let Some(deadline) = &mut self.deadline else { return Ok(()) };
        if !self.closing && self.authenticated.load(Ordering::Acquire) {
            self.deadline = None;
            return Ok(());
        }
        match deadline.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) if self.closing => Err(io::ErrorKind::UnexpectedEof.into()),
            Poll::Ready(()) => Err(io::Error::new(io::ErrorKind::TimedOut, "login_grace is over")),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_deadline(cx)?;
        let at = usize::try_from(self.taken.position()).unwrap_or(usize::MAX);
        let rest = self.taken.get_ref().get(at..).unwrap_or_default();
        if rest.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let now = rest.get(..buf.remaining()).unwrap_or(rest);
        buf.put_slice(now);
        let read = now.len() as u64;
        let position = self.taken.position().saturating_add(read);
        self.taken.set_position(position);
        if position == self.taken.get_ref().len() as u64 {
            self.taken = io::Cursor::default();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check_deadline(cx)?;
        if self.to_drop > 0 {
            let dropped = self.to_drop.min(buf.len());
            self.to_drop -= dropped;
            return Poll::Ready(Ok(dropped));
        }
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// From here on a deadline runs again: the library waits for the client to close, without one.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            self.closing = true;
            self.deadline = Some(Box::pin(sleep(LINGER)));
        }
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_is_read_again_and_what_was_sent_is_not_sent_again() {
        let (near, mut far) = tokio::io::duplex(64);
        let login_ends = Instant::now() + Duration::from_secs(20);
        let mut wire = Wire::new(near, b"SSH-2.0-x\r\nab".to_vec(), 4, login_ends, Arc::default());
        far.write_all(b"cd").await.unwrap();
        let mut read = [0; 15];
        wire.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"SSH-2.0-x\r\nabcd");
        wire.write_all(b"id\r\nrest").await.unwrap();
        let mut sent = [0; 4];
        far.read_exact(&mut sent).await.unwrap();
        assert_eq!(&sent, b"rest");
    }

    #[tokio::test(start_paused = true)]
    async fn the_login_ends_in_time_whatever_comes_and_a_proven_operator_stays() {
        let (near, mut far) = tokio::io::duplex(64);
        let authenticated = Arc::new(AtomicBool::new(false));
        let login_ends = Instant::now() + Duration::from_secs(20);
        let mut wire = Wire::new(near, Vec::new(), 0, login_ends, authenticated.clone());
        let flood = tokio::spawn(async move {
            while far.write_all(&[2]).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        let error = loop {
            if let Err(error) = wire.read_u8().await {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(Instant::now(), login_ends);
        authenticated.store(true, Ordering::Release);
        wire.read_u8().await.unwrap();
        // Closing brings its own deadline.
        wire.shutdown().await.unwrap();
        let closed = Instant::now();
        while wire.read_u8().await.is_ok() {}
        assert_eq!(closed.elapsed(), LINGER);
        drop(wire);
        flood.await.unwrap();
    }
}
