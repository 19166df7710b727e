use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes read at once.
const BLOCK: usize = 16 * 1024;
/// Blocks moved in one go before others have their turn.
const TURN: usize = 16;

/// Moves bytes both ways between two streams until both have ended, each end passed on as it comes.
///
/// A direction is read only when all that it brought before is written, so at most [`BLOCK`] bytes of it wait here; one that is idle holds
/// no memory.
#[derive(Default)]
pub(super) struct Relay {
    up: Way,
    down: Way,
}

#[derive(Default)]
struct Way {
    waiting: Vec<u8>,
    written: usize,
    carried: u64,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Open,
    /// The source has ended, and its end is to be passed on.
    Ending,
    Ended,
}

/// Which side a relay broke on.
#[derive(Debug)]
pub(super) enum Broken {
    Operator(io::Error),
    Instance(io::Error),
}

impl Relay {
    pub(super) fn bytes_up(&self) -> u64 {
        self.up.carried
    }

    pub(super) fn bytes_down(&self) -> u64 {
        self.down.carried
    }

    /// Both ways, to both ends.
    pub(super) async fn run<A, B>(&mut self, operator: &mut A, instance: &mut B) -> Result<(), Broken>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        poll_fn(|cx| {
            let up = self.up.poll(cx, operator, instance).map_err(|side| side.broken(Broken::Operator, Broken::Instance))?;
            let down = self.down.poll(cx, instance, operator).map_err(|side| side.broken(Broken::Instance, Broken::Operator))?;
            if up.is_ready() && down.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// What an operator that is gone sent before.
    pub(super) async fn finish_up<A, B>(&mut self, operator: &mut A, instance: &mut B)
    where
        A: AsyncRead + Unpin,
        B: AsyncWrite + Unpin,
    {
        // That the instance takes no more either is no more to be told.
        let _ = poll_fn(|cx| self.up.poll(cx, operator, instance)).await;
    }
}

enum Side {
    Source(io::Error),
    Sink(io::Error),
}

impl Side {
    fn broken(self, source: fn(io::Error) -> Broken, sink: fn(io::Error) -> Broken) -> Broken {
        match self {
            Self::Source(error) => source(error),
            Self::Sink(error) => sink(error),
        }
    }
}

impl Way {
    fn poll<R, W>(&mut self, cx: &mut Context<'_>, from: &mut R, to: &mut W) -> Poll<Result<(), Side>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..TURN {
            ready!(self.poll_write(cx, to)).map_err(Side::Sink)?;
            match self.state {
                State::Open => ready!(self.poll_read(cx, from)).map_err(Side::Source)?,
                State::Ending => {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Side::Sink)?;
                    self.state = State::Ended;
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_write<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, to: &mut W) -> Poll<io::Result<()>> {
        while let Some(rest) = self.waiting.get(self.written..).filter(|rest| !rest.is_empty()) {
            match ready!(Pin::new(&mut *to).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => (self.written, self.carried) = (self.written + n, self.carried + n as u64),
            }
        }
        if self.written > 0 {
            self.waiting.clear();
            self.written = 0;
        }
        Pin::new(to).poll_flush(cx)
    }

    fn poll_read<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, from: &mut R) -> Poll<io::Result<()>> {
        let mut block = [const { MaybeUninit::uninit() }; BLOCK];
        let mut read = ReadBuf::uninit(&mut block);
        if Pin::new(from).poll_read(cx, &mut read)?.is_pending() {
            self.waiting = Vec::new();
            return Poll::Pending;
        }
        match read.filled() {
            [] => self.state = State::Ending,
            filled => self.waiting.extend_from_slice(filled),
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn each_way_ends_by_itself_and_everything_arrives() {
        let (mut operator, mut left) = duplex(1000);
        let (mut right, mut instance) = duplex(1000);
        let bytes: Vec<u8> = (0..300_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let sent = bytes.clone();
        let relayed = tokio::spawn(async move {
            let mut relay = Relay::default();
            relay.run(&mut left, &mut right).await.unwrap();
            (relay.bytes_up(), relay.bytes_down(), relay.up.waiting.capacity() + relay.down.waiting.capacity())
        });
        let operators = tokio::spawn(async move {
            operator.write_all(&sent).await.unwrap();
            operator.shutdown().await.unwrap();
            let mut got = Vec::new();
            operator.read_to_end(&mut got).await.unwrap();
            got
        });
        let mut got = Vec::new();
        instance.read_to_end(&mut got).await.unwrap();
        assert!(got == bytes);
        // The other way is still open.
        instance.write_all(b"answer").await.unwrap();
        instance.shutdown().await.unwrap();
        assert_eq!(operators.await.unwrap(), b"answer");
        let (up, down, _) = relayed.await.unwrap();
        assert_eq!((up, down), (300_000, 6));
    }

    #[tokio::test]
    async fn a_side_that_takes_nothing_stops_its_own_way_alone() {
        let (mut operator, mut left) = duplex(64 * 1024);
        let (mut right, mut instance) = duplex(1000);
        let relayed = tokio::spawn(async move {
            let mut relay = Relay::default();
            let ended = relay.run(&mut left, &mut right).await;
            (relay.up.waiting.len(), ended)
        });
        // Nobody reads at the instance; what it says itself arrives all the same.
        operator.write_all(&vec![7; 60_000]).await.unwrap();
        instance.write_all(b"said").await.unwrap();
        let mut got = [0; 4];
        operator.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"said");
        drop(instance);
        let (waiting, ended) = relayed.await.unwrap();
        assert!(waiting <= BLOCK && matches!(ended, Err(Broken::Instance(_))), "{waiting} {ended:?}");
    }
}
