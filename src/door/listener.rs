use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::admission::{Admission, ConnectionPermit, StartupPermit};

/// Where connections come from; a test can put something else in a socket's place.
pub(super) trait Accept {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>>;
}

impl Accept for TcpListener {
    fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
        Self::poll_accept(self, cx)
    }
}

/// A connection that was let in, on its permits.
pub(super) struct Admitted {
    pub(super) socket: TcpStream,
    pub(super) source: SocketAddr,
    pub(super) connection: ConnectionPermit,
    pub(super) startup: StartupPermit,
}

/// The longest pause after an `accept` that failed for want of descriptors or memory.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
const BACKOFF_MIN: Duration = Duration::from_millis(20);

/// Accepts on all the listeners until `shutdown`, and closes them.
///
/// **Invariant**: permits come before `accept`, so no socket is open that nothing counts; no error of `accept` ends the loop.
pub(super) async fn run<L: Accept>(
    listeners: Vec<L>,
    admission: &Admission,
    shutdown: &CancellationToken,
    mut serve: impl FnMut(Admitted),
) {
    let mut backoff = BACKOFF_MIN;
    let mut first = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            accepted = accept(&listeners, &mut first, admission) => accepted,
        };
        match accepted {
            Some(Ok((entry, (socket, source)))) => {
                backoff = BACKOFF_MIN;
                match admission.admit(entry, source.ip()) {
                    Some((connection, startup)) => serve(Admitted { socket, source, connection, startup }),
                    None => tracing::debug!(%source, "refused: too many connections from there that have not authenticated"),
                }
            }
            // The peer was gone before it was served: the next may be waiting already.
            Some(Err(error)) if is_the_peers(&error) => tracing::debug!(%error, "failed to accept a connection"),
            Some(Err(error)) => {
                tracing::warn!(%error, pause_ms = backoff.as_millis(), "failed to accept a connection");
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
                }
            }
            None => return,
        }
    }
}

type Entered = (super::admission::Entry, (TcpStream, SocketAddr));

async fn accept<L: Accept>(listeners: &[L], first: &mut usize, admission: &Admission) -> Option<io::Result<Entered>> {
    let entry = admission.entry().await?;
    let accepted = std::future::poll_fn(|cx| poll_any(listeners, first, cx)).await;
    Some(accepted.map(|accepted| (entry, accepted)))
}

/// Begins one listener further each time, so that a busy one does not starve the others.
fn poll_any<L: Accept>(listeners: &[L], first: &mut usize, cx: &mut Context<'_>) -> Poll<io::Result<(TcpStream, SocketAddr)>> {
    let turn = first.checked_rem(listeners.len()).unwrap_or(0);
    let (before, from) = listeners.split_at(turn);
    for listener in from.iter().chain(before) {
        if let Poll::Ready(accepted) = listener.poll_accept(cx) {
            *first = turn + 1;
            return Poll::Ready(accepted);
        }
    }
    Poll::Pending
}

fn is_the_peers(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted)
}
