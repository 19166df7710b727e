use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Bytes that are read of a peer before its operator is proven. A login takes some kilobytes; what takes more is a flood, and each of its
/// packets costs more than a place.
const UNPROVEN: usize = 512 * 1024;
/// Of the error that ends a flood.
pub(super) const FLOOD: io::ErrorKind = io::ErrorKind::QuotaExceeded;

/// A connection's stream with its ends: until its operator is proven one wall-clock deadline, which no traffic resets, and a bound to that
/// traffic; and the stop of the door.
pub(super) struct Guarded<S> {
    stream: S,
    /// `None` once the operator is proven.
    deadline: Option<Pin<Box<Sleep>>>,
    read: usize,
    proven: Arc<AtomicBool>,
    stop: CancellationToken,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
    /// What `stopped` will wake.
    waker: Option<Waker>,
}

impl<S> Guarded<S> {
    /// `proven` is set by whoever proves the operator.
    pub(super) fn new(stream: S, deadline: Instant, proven: Arc<AtomicBool>, stop: CancellationToken) -> Self {
        let stopped = Box::pin(stop.clone().cancelled_owned());
        Self { stream, deadline: Some(Box::pin(sleep_until(deadline))), read: 0, proven, stop, stopped, waker: None }
    }

    /// Also leaves the waker, so that an end comes though nothing moves.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.deadline.is_some() && self.proven.load(Ordering::Relaxed) {
            self.deadline = None;
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.as_mut().poll(cx).is_ready()
        {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the login took longer than login_grace"));
        }
        // A waker that is left stays there: it is left once, not at each read and write.
        if self.waker.as_ref().is_none_or(|left| !left.will_wake(cx.waker())) && self.stopped.as_mut().poll(cx).is_pending() {
            self.waker = Some(cx.waker().clone());
        }
        match self.stop.is_cancelled() {
            true => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the broker stops")),
            false => Ok(()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        if self.deadline.is_some() && self.read > UNPROVEN {
            return Poll::Ready(Err(io::Error::new(FLOOD, "too much was sent before the login")));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        self.read = self.read.saturating_add(buf.filled().len() - before);
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check(cx)?;
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
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn traffic_does_not_move_the_deadline_but_proof_lifts_it() {
        for proves in [false, true] {
            let (near, mut far) = tokio::io::duplex(64);
            let proven = Arc::new(AtomicBool::new(false));
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut guarded = Guarded::new(near, deadline, proven.clone(), CancellationToken::new());
            let talk = tokio::spawn(async move {
                for _ in 0..30 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    if far.write_all(b"x").await.is_err() {
                        return;
                    }
                }
            });
            proven.store(proves, Ordering::Relaxed);
            let mut got = Vec::new();
            let ended = guarded.read_to_end(&mut got).await;
            assert_eq!(ended.is_ok(), proves);
            assert_eq!(got.len(), if proves { 30 } else { 19 });
            talk.abort();
        }
    }

    #[tokio::test]
    async fn a_flood_before_the_proof_ends_it_and_after_the_proof_is_traffic() {
        for proves in [false, true] {
            let (near, mut far) = tokio::io::duplex(64 * 1024);
            let proven = Arc::new(AtomicBool::new(proves));
            let deadline = Instant::now() + Duration::from_secs(20);
            let mut guarded = Guarded::new(near, deadline, proven, CancellationToken::new());
            let flood = tokio::spawn(async move { far.write_all(&vec![0; 2 * UNPROVEN]).await });
            let mut got = Vec::new();
            let ended = guarded.read_to_end(&mut got).await;
            assert_eq!(ended.is_ok(), proves);
            assert_eq!(got.len() == 2 * UNPROVEN, proves);
            assert!(proves || got.len() <= UNPROVEN + 64 * 1024);
            drop(guarded);
            let _ = flood.await;
        }
    }

    #[tokio::test]
    async fn the_stop_ends_a_silent_connection() {
        let (near, _far) = tokio::io::duplex(64);
        let stop = CancellationToken::new();
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut guarded = Guarded::new(near, deadline, Arc::default(), stop.clone());
        let reading = tokio::spawn(async move { guarded.read_u8().await });
        stop.cancel();
        assert!(reading.await.unwrap().is_err());
    }
}
