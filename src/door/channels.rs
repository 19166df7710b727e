//! The channels of an outer connection (RFC 4254), in server role. Pure: messages in, messages out, bytes for whoever reads a channel.
//!
//! **Invariants**
//! - A peer may send on a channel what it was granted, and is granted more only when its bytes were taken: what waits for a session is
//!   never more than the window, and a session that stands still holds up no other.
//! - A peer that leaves channels open which nobody here has any more gets no others ([`Channels::MOST`]).

use std::collections::{BTreeMap, VecDeque};
use std::task::{Context, Poll, Waker};

use tokio::io::ReadBuf;

use crate::tasks::{leave, wake};
use crate::transport::wire::{Reader, put_string, put_u32};
use crate::transport::{Leg, TransportError, msg};

/// Bytes of one message's data that we take, and that we send at the most (RFC 4253, 6.1 asks for as much).
const MAX_DATA: u32 = 32 * 1024;
/// Bytes that may wait for the peer before nothing more is taken from a session.
pub(super) const HIGH_WATER: usize = 256 * 1024;

/// Reasons for a refused open (RFC 4254, 5.1).
pub(super) mod reason {
    pub(in crate::door) const PROHIBITED: u32 = 1;
    pub(in crate::door) const CONNECT_FAILED: u32 = 2;
    pub(in crate::door) const UNKNOWN_TYPE: u32 = 3;
    pub(in crate::door) const SHORTAGE: u32 = 4;
}

/// What only the door can decide.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// To be answered by [`Channels::confirm`] or [`Channels::refuse`].
    Open { channel: u32, kind: Kind, is_crowded: bool },
    /// To be answered by [`Channels::answer`] when `replies`.
    Request { channel: u32, request: Request, replies: bool },
    /// The peer has closed a channel.
    Closed { channel: u32 },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Session,
    DirectTcpip { host: String, port: u32 },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request {
    Pty,
    /// The words of an `exec`; none for `shell`.
    Run(Vec<u8>),
}

/// The channels of one connection, by our numbers.
pub(super) struct Channels {
    all: BTreeMap<u32, Channel>,
    next: u32,
    window: u32,
    /// Some writer waits until less waits for the peer.
    is_dammed: bool,
}

struct Channel {
    /// The peer's number.
    theirs: u32,
    is_session: bool,
    is_confirmed: bool,
    /// What the peer takes, in all and in one message.
    send_window: u32,
    max_data: u32,
    /// What the peer may still send, and what was taken of it since it was granted more.
    window: u32,
    taken: u32,
    received: VecDeque<u8>,
    /// The peer will send no more; it has closed the channel.
    eof: bool,
    closed: bool,
    sent_eof: bool,
    sent_close: bool,
    /// Somebody here still has it.
    is_held: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Channel {
    fn wake(&mut self) {
        wake(&mut self.reader);
        wake(&mut self.writer);
    }

    /// Takes what has come off the window; how much that is.
    fn use_up(&mut self, data: &[u8]) -> Result<u32, TransportError> {
        let len = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let left = self.window.checked_sub(len);
        self.window = left.ok_or(TransportError::Misbehaved("more data came on a channel than its window allows"))?;
        Ok(len)
    }

    /// Grants anew what came and nobody takes.
    fn discard(&mut self, len: u32, leg: &mut Leg, whole: u32) -> Result<(), TransportError> {
        self.taken += len;
        if self.owes(whole) { self.grant(leg) } else { Ok(()) }
    }

    /// Keeps data for its reader, in memory that is never more than a `window`.
    fn keep(&mut self, data: &[u8], window: usize) {
        let (waiting, room) = (self.received.len(), self.received.capacity());
        if waiting + data.len() > room {
            let room = (2 * room).min(window).max(waiting + data.len());
            self.received.reserve_exact(room - waiting);
        }
        self.received.extend(data);
    }

    fn send(&self, leg: &mut Leg, number: u8, rest: &[u8]) -> Result<(), TransportError> {
        leg.send(&[&[number][..], &self.theirs.to_be_bytes(), rest].concat())
    }

    /// Whether the peer is to be granted more: it has used up a good part of the `whole`, and will send more.
    fn owes(&self, whole: u32) -> bool {
        self.taken >= whole / 8 && !self.eof && !self.closed && !self.sent_close
    }

    fn grant(&mut self, leg: &mut Leg) -> Result<(), TransportError> {
        self.send(leg, msg::CHANNEL_WINDOW_ADJUST, &self.taken.to_be_bytes())?;
        self.window += std::mem::take(&mut self.taken);
        Ok(())
    }
}

impl Channels {
    /// Channels that the peer may leave open when nobody here has them any more; with so many every other open is crowded.
    pub(super) const MOST: usize = 64;

    /// `window`: bytes that a peer may send on a channel before any are taken.
    pub(super) fn new(window: u32) -> Self {
        Self { all: BTreeMap::new(), next: 0, window, is_dammed: false }
    }

    /// Takes a message of the layers above the transport.
    pub(super) fn take(&mut self, leg: &mut Leg, message: &[u8]) -> Result<Option<Event>, TransportError> {
        let mut reader = Reader::new(message);
        match reader.u8()? {
            msg::CHANNEL_DATA => {
                let channel = find(&mut self.all, reader.u32()?)?;
                let data = reader.string()?;
                let len = channel.use_up(data)?;
                if channel.eof {
                    return Err(TransportError::Misbehaved("data came behind the end of a channel's data"));
                }
                if channel.is_held && !channel.is_session {
                    channel.keep(data, self.window as usize);
                    wake(&mut channel.reader);
                } else {
                    // Nobody takes it: commands read nothing, and what was closed here is on its way to be closed there.
                    channel.discard(len, leg, self.window)?;
                }
                Ok(None)
            }
            number => self.take_other(leg, number, reader),
        }
    }

    /// What carries no data that anybody takes.
    #[inline(never)]
    fn take_other(&mut self, leg: &mut Leg, number: u8, mut reader: Reader<'_>) -> Result<Option<Event>, TransportError> {
        match number {
            // Clients of several threads say both behind their CLOSE now and then.
            msg::CHANNEL_WINDOW_ADJUST => {
                let Ok(channel) = find(&mut self.all, reader.u32()?) else { return Ok(None) };
                let sum = channel.send_window.checked_add(reader.u32()?);
                channel.send_window = sum.ok_or(TransportError::Misbehaved("a window was made larger than 4 GiB"))?;
                wake(&mut channel.writer);
                Ok(None)
            }
            msg::CHANNEL_EOF => {
                let Ok(channel) = find(&mut self.all, reader.u32()?) else { return Ok(None) };
                channel.eof = true;
                wake(&mut channel.reader);
                Ok(None)
            }
            msg::CHANNEL_CLOSE => self.take_close(leg, reader.u32()?).map(Some),
            msg::CHANNEL_EXTENDED_DATA => {
                let channel = find(&mut self.all, reader.u32()?)?;
                reader.u32()?;
                let len = channel.use_up(reader.string()?)?;
                channel.discard(len, leg, self.window)?;
                Ok(None)
            }
            msg::CHANNEL_OPEN => self.take_open(leg, reader),
            msg::CHANNEL_REQUEST => self.take_request(leg, reader),
            msg::GLOBAL_REQUEST => {
                reader.string()?;
                if reader.bool()? {
                    leg.send(&[msg::REQUEST_FAILURE])?;
                }
                Ok(None)
            }
            // Answers to what was not asked; and requests to be let in, of one who is in (RFC 4252, 5.1).
            msg::REQUEST_SUCCESS | msg::REQUEST_FAILURE | msg::CHANNEL_SUCCESS | msg::CHANNEL_FAILURE | msg::USERAUTH_REQUEST => Ok(None),
            _ => leg.unimplemented().map(|()| None),
        }
    }

    fn take_open(&mut self, leg: &mut Leg, mut reader: Reader<'_>) -> Result<Option<Event>, TransportError> {
        let (kind, theirs, send_window, max_data) = (reader.string()?, reader.u32()?, reader.u32()?, reader.u32()?);
        let kind = match kind {
            b"session" => Kind::Session,
            b"direct-tcpip" => {
                let host = String::from_utf8_lossy(reader.string()?).into_owned();
                let port = reader.u32()?;
                reader.string()?;
                reader.u32()?;
                Kind::DirectTcpip { host, port }
            }
            _ => {
                leg.send(&refusal(theirs, reason::UNKNOWN_TYPE, "the broker opens sessions and direct-tcpip alone"))?;
                return Ok(None);
            }
        };
        while self.all.contains_key(&self.next) {
            self.next = self.next.wrapping_add(1);
        }
        let channel = self.next;
        self.next = self.next.wrapping_add(1);
        let open = Channel {
            theirs,
            is_session: kind == Kind::Session,
            is_confirmed: false,
            send_window,
            max_data: max_data.clamp(1, MAX_DATA),
            window: self.window,
            taken: 0,
            received: VecDeque::new(),
            eof: false,
            closed: false,
            sent_eof: false,
            sent_close: false,
            is_held: true,
            reader: None,
            writer: None,
        };
        let left_open = self.all.values().filter(|channel| !channel.is_held).count();
        self.all.insert(channel, open);
        Ok(Some(Event::Open { channel, kind, is_crowded: left_open >= Self::MOST }))
    }

    fn take_close(&mut self, leg: &mut Leg, number: u32) -> Result<Event, TransportError> {
        let channel = find(&mut self.all, number)?;
        (channel.eof, channel.closed) = (true, true);
        if !std::mem::replace(&mut channel.sent_close, true) {
            channel.send(leg, msg::CHANNEL_CLOSE, b"")?;
        }
        channel.wake();
        if !channel.is_held {
            self.all.remove(&number);
        }
        Ok(Event::Closed { channel: number })
    }

    fn take_request(&mut self, leg: &mut Leg, mut reader: Reader<'_>) -> Result<Option<Event>, TransportError> {
        let number = reader.u32()?;
        let channel = find(&mut self.all, number)?;
        let (name, replies) = (reader.string()?, reader.bool()?);
        let request = match name {
            b"pty-req" => Some(Request::Pty),
            b"shell" => Some(Request::Run(Vec::new())),
            b"exec" => Some(Request::Run(reader.string()?.to_vec())),
            _ => None,
        };
        match request.filter(|_| channel.is_session && channel.is_held) {
            Some(request) => Ok(Some(Event::Request { channel: number, request, replies })),
            None => {
                if replies {
                    self.answer(leg, number, false)?;
                }
                Ok(None)
            }
        }
    }

    /// Answers a request on a channel.
    pub(super) fn answer(&mut self, leg: &mut Leg, number: u32, granted: bool) -> Result<(), TransportError> {
        match self.all.get(&number) {
            Some(channel) if !channel.sent_close => {
                channel.send(leg, if granted { msg::CHANNEL_SUCCESS } else { msg::CHANNEL_FAILURE }, b"")
            }
            _ => Ok(()),
        }
    }

    /// Opens a channel that was asked for.
    pub(super) fn confirm(&mut self, leg: &mut Leg, number: u32) -> Result<(), TransportError> {
        let Some(channel) = self.all.get_mut(&number) else { return Ok(()) };
        channel.is_confirmed = true;
        let rest = [number, channel.window, MAX_DATA].map(u32::to_be_bytes);
        channel.send(leg, msg::CHANNEL_OPEN_CONFIRMATION, rest.as_flattened())
    }

    /// Refuses a channel that was asked for.
    pub(super) fn refuse(&mut self, leg: &mut Leg, number: u32, reason: u32, text: &str) -> Result<(), TransportError> {
        match self.all.remove(&number) {
            Some(channel) => leg.send(&refusal(channel.theirs, reason, text)),
            None => Ok(()),
        }
    }

    /// Gives what has come on a channel; an end gives nothing. Whether a [`Channels::grant`] is due for it.
    pub(super) fn poll_read(&mut self, number: u32, buf: &mut ReadBuf<'_>, cx: &Context<'_>) -> Poll<bool> {
        let Some(channel) = self.all.get_mut(&number) else { return Poll::Ready(false) };
        if channel.received.is_empty() && !channel.eof {
            leave(&mut channel.reader, cx);
            return Poll::Pending;
        }
        // Of a ring that goes round the end, the rest is for the next read.
        let (first, _) = channel.received.as_slices();
        let n = first.len().min(buf.remaining());
        buf.put_slice(first.get(..n).unwrap_or_default());
        match n == channel.received.len() {
            true => channel.received.clear(),
            false => drop(channel.received.drain(..n)),
        }
        channel.taken += u32::try_from(n).unwrap_or(u32::MAX);
        Poll::Ready(channel.owes(self.window))
    }

    /// Grants the peer of a channel more for what was read.
    pub(super) fn grant(&mut self, leg: &mut Leg, number: u32) -> Result<(), TransportError> {
        self.all.get_mut(&number).map_or(Ok(()), |channel| channel.grant(leg))
    }

    /// Sends what the peer takes of these bytes, as data or extended data of a type. Pending when it takes none; `None` when it never will.
    pub(super) fn write(
        &mut self,
        leg: &mut Leg,
        number: u32,
        extended: Option<u32>,
        mut bytes: &[u8],
        cx: &Context<'_>,
    ) -> Result<Poll<Option<usize>>, TransportError> {
        let Some(channel) = self.all.get_mut(&number).filter(|channel| !channel.closed && !channel.sent_eof) else {
            return Ok(Poll::Ready(None));
        };
        let whole = bytes.len();
        while !bytes.is_empty() && channel.send_window > 0 && leg.waiting() < HIGH_WATER {
            let n = bytes.len().min(channel.send_window.min(channel.max_data) as usize);
            let (now, rest) = bytes.split_at(n);
            send_data(leg, channel.theirs, extended, now)?;
            channel.send_window -= n as u32;
            bytes = rest;
        }
        if bytes.len() == whole && whole > 0 {
            self.is_dammed |= leg.waiting() >= HIGH_WATER;
            leave(&mut channel.writer, cx);
            return Ok(Poll::Pending);
        }
        Ok(Poll::Ready(Some(whole - bytes.len())))
    }

    /// Sends a request on a channel that wants no answer.
    pub(super) fn request(&self, leg: &mut Leg, number: u32, name: &str, rest: &[u8]) -> Result<(), TransportError> {
        let Some(channel) = self.all.get(&number).filter(|channel| !channel.sent_close) else { return Ok(()) };
        let mut request = Vec::new();
        put_string(&mut request, name.as_bytes());
        request.push(0);
        request.extend_from_slice(rest);
        channel.send(leg, msg::CHANNEL_REQUEST, &request)
    }

    /// Says that no more data will be sent on a channel.
    pub(super) fn end_data(&mut self, leg: &mut Leg, number: u32) -> Result<(), TransportError> {
        let Some(channel) = self.all.get_mut(&number).filter(|channel| !channel.sent_close && !channel.sent_eof) else { return Ok(()) };
        channel.sent_eof = true;
        channel.send(leg, msg::CHANNEL_EOF, b"")
    }

    /// Nobody here has the channel any more: it is closed, or refused when it was not open yet.
    pub(super) fn let_go(&mut self, leg: &mut Leg, number: u32) -> Result<(), TransportError> {
        let Some(channel) = self.all.get_mut(&number) else { return Ok(()) };
        if !channel.is_confirmed {
            return self.refuse(leg, number, reason::PROHIBITED, "");
        }
        channel.is_held = false;
        channel.received = VecDeque::new();
        if channel.closed {
            self.all.remove(&number);
            return Ok(());
        }
        match std::mem::replace(&mut channel.sent_close, true) {
            true => Ok(()),
            false => channel.send(leg, msg::CHANNEL_CLOSE, b""),
        }
    }

    /// Wakes those who waited until less waits for the peer.
    pub(super) fn undam(&mut self, leg: &Leg) {
        if self.is_dammed && leg.waiting() < HIGH_WATER {
            self.is_dammed = false;
            self.all.values_mut().for_each(|channel| wake(&mut channel.writer));
        }
    }

    /// Gives memory back that waits for bytes to come.
    pub(super) fn release_idle_memory(&mut self) {
        for channel in self.all.values_mut().filter(|channel| channel.received.is_empty()) {
            channel.received = VecDeque::new();
        }
    }

    /// Bytes that wait on the channel that has the most.
    #[cfg(any(fuzzing, test))]
    pub(super) fn most_waiting(&self) -> usize {
        self.all.values().map(|channel| channel.received.len()).max().unwrap_or_default()
    }

    #[cfg(test)]
    pub(super) fn most_memory(&self) -> usize {
        self.all.values().map(|channel| channel.received.capacity()).max().unwrap_or_default()
    }

    #[cfg(any(fuzzing, test))]
    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// The peer is gone: whoever reads a channel finds its end behind what came.
    pub(super) fn end(&mut self) {
        for channel in self.all.values_mut() {
            (channel.eof, channel.closed) = (true, true);
            channel.wake();
        }
    }
}

/// A channel that the peer may speak of.
fn find(all: &mut BTreeMap<u32, Channel>, number: u32) -> Result<&mut Channel, TransportError> {
    let channel = all.get_mut(&number).filter(|channel| channel.is_confirmed && !channel.closed);
    channel.ok_or(TransportError::Misbehaved("a message came for a channel that is not open"))
}

fn refusal(theirs: u32, reason: u32, text: &str) -> Vec<u8> {
    let mut message = vec![msg::CHANNEL_OPEN_FAILURE];
    put_u32(&mut message, theirs);
    put_u32(&mut message, reason);
    put_string(&mut message, text.as_bytes());
    put_string(&mut message, b"");
    message
}

/// A message of data, written where it is sealed.
fn send_data(leg: &mut Leg, theirs: u32, extended: Option<u32>, data: &[u8]) -> Result<(), TransportError> {
    let out = leg.outgoing();
    let start = out.tail();
    out.grow(Leg::HEADER);
    let number = if extended.is_some() { msg::CHANNEL_EXTENDED_DATA } else { msg::CHANNEL_DATA };
    out.put(&[number]);
    out.put(&theirs.to_be_bytes());
    if let Some(kind) = extended {
        out.put(&kind.to_be_bytes());
    }
    out.put(&u32::try_from(data.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.put(data);
    let len = out.tail() - start - Leg::HEADER;
    leg.forward(start, len)
}
