use std::collections::VecDeque;

use super::Direction;
use super::channels::Channels;
use crate::transport::msg;
use crate::transport::wire::{Reader, put_string, put_u32};

/// Bytes of a session channel's window that the instance does not learn of: for what the broker may have to say there.
const RESERVE: u32 = 1024;
/// A window smaller than this is left alone; such a channel hears no notices.
const MIN_WINDOW: u32 = 16 * RESERVE;
/// Requests of one channel that wait for their replies; a channel with more hears no notices.
const MAX_ASKED: usize = 32;
/// Explanations that wait for one channel's shell.
const MAX_WAITING: usize = 4;

/// Says something to the operator on every channel that has a terminal with something running on it, and never on any other: there it
/// would stand amid a program's output.
///
/// **Invariant**: the instance's view of a channel's window is the operator's less the reserve, always. The reserve is taken from the window
/// in the operator's CHANNEL_OPEN before that passes; a notice takes from the reserve; the operator's next adjustments are cut, in place, by
/// what the reserve lacks. So neither peer can be made to send more than the other granted. A channel without a terminal gets its reserve
/// back with its first adjustment.
#[derive(Default)]
pub(super) struct Notices {
    sessions: Channels<Session>,
    /// Notices for the operator, ready to be sent; nothing passes before they are.
    pub(super) ready: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Session {
    reserve: u32,
    max_packet: u32,
    terminal: Answer,
    running: Answer,
    /// What the operator's side asked for and has no reply to yet, in order.
    asked: VecDeque<Asked>,
    /// There were more than [`MAX_ASKED`].
    lost_count: bool,
    /// The instance sends no more data.
    is_over: bool,
    /// What is to be said once something runs.
    waiting: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Answer {
    #[default]
    NotAsked,
    Asked,
    Yes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Terminal,
    Start,
    Other,
}

impl Session {
    fn hears(&self) -> bool {
        self.terminal == Answer::Yes && self.running == Answer::Yes && !self.is_over && !self.lost_count
    }

    /// What the reserve should be.
    fn due(&self) -> u32 {
        let has_no_terminal = self.terminal == Answer::NotAsked && self.running != Answer::NotAsked;
        if has_no_terminal || self.max_packet == 0 { 0 } else { RESERVE }
    }

    /// Takes from an adjustment what the reserve lacks, but for one byte: an adjustment by nothing need not be understood. What the reserve
    /// has too much is given back.
    fn adjust(&mut self, by: u32) -> u32 {
        let due = self.due();
        if self.reserve > due {
            let Some(more) = by.checked_add(self.reserve - due) else { return by };
            self.reserve = due;
            return more;
        }
        let taken = (due - self.reserve).min(by.saturating_sub(1));
        self.reserve += taken;
        by - taken
    }

    fn say(&mut self, operators: u32, text: &str) -> Option<Vec<u8>> {
        let line = format!("\r\n{text}\r\n");
        let len = u32::try_from(line.len()).ok()?;
        self.reserve = self.reserve.checked_sub(len).filter(|_| len <= self.max_packet)?;
        let mut message = vec![msg::CHANNEL_DATA];
        put_u32(&mut message, operators);
        put_string(&mut message, line.as_bytes());
        Some(message)
    }
}

impl Notices {
    /// Says it on every terminal that runs now and has room.
    pub(super) fn say(&mut self, text: &str) {
        let hearing = self.sessions.iter_mut().filter(|(_, session)| session.hears());
        self.ready.extend(hearing.filter_map(|(operators, session)| session.say(operators, text)));
    }

    /// Says it on one channel, by the instance's number, once a terminal runs there.
    pub(super) fn explain(&mut self, instances: u32, text: String) {
        let Some(session) = self.sessions.recipient(Direction::Up, instances) else { return };
        if session.waiting.len() < MAX_WAITING {
            session.waiting.push(text);
        }
        self.say_waiting(Direction::Up, instances);
    }

    /// Reads, and where it concerns a window changes in place, a message that passes. A request that was refused is in its place still.
    pub(super) fn pass(&mut self, direction: Direction, message: &mut [u8]) {
        let mut reader = Reader::new(message);
        let (Ok(number), Ok(first)) = (reader.u8(), reader.u32()) else { return };
        match (number, direction) {
            (msg::CHANNEL_OPEN, Direction::Up) => self.open(message),
            (msg::CHANNEL_WINDOW_ADJUST, Direction::Up) => self.adjust(first, message),
            (msg::CHANNEL_REQUEST, Direction::Up) => self.request(first, reader),
            (msg::CHANNEL_SUCCESS | msg::CHANNEL_FAILURE, Direction::Down) => self.reply(first, number == msg::CHANNEL_SUCCESS),
            (msg::CHANNEL_EOF | msg::CHANNEL_CLOSE, Direction::Down) => {
                if let Some(session) = self.sessions.recipient(direction, first) {
                    session.is_over = true;
                }
            }
            _ => {}
        }
        self.sessions.follow(direction, message);
    }

    fn open(&mut self, message: &mut [u8]) {
        let mut reader = Reader::new(message.get(1..).unwrap_or_default());
        let (Ok(kind), Ok(sender), Ok(window), Ok(max_packet)) = (reader.string(), reader.u32(), reader.u32(), reader.u32()) else {
            return;
        };
        // The number is this channel's now, whatever kind it is of.
        self.sessions.forget(sender);
        let at = 1 + 4 + kind.len() + 4;
        if kind != b"session" || window < MIN_WINDOW {
            return;
        }
        if let Some(field) = message.get_mut(at..at + 4) {
            field.copy_from_slice(&(window - RESERVE).to_be_bytes());
            self.sessions.insert(sender, Session { reserve: RESERVE, max_packet, ..Session::default() });
        }
    }

    fn adjust(&mut self, instances: u32, message: &mut [u8]) {
        let Some(session) = self.sessions.recipient(Direction::Up, instances) else { return };
        if let Some(field) = message.get_mut(5..9)
            && let Ok(by) = <[u8; 4]>::try_from(&*field)
        {
            field.copy_from_slice(&session.adjust(u32::from_be_bytes(by)).to_be_bytes());
        }
    }

    fn request(&mut self, instances: u32, mut reader: Reader<'_>) {
        let Some(session) = self.sessions.recipient(Direction::Up, instances) else { return };
        let (Ok(name), Ok(wants_reply)) = (reader.string(), reader.bool()) else { return };
        let asked = match name {
            b"pty-req" => Asked::Terminal,
            b"shell" | b"exec" | b"subsystem" => Asked::Start,
            _ => Asked::Other,
        };
        match asked {
            // Without a reply nobody knows whether there is a terminal.
            Asked::Terminal if wants_reply => session.terminal = Answer::Asked,
            Asked::Start => session.running = if wants_reply { Answer::Asked } else { Answer::Yes },
            _ => {}
        }
        if wants_reply {
            session.lost_count |= session.asked.len() >= MAX_ASKED;
            if !session.lost_count {
                session.asked.push_back(asked);
            }
        }
        self.say_waiting(Direction::Up, instances);
    }

    fn reply(&mut self, operators: u32, is_success: bool) {
        let Some(session) = self.sessions.recipient(Direction::Down, operators) else { return };
        let answer = if is_success { Answer::Yes } else { Answer::NotAsked };
        match session.asked.pop_front() {
            Some(Asked::Terminal) => session.terminal = answer,
            Some(Asked::Start) => session.running = answer,
            Some(Asked::Other) | None => {}
        }
        if session.asked.is_empty() {
            session.asked = VecDeque::new();
        }
        self.say_waiting(Direction::Down, operators);
    }

    fn say_waiting(&mut self, direction: Direction, number: u32) {
        let Some(operators) = self.sessions.operators(direction, number) else { return };
        let Some(session) = self.sessions.recipient(Direction::Down, operators).filter(|session| session.hears()) else { return };
        let waiting = std::mem::take(&mut session.waiting);
        self.ready.extend(waiting.iter().filter_map(|text| session.say(operators, text)));
    }

    #[cfg(any(fuzzing, test))]
    pub(super) fn is_bounded(&mut self) -> bool {
        self.sessions.is_bounded()
            && self.sessions.iter_mut().all(|(_, session)| session.asked.len() <= MAX_ASKED && session.waiting.len() <= MAX_WAITING)
    }
}

#[cfg(test)]
mod tests;
