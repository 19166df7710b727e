use std::collections::{HashMap, VecDeque};

use super::Direction;
use super::channels::{Channels, MAX_CHANNELS};
use super::destination::destination;
use super::gate::Refusal;
use super::taped::Taped;
use crate::access::{Capability, Grant};
use crate::audit::{Event, Text};
use crate::recording::{Closed, Tape};
use crate::transport::wire::Reader;
use crate::transport::{TransportError, msg};

/// Events that may wait for the audit's queue.
pub(super) const MAX_EVENTS: usize = 64;

/// Reads a session's messages as they pass and tells the audit: which channels, for what, how they ended, how much they carried.
#[derive(Default)]
pub struct Tap {
    /// Open and half-open channels; a channel that the instance opens is there from its confirmation on.
    channels: Channels<Channel>,
    /// Channels that the instance asked to open, by its number.
    offered: HashMap<u32, Channel>,
    ordinal: u32,
    pub events: VecDeque<Event>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// The session's recording, when it is recorded.
    pub tape: Option<Tape>,
}

#[derive(Default)]
struct Channel {
    ordinal: u32,
    kind: String,
    what: Option<Text>,
    /// Whether the gate refused it: the peer's failure is ours then, and told already.
    refused: bool,
    pty: bool,
    told: bool,
    /// What its grant has to allow while it is open.
    uses: Option<Capability>,
    exit_status: Option<u32>,
    exit_signal: Option<Text>,
    bytes_up: u64,
    bytes_down: u64,
    taped: Taped,
}

impl Channel {
    fn fits(&self, grant: &Grant) -> bool {
        let goes_there = match (self.kind.as_str(), self.what.as_ref().map(Text::as_str)) {
            ("direct-tcpip", Some(what)) => what.rsplit_once(':').is_none_or(|(host, port)| {
                let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
                grant.allows_destination(host, port.parse().unwrap_or_default())
            }),
            ("direct-streamlocal@openssh.com", Some(path)) => grant.allows_path(path),
            _ => true,
        };
        goes_there && self.uses.is_none_or(|capability| grant.allows(capability))
    }
}

/// What a channel of this type stands for by its type alone; what runs in a session channel is asked for later.
fn carried_by(kind: &[u8]) -> Option<Capability> {
    match kind {
        b"direct-tcpip" | b"direct-streamlocal@openssh.com" => Some(Capability::ForwardLocal),
        b"forwarded-tcpip" | b"forwarded-streamlocal@openssh.com" => Some(Capability::ForwardRemote),
        b"auth-agent@openssh.com" => Some(Capability::Agent),
        b"x11" => Some(Capability::X11),
        b"session" => None,
        _ => Some(Capability::Any),
    }
}

impl Tap {
    /// Reads one message that passes, and what the gate made of it. A message that cannot be read is the peer's to judge.
    pub fn observe(&mut self, direction: Direction, message: &[u8], refusal: Option<&Refusal>) -> Result<(), TransportError> {
        let mut reader = Reader::new(message);
        match reader.u8() {
            Ok(number @ (msg::CHANNEL_DATA | msg::CHANNEL_EXTENDED_DATA)) => self.data(direction, number, reader),
            Ok(number) => self.follow(direction, number, message, refusal)?,
            Err(_) => return Ok(()),
        }
        if let Some(refusal) = refusal {
            self.tell_refused(message, refusal);
        }
        Ok(())
    }

    /// What carries no data.
    #[inline(never)]
    fn follow(&mut self, direction: Direction, number: u8, message: &[u8], refusal: Option<&Refusal>) -> Result<(), TransportError> {
        let reader = Reader::new(message.get(1..).unwrap_or_default());
        match number {
            msg::CHANNEL_OPEN => self.open(direction, message, refusal)?,
            msg::CHANNEL_OPEN_CONFIRMATION => self.confirmed(direction, reader),
            msg::CHANNEL_OPEN_FAILURE => self.failed(direction, reader),
            msg::CHANNEL_REQUEST => self.request(direction, reader, refusal),
            msg::CHANNEL_CLOSE => self.close(direction, reader),
            _ => {}
        }
        Ok(())
    }

    #[cold]
    fn tell_refused(&mut self, message: &[u8], refusal: &Refusal) {
        let what = refusal.what.clone().or_else(|| match message.first() {
            Some(&msg::CHANNEL_REQUEST) => request_text(message),
            _ => destination(message),
        });
        let kind = Text::new(refusal.kind.as_bytes());
        self.events.push_back(Event::ChannelRefused { kind, what, by: "broker", reason: refusal.reason.into() });
    }

    /// Whether the grant allows what the open channels carry. Whether it demands a recording that there is not was asked before it came here.
    pub fn fits(&self, grant: &Grant) -> bool {
        self.channels.iter().filter(|channel| !channel.refused).all(|channel| channel.fits(grant))
    }

    /// Whether more messages may be read: what they tell has somewhere to go.
    pub fn has_room(&self) -> bool {
        self.events.len() < MAX_EVENTS && self.tape.as_ref().is_none_or(Tape::has_room)
    }

    /// A number that is taken again while its channel is open ends that one: both peers can tell the two apart no more.
    fn insert(&mut self, operators: u32, channel: Channel) {
        if let Some(before) = self.channels.insert(operators, channel) {
            self.tell_closed(before);
        }
    }

    fn data(&mut self, direction: Direction, number: u8, mut reader: Reader<'_>) {
        // Recipient, the type of extended data, and the length stand before the data.
        let framing = if number == msg::CHANNEL_DATA { 8 } else { 12 };
        let len = reader.rest().len().saturating_sub(framing) as u64;
        match direction {
            Direction::Up => self.bytes_up += len,
            Direction::Down => self.bytes_down += len,
        }
        let Some(channel) = reader.u32().ok().and_then(|number| self.channels.recipient(direction, number)) else { return };
        match direction {
            Direction::Up => channel.bytes_up += len,
            Direction::Down => channel.bytes_down += len,
        }
        if let Some(tape) = &mut self.tape {
            channel.taped.data(tape, direction, number, reader);
        }
    }

    fn open(&mut self, direction: Direction, message: &[u8], refusal: Option<&Refusal>) -> Result<(), TransportError> {
        let mut reader = Reader::new(message.get(1..).unwrap_or_default());
        let (Ok(kind), Ok(sender), Ok(_), Ok(_)) = (reader.string(), reader.u32(), reader.u32(), reader.u32()) else { return Ok(()) };
        if self.channels.len() + self.offered.len() >= MAX_CHANNELS {
            return Err(TransportError::Misbehaved("too many channels in one session"));
        }
        self.ordinal += 1;
        let channel = Channel {
            ordinal: self.ordinal,
            kind: String::from_utf8_lossy(kind.get(..64).unwrap_or(kind)).into_owned(),
            what: destination(message),
            refused: refusal.is_some(),
            uses: carried_by(kind).filter(|_| refusal.is_none()),
            ..Channel::default()
        };
        match direction {
            Direction::Up => self.insert(sender, channel),
            Direction::Down => drop(self.offered.insert(sender, channel)),
        }
        Ok(())
    }

    fn confirmed(&mut self, direction: Direction, mut reader: Reader<'_>) {
        let (Ok(recipient), Ok(sender)) = (reader.u32(), reader.u32()) else { return };
        let (operators, instances) = match direction {
            Direction::Down => (recipient, sender),
            Direction::Up => (sender, recipient),
        };
        if direction == Direction::Up
            && let Some(channel) = self.offered.remove(&instances)
        {
            self.insert(operators, channel);
        }
        let Some(channel) = self.channels.confirm(operators, instances) else { return };
        // A session channel is told when it is known what runs in it.
        if channel.kind != "session" {
            channel.told = true;
            self.events.push_back(opened(channel, channel.kind.clone().as_str().into(), channel.what.clone()));
            if let Some(tape) = &mut self.tape {
                let Channel { ordinal, kind, what, taped, .. } = channel;
                self.events.extend(taped.begin(tape, *ordinal, kind, what.as_ref().map(Text::as_str)));
            }
        }
    }

    fn failed(&mut self, direction: Direction, mut reader: Reader<'_>) {
        let Ok(recipient) = reader.u32() else { return };
        let (channel, by) = match direction {
            Direction::Down => (self.channels.forget(recipient), "instance"),
            Direction::Up => (self.offered.remove(&recipient), "operator"),
        };
        let Some(channel) = channel.filter(|channel| !channel.refused) else { return };
        let _code = reader.u32();
        let reason = Text::new(reader.string().unwrap_or_default());
        self.events.push_back(Event::ChannelRefused { kind: channel.kind.as_str().into(), what: channel.what, by, reason });
    }

    fn request(&mut self, direction: Direction, mut reader: Reader<'_>, refusal: Option<&Refusal>) {
        if refusal.is_some() {
            return;
        }
        let Some(channel) = reader.u32().ok().and_then(|number| self.channels.recipient(direction, number)) else { return };
        let (Ok(name), Ok(_want_reply)) = (reader.string(), reader.bool()) else { return };
        let started = match (direction, name) {
            (Direction::Up, b"pty-req") => {
                channel.pty = true;
                if self.tape.is_some() {
                    channel.taped.pty_requested(reader);
                }
                None
            }
            (Direction::Up, b"window-change") => {
                if let Some(tape) = &mut self.tape {
                    channel.taped.window_changed(tape, reader);
                }
                None
            }
            (Direction::Up, b"shell") => {
                channel.uses = Some(Capability::Shell);
                Some(("shell", None))
            }
            (Direction::Up, b"exec") => {
                channel.uses = Some(Capability::Exec);
                Some(("exec", reader.string().ok().map(Text::new)))
            }
            (Direction::Up, b"subsystem") => {
                let what = reader.string().ok().map(Text::new);
                let is_sftp = what.as_ref().is_some_and(|what| what.as_str() == "sftp");
                channel.uses = Some(if is_sftp { Capability::Sftp } else { Capability::Exec });
                Some(("subsystem", what))
            }
            (Direction::Down, b"exit-status") => {
                channel.exit_status = reader.u32().ok();
                None
            }
            (Direction::Down, b"exit-signal") => {
                channel.exit_signal = reader.string().ok().map(|signal| Text::new(signal.get(..32).unwrap_or(signal)));
                None
            }
            _ => None,
        };
        let Some((kind, what)) = started else { return };
        channel.told = true;
        self.events.push_back(opened(channel, kind.into(), what.clone()));
        if let Some(tape) = &mut self.tape {
            self.events.extend(channel.taped.begin(tape, channel.ordinal, kind, what.as_ref().map(Text::as_str)));
        }
    }

    fn close(&mut self, direction: Direction, mut reader: Reader<'_>) {
        let Ok(recipient) = reader.u32() else { return };
        if let Some(channel) = self.channels.close(direction, recipient) {
            self.tell_closed(channel);
        }
    }

    fn tell_closed(&mut self, channel: Channel) {
        if let (Some(tape), Some(track)) = (&mut self.tape, channel.taped.track) {
            let exit_signal = channel.exit_signal.as_ref().map(Text::as_str);
            let Channel { bytes_up, bytes_down, exit_status, .. } = channel;
            self.events.extend(tape.end(*track, Closed { bytes_up, bytes_down, exit_status, exit_signal }));
        }
        if channel.told {
            self.events.push_back(Event::ChannelClosed {
                channel: channel.ordinal,
                exit_status: channel.exit_status,
                exit_signal: channel.exit_signal,
                bytes_down: channel.bytes_down,
                bytes_up: channel.bytes_up,
            });
        }
    }

    /// Whether the tables keep to their bounds.
    #[cfg(any(fuzzing, test))]
    pub(super) fn is_bounded(&self) -> bool {
        let mut channels = self.channels.iter().chain(self.offered.values());
        let are_small = channels.all(|channel| channel.kind.len() + channel.what.as_ref().map_or(0, |what| what.as_str().len()) <= 1024);
        are_small && self.channels.is_bounded() && self.channels.len() + self.offered.len() <= MAX_CHANNELS
    }

    /// The session has ended: so have the channels that were still open.
    pub fn end(&mut self) {
        let mut open: Vec<Channel> = self.channels.drain().collect();
        open.sort_by_key(|channel| channel.ordinal);
        for channel in open {
            self.tell_closed(channel);
        }
    }
}

fn opened(channel: &Channel, kind: Text, what: Option<Text>) -> Event {
    Event::ChannelOpened { channel: channel.ordinal, kind, what, pty: channel.pty }
}

/// The command or subsystem of a refused request.
fn request_text(message: &[u8]) -> Option<Text> {
    let mut reader = Reader::new(message.get(5..)?);
    let name = reader.string().ok()?;
    reader.bool().ok()?;
    matches!(name, b"!xec" | b"!ubsystem").then(|| reader.string().ok().map(Text::new))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splice::gate::tests::request;
    use crate::transport::wire::{put_string, put_u32};

    fn message(number: u8, fields: &[u32]) -> Vec<u8> {
        let mut message = vec![number];
        fields.iter().for_each(|field| put_u32(&mut message, *field));
        message
    }

    fn open(kind: &str, sender: u32, rest: &[u8]) -> Vec<u8> {
        let mut message = vec![msg::CHANNEL_OPEN];
        put_string(&mut message, kind.as_bytes());
        [sender, 1 << 21, 1 << 15].into_iter().for_each(|field| put_u32(&mut message, field));
        message.extend_from_slice(rest);
        message
    }

    fn data(recipient: u32, len: usize) -> Vec<u8> {
        let mut message = message(msg::CHANNEL_DATA, &[recipient]);
        put_string(&mut message, &vec![0; len]);
        message
    }

    fn told(tap: &mut Tap) -> Vec<String> {
        tap.events.drain(..).map(|event| serde_json::to_string(&event).unwrap()).collect()
    }

    #[test]
    fn a_commands_life_is_told_in_two_lines() {
        let mut tap = Tap::default();
        let mut exit = vec![msg::CHANNEL_REQUEST];
        put_u32(&mut exit, 3);
        put_string(&mut exit, b"exit-status");
        exit.push(0);
        put_u32(&mut exit, 7);
        let mut exec = request("exec", b"id -u");
        exec[1..5].copy_from_slice(&9u32.to_be_bytes());
        use Direction::{Down, Up};
        for (direction, message) in [
            (Up, open("session", 3, b"")),
            (Down, message(msg::CHANNEL_OPEN_CONFIRMATION, &[3, 9, 1, 1])),
            (Up, exec),
            (Up, data(9, 10)),
            (Down, data(3, 100)),
            (Down, data(3, 100)),
            (Down, exit),
            (Down, message(msg::CHANNEL_CLOSE, &[3])),
            (Up, message(msg::CHANNEL_CLOSE, &[9])),
        ] {
            tap.observe(direction, &message, None).unwrap();
        }
        assert_eq!(
            told(&mut tap),
            [
                r#"{"event":"channel.opened","channel":1,"kind":"exec","what":"id -u","pty":false}"#,
                r#"{"event":"channel.closed","channel":1,"exit_status":7,"bytes_down":200,"bytes_up":10}"#
            ]
        );
        assert!(tap.channels.is_empty() && tap.channels.is_bounded());
    }

    #[test]
    fn forwards_are_told_with_their_destination_and_refusals_with_who_refused() {
        let mut tap = Tap::default();
        let mut to = Vec::new();
        put_string(&mut to, b"10.0.0.5");
        put_u32(&mut to, 5432);
        tap.observe(Direction::Up, &open("direct-tcpip", 0, &to), None).unwrap();
        let mut failure = message(msg::CHANNEL_OPEN_FAILURE, &[0, 2]);
        put_string(&mut failure, b"Connection refused\nforged");
        tap.observe(Direction::Down, &failure, None).unwrap();
        tap.observe(Direction::Up, &open("direct-tcpip", 0, &to), None).unwrap();
        tap.observe(Direction::Down, &message(msg::CHANNEL_OPEN_CONFIRMATION, &[0, 4, 1, 1]), None).unwrap();
        let refusal = Refusal { kind: "direct-tcpip".to_owned(), what: None, reason: "the grant does not allow forward-local" };
        tap.observe(Direction::Up, &open("!irect-tcpip", 1, &to), Some(&refusal)).unwrap();
        tap.end();
        let lines = told(&mut tap);
        assert!(lines[0].contains(r#""by":"instance","reason":"Connection refused\nforged""#), "{}", lines[0]);
        assert!(lines[1].contains(r#""kind":"direct-tcpip","what":"10.0.0.5:5432""#), "{}", lines[1]);
        assert!(lines[2].contains(r#""what":"10.0.0.5:5432","by":"broker""#), "{}", lines[2]);
        assert!(lines[3].starts_with(r#"{"event":"channel.closed","channel":2"#), "{}", lines[3]);
        assert_eq!(lines.len(), 4);
    }

    #[test]
    fn a_path_longer_than_any_socket_has_is_not_kept() {
        let mut tap = Tap::default();
        let mut path = Vec::new();
        put_string(&mut path, &[0xff; 100_000]);
        tap.observe(Direction::Up, &open("direct-streamlocal@openssh.com", 0, &path), None).unwrap();
        assert!(tap.is_bounded());
    }

    #[test]
    fn the_table_is_bounded() {
        let mut tap = Tap::default();
        let refused = (0..20_000).find_map(|number| tap.observe(Direction::Down, &open("x11", number, b""), None).err());
        assert!(matches!(refused, Some(TransportError::Misbehaved(_))));
    }

    #[test]
    fn an_instance_that_confirms_one_channel_again_and_again_fills_no_table() {
        let mut tap = Tap::default();
        tap.observe(Direction::Up, &open("direct-tcpip", 0, b""), None).unwrap();
        for number in 0..1000 {
            tap.observe(Direction::Down, &message(msg::CHANNEL_OPEN_CONFIRMATION, &[0, number, 1, 1]), None).unwrap();
        }
        assert!(tap.is_bounded());
        assert_eq!((tap.channels.len(), told(&mut tap).len()), (1, 1));
        // Nor does one that opens and refuses, or whose operator takes the number again.
        for number in 1000..2000 {
            tap.observe(Direction::Up, &open("direct-tcpip", 0, b""), None).unwrap();
            tap.observe(Direction::Down, &message(msg::CHANNEL_OPEN_CONFIRMATION, &[0, number, 1, 1]), None).unwrap();
            if number % 2 == 0 {
                tap.observe(Direction::Down, &message(msg::CHANNEL_OPEN_FAILURE, &[0, 1]), None).unwrap();
            }
        }
        assert!(tap.is_bounded());
        assert_eq!(tap.channels.len(), 1);
    }
}
