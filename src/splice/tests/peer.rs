//! Either end of a session, as RFC 4254 wants it: replies in the order asked, data within windows, numbers used again once free.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::splice::Orders;
use crate::transport::wire::{Reader, put_string, put_u32};
use crate::transport::{Connection, TransportError, msg};

/// What a peer says, with the name behind it, that does not know a channel type.
pub(super) const UNKNOWN: &[u8] = b"unknown ";
/// What begins the text of a notice.
pub(super) const NOTICE: &[u8] = b"\r\nssh-broker: ";
/// Before its end no pause begins that would last into it.
const LAST: Duration = Duration::from_secs(20);

#[derive(Debug, Clone)]
pub(super) enum Action {
    Open {
        kind: usize,
        window: u32,
    },
    Ask {
        channel: usize,
        name: usize,
        wants_reply: bool,
    },
    AskGlobally {
        name: usize,
        wants_reply: bool,
    },
    Data {
        channel: usize,
        len: usize,
        is_extended: bool,
    },
    Adjust {
        channel: usize,
        by: u32,
    },
    Eof {
        channel: usize,
    },
    Close {
        channel: usize,
    },
    Ping,
    Rekey,
    /// Takes so many messages; waiting for each is given up when none has come, and begun anew.
    Read {
        most: usize,
    },
    /// Takes nothing for a while.
    Pause {
        ms: u64,
    },
    /// Has the broker show a line on the operator's terminals.
    Notice,
}

pub(super) fn action() -> impl Strategy<Value = Action> {
    let window = prop_oneof![Just(0), Just(5000), Just(20_000), Just(2_000_000)];
    let len = prop_oneof![3 => 0..200_usize, 1 => 200..32_768_usize];
    let channel = || 0..4_usize;
    prop_oneof![
        5 => (0..4_usize, window.clone()).prop_map(|(kind, window)| Action::Open { kind, window }),
        5 => (channel(), 0..7_usize, any::<bool>()).prop_map(|(channel, name, wants_reply)| Action::Ask { channel, name, wants_reply }),
        3 => (0..3_usize, any::<bool>()).prop_map(|(name, wants_reply)| Action::AskGlobally { name, wants_reply }),
        8 => (channel(), len, any::<bool>()).prop_map(|(channel, len, is_extended)| Action::Data { channel, len, is_extended }),
        2 => (channel(), window).prop_map(|(channel, by)| Action::Adjust { channel, by }),
        1 => channel().prop_map(|channel| Action::Eof { channel }),
        1 => channel().prop_map(|channel| Action::Close { channel }),
        1 => Just(Action::Ping),
        2 => Just(Action::Rekey),
        6 => (1..12_usize).prop_map(|most| Action::Read { most }),
        1 => prop_oneof![Just(3), Just(6000)].prop_map(|ms| Action::Pause { ms }),
        4 => Just(Action::Notice),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Operator,
    Instance,
}

impl Side {
    fn kinds(self) -> [&'static str; 4] {
        match self {
            Self::Operator => ["session", "session", "direct-tcpip", "tun@openssh.com"],
            // Neither is ever asked for.
            Self::Instance => ["x11", "session", "x11", "direct-tcpip"],
        }
    }

    fn requests(self) -> [&'static str; 7] {
        match self {
            Self::Operator => ["pty-req", "shell", "exec", "env", "subsystem", "auth-agent-req@openssh.com", "none@example.com"],
            Self::Instance => ["exit-status", "exit-signal", "xon-xoff", "keepalive@openssh.com", "keepalive@openssh.com", "x", "x"],
        }
    }

    fn globals(self) -> [&'static str; 3] {
        match self {
            Self::Operator => ["tcpip-forward", "keepalive@openssh.com", "none@example.com"],
            Self::Instance => ["hostkeys-00@openssh.com", "keepalive@openssh.com", "none@example.com"],
        }
    }
}

struct Channel {
    theirs: u32,
    /// What this side may still send, and what the other side may.
    may_send: u32,
    may_come: u32,
    /// Whether this side has said that nothing follows; whether each side has closed.
    is_over: bool,
    is_over_there: bool,
    closed: (bool, bool),
    /// What this side has asked for and has no reply to, and what it was given.
    asked: Vec<&'static str>,
    has: Vec<&'static str>,
}

enum Slot {
    Free,
    /// Being opened from here, with this window.
    Opening(u32),
    Open(Channel),
}

pub(super) struct Peer<S> {
    side: Side,
    connection: Connection<S>,
    orders: Orders,
    slots: Vec<Slot>,
    /// Numbers the contents of data, pings and replies.
    counter: u32,
    log: Log,
}

/// What one side sent and received.
#[derive(Default)]
pub(super) struct Log {
    pub(super) sent: Vec<Vec<u8>>,
    pub(super) received: Vec<Vec<u8>>,
    /// What came that no peer sends.
    pub(super) wrong: Vec<String>,
    /// What was asked and not answered, though its channel was not closed either.
    pub(super) unanswered: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(super) fn new(side: Side, connection: Connection<S>, orders: Orders) -> Self {
        Self { side, connection, orders, slots: Vec::new(), counter: 0, log: Log::default() }
    }

    /// Does what its script says, then only answers until `end`. The connection is open still.
    pub(super) async fn play(mut self, script: Vec<Action>, end: Instant) -> Result<(Log, Connection<S>), TransportError> {
        for action in script {
            if !matches!(action, Action::Pause { .. }) || Instant::now() + LAST < end {
                self.act(action).await?;
            }
        }
        while let Ok(message) = timeout_at(end, self.connection.next()).await {
            self.take(message?)?;
        }
        self.log.unanswered = self.unanswered();
        Ok((self.log, self.connection))
    }

    async fn act(&mut self, action: Action) -> Result<(), TransportError> {
        match action {
            Action::Open { kind, window } => self.open(self.side.kinds()[kind], window),
            Action::Ask { channel, name, wants_reply } => self.ask(channel, self.side.requests()[name], wants_reply),
            Action::AskGlobally { name, wants_reply } => {
                let name = self.side.globals()[name];
                self.say(msg::GLOBAL_REQUEST, |m| {
                    put_string(m, name.as_bytes());
                    m.push(u8::from(wants_reply));
                })
            }
            Action::Data { channel, len, is_extended } => self.data(channel, len, is_extended),
            Action::Adjust { channel, by } => {
                let Some(channel) = self.usable(channel) else { return Ok(()) };
                channel.may_come += by;
                let theirs = channel.theirs;
                self.say(msg::CHANNEL_WINDOW_ADJUST, |m| [theirs, by].into_iter().for_each(|field| put_u32(m, field)))
            }
            Action::Eof { channel } => {
                let Some(channel) = self.usable(channel).filter(|channel| !channel.is_over) else { return Ok(()) };
                channel.is_over = true;
                let theirs = channel.theirs;
                self.say(msg::CHANNEL_EOF, |m| put_u32(m, theirs))
            }
            Action::Close { channel } => {
                let Some(channel) = self.usable(channel) else { return Ok(()) };
                channel.closed.0 = true;
                let theirs = channel.theirs;
                self.say(msg::CHANNEL_CLOSE, |m| put_u32(m, theirs))?;
                self.free_closed();
                Ok(())
            }
            Action::Ping if self.side == Side::Operator => {
                let number = self.count();
                self.say(msg::PING, |m| put_string(m, &number.to_be_bytes()))
            }
            Action::Ping => Ok(()),
            Action::Rekey if self.connection.leg.in_kex() => Ok(()),
            Action::Rekey => self.connection.leg.start_kex(),
            Action::Read { most } => {
                for _ in 0..most {
                    if let Ok(message) = timeout(Duration::from_millis(1), self.connection.next()).await {
                        self.take(message?)?;
                    }
                }
                Ok(())
            }
            Action::Pause { ms } => {
                sleep(Duration::from_millis(ms)).await;
                Ok(())
            }
            Action::Notice => {
                // Long ones, so that a few are more than the reserve that they come from.
                self.orders.notice(&format!("ssh-broker: {}", "a word ".repeat(25)));
                Ok(())
            }
        }
    }

    fn say(&mut self, number: u8, fields: impl FnOnce(&mut Vec<u8>)) -> Result<(), TransportError> {
        let mut message = vec![number];
        fields(&mut message);
        self.connection.leg.send(&message)?;
        self.log.sent.push(message);
        Ok(())
    }

    fn count(&mut self) -> u32 {
        self.counter += 1;
        self.counter
    }

    fn usable(&mut self, number: usize) -> Option<&mut Channel> {
        match self.slots.get_mut(number) {
            Some(Slot::Open(channel)) if !channel.closed.0 => Some(channel),
            _ => None,
        }
    }

    fn free_slot(&mut self) -> usize {
        let free = self.slots.iter().position(|slot| matches!(slot, Slot::Free));
        free.unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        })
    }

    fn free_closed(&mut self) {
        for slot in &mut self.slots {
            if matches!(slot, Slot::Open(channel) if channel.closed == (true, true)) {
                *slot = Slot::Free;
            }
        }
    }

    fn open(&mut self, kind: &str, window: u32) -> Result<(), TransportError> {
        let slot = self.free_slot();
        self.slots[slot] = Slot::Opening(window);
        self.say(msg::CHANNEL_OPEN, |m| {
            put_string(m, kind.as_bytes());
            [slot as u32, window, 32_768].into_iter().for_each(|field| put_u32(m, field));
        })
    }

    fn ask(&mut self, channel: usize, name: &'static str, wants_reply: bool) -> Result<(), TransportError> {
        let Some(channel) = self.usable(channel) else { return Ok(()) };
        if wants_reply {
            channel.asked.push(name);
        }
        let theirs = channel.theirs;
        self.say(msg::CHANNEL_REQUEST, |m| {
            put_u32(m, theirs);
            put_string(m, name.as_bytes());
            m.push(u8::from(wants_reply));
            put_string(m, if name == "subsystem" { b"sftp" } else { b"xterm" });
        })
    }

    fn data(&mut self, channel: usize, len: usize, is_extended: bool) -> Result<(), TransportError> {
        let number = self.count();
        let Some(channel) = self.usable(channel).filter(|channel| !channel.is_over) else { return Ok(()) };
        let len = len.min(channel.may_send as usize);
        channel.may_send -= len as u32;
        let theirs = channel.theirs;
        let bytes: Vec<u8> = number.to_be_bytes().into_iter().cycle().take(len).collect();
        self.say(if is_extended { msg::CHANNEL_EXTENDED_DATA } else { msg::CHANNEL_DATA }, |m| {
            put_u32(m, theirs);
            if is_extended {
                put_u32(m, 1);
            }
            put_string(m, &bytes);
        })
    }

    fn take(&mut self, message: Vec<u8>) -> Result<(), TransportError> {
        let mut fields = Reader::new(&message);
        let (number, first) = (fields.u8()?, Reader::new(&message[1..]).u32().unwrap_or_default());
        match number {
            msg::GLOBAL_REQUEST => self.asked_globally(fields)?,
            msg::CHANNEL_OPEN => self.asked_to_open(fields)?,
            msg::CHANNEL_OPEN_CONFIRMATION | msg::CHANNEL_OPEN_FAILURE => self.open_answered(number, fields)?,
            msg::PING => self.say(msg::PONG, |m| m.extend_from_slice(&message[1..]))?,
            msg::REQUEST_SUCCESS | msg::REQUEST_FAILURE | msg::PONG => {}
            _ => self.on_channel(number, first, &message)?,
        }
        self.log.received.push(message);
        Ok(())
    }

    fn asked_globally(&mut self, mut fields: Reader<'_>) -> Result<(), TransportError> {
        let (name, wants_reply) = (fields.string()?, fields.bool()?);
        let is_known = matches!(name, b"tcpip-forward" | b"keepalive@openssh.com");
        if wants_reply && is_known {
            let number = self.count();
            self.say(msg::REQUEST_SUCCESS, |m| put_u32(m, number))?;
        } else if wants_reply {
            // With content too, which no failure has, so that each can be told from the others.
            let number = self.count();
            self.say(msg::REQUEST_FAILURE, |m| put_u32(m, number))?;
        }
        if name == b"tcpip-forward" { self.open("forwarded-tcpip", 50_000) } else { Ok(()) }
    }

    fn asked_to_open(&mut self, mut fields: Reader<'_>) -> Result<(), TransportError> {
        let kind = fields.string()?;
        let (sender, window) = (fields.u32()?, fields.u32()?);
        let is_known = !kind.starts_with(b"!");
        if !is_known || window == 0 {
            let text = if is_known { b"not today".to_vec() } else { [UNKNOWN, kind].concat() };
            return self.say(msg::CHANNEL_OPEN_FAILURE, |m| {
                [sender, 3].into_iter().for_each(|field| put_u32(m, field));
                put_string(m, &text);
                put_string(m, b"");
            });
        }
        let slot = self.free_slot();
        self.slots[slot] = Slot::Open(Channel::new(sender, window, 80_000));
        self.say(msg::CHANNEL_OPEN_CONFIRMATION, |m| [sender, slot as u32, 80_000, 32_768].into_iter().for_each(|field| put_u32(m, field)))
    }

    fn open_answered(&mut self, number: u8, mut fields: Reader<'_>) -> Result<(), TransportError> {
        let slot = fields.u32()?;
        let Some(Slot::Opening(window)) = self.slots.get(slot as usize) else {
            self.log.wrong.push(format!("an answer to no open: {number} {slot}"));
            return Ok(());
        };
        self.slots[slot as usize] = match number {
            msg::CHANNEL_OPEN_CONFIRMATION => Slot::Open(Channel::new(fields.u32()?, fields.u32()?, *window)),
            _ => Slot::Free,
        };
        Ok(())
    }

    fn on_channel(&mut self, number: u8, first: u32, message: &[u8]) -> Result<(), TransportError> {
        let Some(Slot::Open(channel)) = self.slots.get_mut(first as usize).filter(|slot| !slot.is_closed_there()) else {
            self.log.wrong.push(format!("{number} for the channel {first}, which is not open"));
            return Ok(());
        };
        let mut fields = Reader::new(&message[5..]);
        let (theirs, may_answer) = (channel.theirs, !channel.closed.0);
        match number {
            msg::CHANNEL_REQUEST => {
                let (name, wants_reply) = (fields.string()?, fields.bool()?);
                let is_known = !name.starts_with(b"!") && name != b"none@example.com";
                if wants_reply && may_answer {
                    self.say(if is_known { msg::CHANNEL_SUCCESS } else { msg::CHANNEL_FAILURE }, |m| put_u32(m, theirs))?;
                }
            }
            msg::CHANNEL_SUCCESS | msg::CHANNEL_FAILURE if channel.asked.is_empty() => self.log.wrong.push("a reply to nothing".to_owned()),
            msg::CHANNEL_SUCCESS | msg::CHANNEL_FAILURE => {
                let asked = channel.asked.remove(0);
                channel.has.extend(Some(asked).filter(|_| number == msg::CHANNEL_SUCCESS));
            }
            msg::CHANNEL_WINDOW_ADJUST => channel.may_send += fields.u32()?,
            msg::CHANNEL_DATA | msg::CHANNEL_EXTENDED_DATA => {
                if number == msg::CHANNEL_EXTENDED_DATA {
                    fields.u32()?;
                }
                let bytes = fields.string()?;
                if channel.is_over_there {
                    self.log.wrong.push("data behind the last".to_owned());
                } else if bytes.starts_with(NOTICE) && !channel.has.contains(&"pty-req") {
                    self.log.wrong.push("a notice amid a program's output".to_owned());
                } else if bytes.len() > channel.may_come as usize {
                    self.log.wrong.push(format!("{} bytes for a window of {}", bytes.len(), channel.may_come));
                } else {
                    channel.may_come -= bytes.len() as u32;
                }
            }
            msg::CHANNEL_EOF => channel.is_over_there = true,
            msg::CHANNEL_CLOSE => {
                channel.closed.1 = true;
                self.free_closed();
            }
            _ => {}
        }
        Ok(())
    }

    /// Requests and opens that wait for a reply where one may still come.
    fn unanswered(&self) -> usize {
        let open = |slot: &Slot| match slot {
            Slot::Open(channel) if !channel.closed.1 => channel.asked.len(),
            Slot::Opening(_) => 1,
            _ => 0,
        };
        self.slots.iter().map(open).sum()
    }
}

impl Slot {
    fn is_closed_there(&self) -> bool {
        matches!(self, Self::Open(channel) if channel.closed.1)
    }
}

impl Channel {
    fn new(theirs: u32, may_send: u32, may_come: u32) -> Self {
        Self {
            theirs,
            may_send,
            may_come,
            is_over: false,
            is_over_there: false,
            closed: (false, false),
            asked: Vec::new(),
            has: Vec::new(),
        }
    }
}
