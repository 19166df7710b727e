use super::Direction;
use super::channels::Channels;
use super::gate::{Refusal, Verdict};
use crate::audit::{Event, Text};
use crate::transport::msg;
use crate::transport::wire::Reader;

/// What stands in place of a nested connection's first bytes, as far as they are long enough.
const SAID_INSTEAD: &[u8] = b"ssh-broker: SSH inside of a forward is not allowed here";
pub(super) const REASON: &str = "the grant does not allow nested-ssh";

/// Finds SSH inside of local forwards: streams that begin, either way, as an identification does (RFC 4253, 4.2): `SSH-2.0-…`.
///
/// What was recognized cannot be unsent, and a channel cannot be ended without either peer's doing. So where it is not allowed, the
/// channel's bytes are overwritten from then on, in both directions, their number kept: windows stay true, both ends of the nested
/// connection read what is no SSH and give up. An identification that comes byte by byte loses its last bytes, which is enough.
#[derive(Default)]
pub(super) struct Nested {
    streams: Channels<Stream>,
}

struct Stream {
    destination: Option<Text>,
    up: Head,
    down: Head,
    refused: bool,
    /// It is SSH, and was allowed.
    marked: bool,
}

/// The beginning of a stream, looked at byte by byte: `SSH-`, a digit, a dot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// So many bytes are as in an identification.
    Like(u8),
    Other,
    Ssh,
}

impl Head {
    fn read(self, bytes: &[u8]) -> Self {
        bytes.iter().fold(self, |head, byte| match (head, byte) {
            (Self::Like(0 | 1), b'S') | (Self::Like(2), b'H') | (Self::Like(3), b'-') | (Self::Like(4), b'0'..=b'9') => head.next(),
            (Self::Like(5), b'.') => Self::Ssh,
            (Self::Like(_), _) => Self::Other,
            (decided, _) => decided,
        })
    }

    fn next(self) -> Self {
        match self {
            Self::Like(n) => Self::Like(n + 1),
            decided => decided,
        }
    }
}

impl Nested {
    /// A local forward that is being opened, to be looked at.
    pub(super) fn watch(&mut self, operators: u32, destination: Option<Text>) {
        self.streams.insert(operators, Stream { destination, up: Head::Like(0), down: Head::Like(0), refused: false, marked: false });
    }

    /// The number is another channel's now.
    pub(super) fn forget(&mut self, operators: u32) {
        self.streams.forget(operators);
    }

    pub(super) fn follow(&mut self, direction: Direction, message: &[u8]) {
        self.streams.follow(direction, message);
    }

    /// Whether nested SSH that was allowed is open.
    pub(super) fn is_in_use(&self) -> bool {
        self.streams.iter().any(|stream| stream.marked)
    }

    /// Whether no stream is looked at.
    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Judges data on its way and overwrites it where it must not pass.
    pub(super) fn data(&mut self, direction: Direction, message: &mut [u8], is_allowed: bool) -> Verdict {
        let mut reader = Reader::new(message);
        let (Ok(number), Ok(recipient)) = (reader.u8(), reader.u32()) else { return Verdict::Pass };
        let Some(stream) = self.streams.recipient(direction, recipient).filter(|stream| !stream.marked) else { return Verdict::Pass };
        let header = if number == msg::CHANNEL_DATA { 9 } else { 13 };
        let Some(bytes) = message.get_mut(header..) else { return Verdict::Pass };
        if stream.refused {
            bytes.fill(b'\n');
            return Verdict::Pass;
        }
        let head = match direction {
            Direction::Up => &mut stream.up,
            Direction::Down => &mut stream.down,
        };
        *head = head.read(bytes);
        let (is_ssh, is_over) = (*head == Head::Ssh, stream.up == Head::Other && stream.down == Head::Other);
        let what = stream.destination.clone();
        if is_ssh && !is_allowed {
            stream.refused = true;
            say_instead(bytes);
            return Verdict::Refused(Refusal { kind: "nested-ssh".to_owned(), what, reason: REASON });
        }
        stream.marked = is_ssh;
        if is_over {
            self.no_more(direction, recipient);
        }
        if is_ssh { Verdict::Marked(Box::new(Event::ChannelMarked { kind: "nested-ssh", what })) } else { Verdict::Pass }
    }

    /// Nothing more is to be found in a stream.
    fn no_more(&mut self, direction: Direction, recipient: u32) {
        if let Some(operators) = self.streams.operators(direction, recipient) {
            self.streams.forget(operators);
        }
    }

    #[cfg(any(fuzzing, test))]
    pub(super) fn is_bounded(&self) -> bool {
        self.streams.is_bounded()
    }
}

/// A line of its own, whatever the length.
fn say_instead(bytes: &mut [u8]) {
    let end = bytes.len().saturating_sub(2).min(SAID_INSTEAD.len());
    for (at, byte) in bytes.iter_mut().enumerate() {
        *byte = SAID_INSTEAD.get(at).copied().filter(|_| at < end).unwrap_or(if at == end { b'\r' } else { b'\n' });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::wire::{put_string, put_u32};

    fn opened() -> Nested {
        let mut nested = Nested::default();
        nested.watch(3, Some("10.0.0.5:22".into()));
        let mut confirmation = vec![msg::CHANNEL_OPEN_CONFIRMATION];
        [3, 9, 1, 1].into_iter().for_each(|field| put_u32(&mut confirmation, field));
        nested.follow(Direction::Down, &confirmation);
        nested
    }

    fn data(recipient: u32, bytes: &[u8]) -> Vec<u8> {
        let mut message = vec![msg::CHANNEL_DATA];
        put_u32(&mut message, recipient);
        put_string(&mut message, bytes);
        message
    }

    /// What comes out of bytes that go through, in messages of their own.
    fn through(nested: &mut Nested, direction: Direction, parts: &[&[u8]], is_allowed: bool) -> (Vec<u8>, Vec<Verdict>) {
        let recipient = if direction == Direction::Up { 9 } else { 3 };
        let (mut came, mut verdicts) = (Vec::new(), Vec::new());
        for part in parts {
            let mut message = data(recipient, part);
            let before = message.clone();
            verdicts.push(nested.data(direction, &mut message, is_allowed));
            assert_eq!((message.len(), &message[..9]), (before.len(), &before[..9]));
            came.extend_from_slice(&message[9..]);
        }
        (came, verdicts)
    }

    fn refusal() -> Verdict {
        Verdict::Refused(Refusal { kind: "nested-ssh".to_owned(), what: Some("10.0.0.5:22".into()), reason: REASON })
    }

    #[test]
    fn either_sides_identification_is_recognized_and_nothing_of_the_channel_passes_any_more() {
        for direction in [Direction::Up, Direction::Down] {
            let mut nested = opened();
            let (came, verdicts) = through(&mut nested, direction, &[b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", b"more"], false);
            assert_eq!(verdicts, [refusal(), Verdict::Pass]);
            assert_eq!(came, b"ssh-broker: SSH inside of a forward is\r\n\n\n\n\n");
            let other = if direction == Direction::Up { Direction::Down } else { Direction::Up };
            assert_eq!(through(&mut nested, other, &[b"SSH-2.0-x\r\n"], false), (vec![b'\n'; 11], vec![Verdict::Pass]));
        }
    }

    #[test]
    fn split_at_every_byte_the_identification_does_not_slip_through() {
        let line: &[u8] = b"SSH-1.99-x\r\n";
        for at in 1..line.len() {
            let (came, verdicts) = through(&mut opened(), Direction::Up, &[&line[..at], &line[at..]], false);
            assert!(!came.starts_with(b"SSH-1.") && verdicts.contains(&refusal()), "{at}: {came:?}");
        }
        let bytes: Vec<&[u8]> = line.chunks(1).collect();
        let (came, _) = through(&mut opened(), Direction::Down, &bytes, false);
        assert!(came.starts_with(b"SSH-1\n") || came.starts_with(b"SSH-1\r"), "{came:?}");
    }

    #[test]
    fn allowed_it_is_marked_once_and_passes() {
        let mut nested = opened();
        let (came, verdicts) = through(&mut nested, Direction::Down, &[b"SSH-2.0-x\r\n", b"SSH-2.0-"], true);
        assert_eq!(came, b"SSH-2.0-x\r\nSSH-2.0-");
        assert!(matches!(verdicts.as_slice(), [Verdict::Marked(_), Verdict::Pass]));
        assert_eq!(through(&mut nested, Direction::Up, &[b"SSH-2.0-x\r\n"], true).1, [Verdict::Pass]);
        assert!(nested.is_in_use());
        let close = |recipient: u32| [&[msg::CHANNEL_CLOSE][..], &recipient.to_be_bytes()].concat();
        nested.follow(Direction::Up, &close(9));
        nested.follow(Direction::Down, &close(3));
        assert!(!nested.is_in_use() && nested.streams.is_empty());
    }

    #[test]
    fn what_only_looks_like_it_passes_and_is_looked_at_no_more() {
        for other in [&b"SSH-"[..], b"ssh-2.0-x", b"SSSH-2.0-", b"SSH-x.0", b"GET / SSH-2.0-", b"SSH-22.0"] {
            let mut nested = opened();
            let (came, verdicts) = through(&mut nested, Direction::Up, &[other, b"!SSH-2.0-"], false);
            assert_eq!(came, [other, b"!SSH-2.0-"].concat());
            assert_eq!(verdicts, [Verdict::Pass, Verdict::Pass]);
            through(&mut nested, Direction::Down, &[b"", b"HTTP/1.1"], false);
            assert!(nested.streams.is_empty(), "{other:?}");
        }
    }

    #[test]
    fn other_channels_and_short_messages_pass() {
        let mut nested = opened();
        let mut message = data(4, b"SSH-2.0-x");
        assert_eq!(nested.data(Direction::Down, &mut message, false), Verdict::Pass);
        for len in 0..9 {
            assert_eq!(nested.data(Direction::Down, &mut data(3, b"SSH-2.0-")[..len].to_vec(), false), Verdict::Pass);
        }
    }
}
