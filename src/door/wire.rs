use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::channels::{Channels, Event, HIGH_WATER};
use crate::tasks::leave;
use crate::transport::{Buffer, Connection, Filled, KeyClock, KeyLimits, Leg, Received, TransportError, msg};
use crate::turns::{self, LastTurn};

#[cfg(test)]
mod tests;

/// Bytes that may wait for the peer before it is read no further: what it is still owed, as answers, comes to little more than what
/// sessions have put there.
const MOST_WAITING: usize = 4 * HIGH_WATER;
/// Events of one turn at most: then the sessions of the thread have theirs.
const EVENTS: u32 = 64;

/// An operator's connection, shared by the task that reads it and the sessions on its channels. All of them run on one thread: nobody ever
/// waits for the lock.
///
/// A session's bytes are sealed and written where it writes them, and only what the socket does not take is left to the connection's task.
pub(super) struct Wire<S>(Mutex<Inner<S>>);

struct Inner<S> {
    /// `None` when it has ended.
    connection: Option<Connection<S>>,
    channels: Channels,
    scratch: Buffer,
    /// Of the connection's task.
    driver: Option<Waker>,
    /// Met by a session, to be told to the connection's task.
    broken: Option<TransportError>,
    clock: KeyClock,
    last_turn: LastTurn,
    spent: Spent,
    /// Whether anything came since the last look.
    moved: bool,
}

/// What the connection's task has had of its turn.
#[derive(Default)]
struct Spent {
    /// Rounds that it may have, once that is known.
    of: Option<u64>,
    reads: u64,
    events: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Inner<S> {
    /// Writes what the socket takes; the rest is for the connection's task, whose waker is left.
    fn flush(&mut self) {
        let (Some(connection), Some(driver)) = (&mut self.connection, &self.driver) else { return };
        if let Poll::Ready(Err(error)) = connection.poll_drain(&mut Context::from_waker(driver)) {
            self.broken.get_or_insert(error);
            driver.wake_by_ref();
        }
    }

    /// Bytes that wait for the peer.
    fn waiting(&self) -> usize {
        self.connection.as_ref().map_or(0, |connection| connection.leg.waiting())
    }

    /// Does something to the channels, and sends what comes of it. `None` when the connection has ended, or ends with this.
    fn act<R>(&mut self, act: impl FnOnce(&mut Channels, &mut Leg) -> Result<R, TransportError>) -> Option<R> {
        let connection = self.connection.as_mut()?;
        match act(&mut self.channels, &mut connection.leg) {
            Ok(done) => Some(done),
            Err(error) => {
                self.broken.get_or_insert(error);
                self.driver.iter().for_each(Waker::wake_by_ref);
                None
            }
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, TransportError>> {
        let polled = self.poll_turn(cx);
        match &polled {
            Poll::Ready(_) => self.spent.events += 1,
            Poll::Pending => self.spent = Spent::default(),
        }
        polled
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<Event, TransportError>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Err(error));
        }
        leave(&mut self.driver, cx);
        let rounds = *self.spent.of.get_or_insert_with(|| self.last_turn.rounds(turns::count()));
        let mut all = false;
        loop {
            if self.spent.events >= EVENTS {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let needs_more = match self.take_messages()? {
                Some(Taken::Event(event)) => return Poll::Ready(Ok(event)),
                Some(Taken::All) => true,
                None => false,
            };
            let Some(connection) = &mut self.connection else { return Poll::Ready(Err(TransportError::Closed)) };
            if connection.leg.wants_rekey() {
                connection.leg.start_kex()?;
            }
            let drained = connection.poll_drain(cx)?;
            self.channels.undam(&connection.leg);
            if !needs_more {
                // Nothing is read until the peer has read; then there is room.
                ready!(drained);
                continue;
            }
            if all {
                return Poll::Pending;
            }
            if self.spent.reads >= rounds {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match ready!(connection.poll_fill(cx))? {
                Filled::Closed => return Poll::Ready(Err(TransportError::Closed)),
                Filled::Some => self.spent.reads += 1,
                Filled::All => all = true,
            }
            self.moved = true;
        }
    }

    /// Takes the messages that have come; `None` when there is no room for answers.
    fn take_messages(&mut self) -> Result<Option<Taken>, TransportError> {
        let Some(connection) = &mut self.connection else { return Err(TransportError::Closed) };
        let leg = &mut connection.leg;
        // Of what is held for the end of a key exchange the leg itself has a bound, and only what is read brings that end.
        while leg.outgoing().len() < MOST_WAITING {
            match leg.receive(&mut self.scratch)? {
                Received::NeedMore => return Ok(Some(Taken::All)),
                Received::Transport => {}
                Received::Message { start, len } => {
                    let message = self.scratch.since(start).get(Leg::HEADER..Leg::HEADER + len).unwrap_or_default();
                    let event = self.channels.take(leg, message)?;
                    self.scratch.truncate(0);
                    if let Some(event) = event {
                        return Ok(Some(Taken::Event(event)));
                    }
                }
            }
        }
        Ok(None)
    }
}

enum Taken {
    Event(Event),
    All,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(super) fn new(connection: Connection<S>, window: u32) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inner {
            connection: Some(connection),
            channels: Channels::new(window),
            scratch: Buffer::default(),
            driver: None,
            broken: None,
            clock: KeyClock::default(),
            last_turn: LastTurn::default(),
            spent: Spent::default(),
            moved: true,
        })))
    }

    fn lock(&self) -> MutexGuard<'_, Inner<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the peer until it asks for something; an error is the connection's end. For the connection's task alone.
    pub(super) fn poll_event(&self, cx: &mut Context<'_>) -> Poll<Result<Event, TransportError>> {
        self.lock().poll_event(cx)
    }

    /// Looks after the keys, and gives memory back that nothing came for since the last look; whether something did.
    #[cold]
    pub(super) fn look(&self, now: Instant, limits: KeyLimits) -> Result<bool, TransportError> {
        let inner = &mut *self.lock();
        let Some(connection) = &mut inner.connection else { return Err(TransportError::Closed) };
        inner.clock.look(&mut connection.leg, now, limits)?;
        let moved = std::mem::take(&mut inner.moved) || connection.leg.in_kex();
        if !moved {
            inner.scratch = Buffer::default();
            connection.release_idle_memory();
            inner.channels.release_idle_memory();
        }
        inner.flush();
        Ok(moved)
    }

    pub(super) fn answer(&self, channel: u32, granted: bool) {
        self.lock().act(|channels, leg| channels.answer(leg, channel, granted));
    }

    pub(super) fn confirm(&self, channel: u32) {
        self.lock().act(|channels, leg| channels.confirm(leg, channel));
    }

    pub(super) fn refuse(&self, channel: u32, reason: u32, text: &str) {
        self.lock().act(|channels, leg| channels.refuse(leg, channel, reason, text));
    }

    /// Sends what was put; the connection's task does so by itself whenever it looks for the next event.
    pub(super) fn flush(&self) {
        self.lock().flush();
    }

    /// Tells the peer what it did wrong, as far as the socket takes it.
    pub(super) fn complain(&self, text: &str) {
        self.lock().act(|_, leg| leg.disconnect(msg::reason::PROTOCOL_ERROR, text));
    }

    /// Ends the channels, and writes what is still to be sent.
    pub(super) fn poll_part(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        inner.channels.end();
        match &mut inner.connection {
            Some(connection) => connection.poll_drain(cx).map(drop),
            None => Poll::Ready(()),
        }
    }

    /// Ends the connection, with what the socket takes of what is still to be sent.
    pub(super) fn end(&self) {
        let mut inner = self.lock();
        inner.flush();
        inner.connection = None;
        inner.channels.end();
    }
}

/// A channel's bytes. Dropped, it closes the channel.
pub(super) struct ChannelStream<S: AsyncRead + AsyncWrite + Unpin> {
    wire: Arc<Wire<S>>,
    channel: u32,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ChannelStream<S> {
    /// Of a channel that was asked for, once.
    pub(super) fn new(wire: Arc<Wire<S>>, channel: u32) -> Self {
        Self { wire, channel }
    }

    pub(super) fn wire(&self) -> &Wire<S> {
        &self.wire
    }

    pub(super) fn channel(&self) -> u32 {
        self.channel
    }

    /// As [`AsyncWrite::poll_write`], of a type of extended data (RFC 4254, 5.2) when one is given.
    pub(super) fn poll_say(&self, cx: &Context<'_>, extended: Option<u32>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let inner = &mut *self.wire.lock();
        loop {
            match inner.act(|channels, leg| channels.write(leg, self.channel, extended, bytes, cx)) {
                Some(Poll::Ready(Some(n))) => return Poll::Ready(Ok(n)),
                Some(Poll::Ready(None)) | None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Some(Poll::Pending) => {
                    // Whoever waits has given away what was written before, or makes room by that.
                    let before = inner.waiting();
                    inner.flush();
                    if before < HIGH_WATER || inner.waiting() >= HIGH_WATER {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    /// Sends a request that wants no answer.
    pub(super) fn request(&self, name: &str, rest: &[u8]) {
        self.wire.lock().act(|channels, leg| channels.request(leg, self.channel, name, rest));
    }

    pub(super) fn end_data(&self) {
        let mut inner = self.wire.lock();
        inner.act(|channels, leg| channels.end_data(leg, self.channel));
        inner.flush();
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ChannelStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.wire.lock();
        if ready!(inner.channels.poll_read(self.channel, buf, cx)) {
            inner.act(|channels, leg| channels.grant(leg, self.channel));
            inner.flush();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ChannelStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_say(cx, None, buf)
    }

    /// What the socket does not take now the connection's task writes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.wire.lock().flush();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_data();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Drop for ChannelStream<S> {
    fn drop(&mut self) {
        let mut inner = self.wire.lock();
        inner.act(|channels, leg| channels.let_go(leg, self.channel));
        inner.flush();
    }
}
