use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// What a broker says first: a version, or why it takes no more.
const FIRST: usize = 64;

#[derive(Clone, Default)]
pub struct FirstWords(Arc<Mutex<Vec<u8>>>);

impl FirstWords {
    /// The limit that the broker named in place of its version.
    pub fn limit(&self) -> Option<String> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let text = String::from_utf8_lossy(&heard);
        ["Exceeded MaxStartups", "Not allowed at this time"].into_iter().find(|limit| text.contains(limit)).map(str::to_owned)
    }
}

/// A connection whose first words are kept.
pub struct Heard {
    stream: TcpStream,
    first: FirstWords,
}

impl Heard {
    pub fn new(stream: TcpStream) -> (Self, FirstWords) {
        let first = FirstWords::default();
        (Self { stream, first: first.clone() }, first)
    }
}

impl AsyncRead for Heard {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let mut first = self.first.0.lock().unwrap_or_else(PoisonError::into_inner);
        if first.len() < FIRST {
            first.extend(buf.filled().iter().skip(before).take(FIRST));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Heard {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
