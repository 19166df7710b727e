use super::Direction;
use super::channels::Channels;
use super::destination::destination;
use super::nested::Nested;
use super::notice::Notices;
use crate::access::{Capability, Grant};
use crate::audit::{Event, Text};
use crate::transport::msg;
use crate::transport::wire::{Reader, put_string, put_u32};

/// RFC 4254, 5.1.
const ADMINISTRATIVELY_PROHIBITED: u32 = 1;

/// What happens to a message.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    Pass,
    /// Made harmless in place by the gate: it passes, and the peer refuses it. With why.
    Refused(Refusal),
    /// It passes, and the audit should know.
    Marked(Box<Event>),
    /// This goes in its place.
    Replaced(Vec<u8>),
    /// Not for the other side.
    Drop,
    /// Its sender does what no peer does.
    Misbehaved(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked for, by its protocol name.
    pub kind: String,
    /// Where it was to go, where the message itself does not say.
    pub what: Option<Text>,
    pub reason: &'static str,
}

/// Holds a session to its grant.
///
/// Its state is what the operator's side has asked for, so that an instance can open nothing unasked; which opens it refused, so that the
/// failure tells why; and what `Nested` and `Notices` keep.
pub struct Gate {
    grant: Grant,
    asked: Asked,
    /// Channel opens that were refused and not answered yet, and why.
    refused: Channels<&'static str>,
    nested: Nested,
    notices: Notices,
    /// What is to be sent to the operator's side now.
    words: Vec<Vec<u8>>,
}

#[derive(Default)]
struct Asked {
    tcpip_forward: bool,
    streamlocal_forward: bool,
    agent: bool,
    x11: bool,
}

/// Whether something may pass, and if not, why.
type Permission = Result<(), &'static str>;

impl Gate {
    pub fn new(grant: Grant) -> Self {
        Self {
            grant,
            asked: Asked::default(),
            refused: Channels::default(),
            nested: Nested::default(),
            notices: Notices::default(),
            words: Vec::new(),
        }
    }

    /// Holds the session to another grant from now on.
    pub fn regrant(&mut self, grant: Grant) {
        self.grant = grant;
    }

    /// Whether the grant allows what the operator's side has asked for without a channel of its own, and what was found inside of one.
    pub fn fits(&self, grant: &Grant) -> bool {
        let Asked { tcpip_forward, streamlocal_forward, agent, x11 } = self.asked;
        let asked = [
            (Capability::ForwardRemote, tcpip_forward || streamlocal_forward),
            (Capability::Agent, agent),
            (Capability::X11, x11),
            (Capability::NestedSsh, self.nested.is_in_use()),
        ];
        asked.into_iter().all(|(capability, asked)| !asked || grant.allows(capability))
    }

    /// Whether a message passes without a look: what carries bulk, but for the beginnings of forwards.
    pub(super) fn passes(&self, message: &[u8]) -> bool {
        matches!(message.first(), Some(&(msg::CHANNEL_DATA | msg::CHANNEL_EXTENDED_DATA))) && self.nested.is_empty()
    }

    /// Judges a message on its way, and changes it in place where it must not pass as it is.
    pub fn judge(&mut self, direction: Direction, message: &mut [u8]) -> Verdict {
        match message.first().copied() {
            Some(msg::CHANNEL_DATA | msg::CHANNEL_EXTENDED_DATA) => self.judge_data(direction, message),
            // Authentication is over: what still speaks of it ends here (RFC 4252, 5.3).
            Some(number) if number < msg::FIRST_CONNECTION => Verdict::Drop,
            Some(number) => self.judge_other(direction, number, message),
            None => Verdict::Pass,
        }
    }

    #[inline(never)]
    fn judge_data(&mut self, direction: Direction, message: &mut [u8]) -> Verdict {
        let verdict = self.nested.data(direction, message, self.grant.allows(Capability::NestedSsh));
        if let Verdict::Refused(refusal) = &verdict {
            self.notice(&format!("ssh-broker: {}", refusal.reason));
            self.debug(refusal.reason);
        }
        verdict
    }

    /// What carries no data.
    #[inline(never)]
    fn judge_other(&mut self, direction: Direction, number: u8, message: &mut [u8]) -> Verdict {
        let verdict = match number {
            msg::CHANNEL_OPEN_CONFIRMATION | msg::CHANNEL_OPEN_FAILURE if direction == Direction::Down => self.answered(message),
            _ => self.permit(direction, message),
        };
        self.nested.follow(direction, message);
        self.notices.pass(direction, message);
        self.words.append(&mut self.notices.ready);
        if let Verdict::Refused(refusal) = &verdict {
            self.debug(refusal.reason);
        }
        verdict
    }

    /// Says something on every terminal that runs.
    pub(super) fn notice(&mut self, text: &str) {
        self.notices.say(text);
        self.words.append(&mut self.notices.ready);
    }

    pub(super) fn has_words(&self) -> bool {
        !self.words.is_empty()
    }

    /// Messages for the operator's side: they are to be sent before anything else passes.
    pub(super) fn words(&mut self) -> impl Iterator<Item = Vec<u8>> {
        self.words.drain(..)
    }

    #[cfg(any(fuzzing, test))]
    pub(super) fn is_bounded(&mut self) -> bool {
        self.refused.is_bounded() && self.nested.is_bounded() && self.notices.is_bounded()
    }

    /// Says why in a message that concerns no channel (RFC 4253, 11.3); `ssh -v` shows it.
    fn debug(&mut self, reason: &str) {
        let mut message = vec![msg::DEBUG, 1];
        put_string(&mut message, format!("ssh-broker: {reason}").as_bytes());
        put_string(&mut message, b"");
        self.words.push(message);
    }

    fn permit(&mut self, direction: Direction, message: &mut [u8]) -> Verdict {
        let permission = match (message.first().copied(), direction) {
            (Some(msg::CHANNEL_OPEN), _) => named(message, 1).map(|(at, name)| (at, self.open(direction, message, name))),
            (Some(msg::CHANNEL_REQUEST), Direction::Up) => named(message, 5).map(|(at, name)| (at, self.channel_request(message, name))),
            (Some(msg::GLOBAL_REQUEST), Direction::Up) => named(message, 1).map(|(at, name)| (at, self.global_request(name))),
            (Some(msg::GLOBAL_REQUEST), Direction::Down) => return global_request_down(message),
            _ => return Verdict::Pass,
        };
        match permission {
            Some((at, Err(reason))) => {
                let kind = String::from_utf8_lossy(named(message, at.saturating_sub(4)).map_or(&[], |(_, name)| name)).into_owned();
                if let Some(first) = message.get_mut(at) {
                    *first = b'!';
                }
                Verdict::Refused(Refusal { kind, what: None, reason })
            }
            // A message too short for its name is the peer's to refuse.
            Some((_, Ok(()))) | None => Verdict::Pass,
        }
    }

    /// The instance's answer to a channel open: the failure of one that was refused here tells the operator's client why.
    fn answered(&mut self, message: &[u8]) -> Verdict {
        let mut reader = Reader::new(message);
        let (Ok(number), Ok(operators)) = (reader.u8(), reader.u32()) else { return Verdict::Pass };
        let Some(reason) = self.refused.forget(operators) else { return Verdict::Pass };
        if number == msg::CHANNEL_OPEN_CONFIRMATION {
            return Verdict::Misbehaved("the instance opened a channel of a type that nobody knows");
        }
        let mut failure = vec![msg::CHANNEL_OPEN_FAILURE];
        put_u32(&mut failure, operators);
        put_u32(&mut failure, ADMINISTRATIVELY_PROHIBITED);
        put_string(&mut failure, format!("ssh-broker: {reason}").as_bytes());
        put_string(&mut failure, b"");
        Verdict::Replaced(failure)
    }

    fn needs(&self, capability: Capability) -> Permission {
        if self.grant.allows(capability) {
            return Ok(());
        }
        Err(match capability {
            Capability::Shell => "the grant does not allow shell",
            Capability::Exec => "the grant does not allow exec",
            Capability::Sftp => "the grant does not allow sftp",
            Capability::ForwardLocal => "the grant does not allow forward-local",
            Capability::ForwardRemote => "the grant does not allow forward-remote",
            Capability::Agent => "the grant does not allow agent",
            Capability::X11 => "the grant does not allow x11",
            Capability::NestedSsh => "the grant does not allow nested-ssh",
            Capability::Any => "the grant does not allow channels of this type",
        })
    }

    fn open(&mut self, direction: Direction, message: &[u8], kind: &[u8]) -> Permission {
        let permission = self.may_open(direction, message, kind);
        if let (Direction::Up, Some(sender)) = (direction, sender(message)) {
            self.refused.forget(sender);
            self.nested.forget(sender);
            match (permission, kind) {
                (Err(reason), _) => drop(self.refused.insert(sender, reason)),
                (Ok(()), b"direct-tcpip" | b"direct-streamlocal@openssh.com") => self.nested.watch(sender, destination(message)),
                (Ok(()), _) => {}
            }
        }
        permission
    }

    fn may_open(&self, direction: Direction, message: &[u8], kind: &[u8]) -> Permission {
        let asked = |asked: bool| if asked { Ok(()) } else { Err("the operator's side did not ask for it") };
        match (direction, kind) {
            (Direction::Up, b"session") => Ok(()),
            (Direction::Up, b"direct-tcpip" | b"direct-streamlocal@openssh.com") => {
                self.needs(Capability::ForwardLocal)?;
                if self.goes_where_it_may(message, kind) { Ok(()) } else { Err("the grant does not allow forward-local to there") }
            }
            (Direction::Down, b"forwarded-tcpip") => asked(self.asked.tcpip_forward),
            (Direction::Down, b"forwarded-streamlocal@openssh.com") => asked(self.asked.streamlocal_forward),
            (Direction::Down, b"auth-agent@openssh.com") => asked(self.asked.agent),
            (Direction::Down, b"x11") => asked(self.asked.x11),
            // What only one side may open, or only with the other's asking, is known: `any` is for what is not.
            (Direction::Down, b"session" | b"direct-tcpip" | b"direct-streamlocal@openssh.com") => {
                Err("no instance opens this channel type")
            }
            _ => self.needs(Capability::Any),
        }
    }

    fn goes_where_it_may(&self, message: &[u8], kind: &[u8]) -> bool {
        let mut reader = Reader::new(message.get(1 + 4 + kind.len() + 12..).unwrap_or_default());
        match (kind, reader.text(), reader.u32()) {
            (b"direct-tcpip", Ok(host), Ok(port)) => self.grant.allows_destination(host, port),
            (b"direct-streamlocal@openssh.com", Ok(path), _) => self.grant.allows_path(path),
            // What cannot be read goes nowhere; a grant without a list leaves it to the instance to say so.
            _ => self.grant.allows_destination("", 0) && self.grant.allows_path(""),
        }
    }

    fn channel_request(&mut self, message: &[u8], name: &[u8]) -> Permission {
        match name {
            b"shell" => self.needs(Capability::Shell),
            b"exec" => self.needs(Capability::Exec),
            b"subsystem" if subsystem(message) == Some(b"sftp") => self.needs(Capability::Sftp),
            b"subsystem" => self.needs(Capability::Exec),
            b"pty-req" if !self.grant.allows_pty() => Err("the operator's key does not allow a pty"),
            b"auth-agent-req@openssh.com" => {
                self.asked.agent |= self.grant.allows(Capability::Agent);
                self.needs(Capability::Agent).inspect_err(|reason| self.explain(message, reason))
            }
            b"x11-req" => {
                self.asked.x11 |= self.grant.allows(Capability::X11);
                self.needs(Capability::X11).inspect_err(|reason| self.explain(message, reason))
            }
            _ => Ok(()),
        }
    }

    /// A session goes on without what was asked for, and clients say nothing or little of it: its terminal, if it gets one, tells why.
    fn explain(&mut self, message: &[u8], reason: &str) {
        if let Ok(instances) = Reader::new(message.get(1..).unwrap_or_default()).u32() {
            self.notices.explain(instances, format!("ssh-broker: {reason}"));
        }
    }

    fn global_request(&mut self, name: &[u8]) -> Permission {
        let asked = match name {
            b"tcpip-forward" => &mut self.asked.tcpip_forward,
            b"streamlocal-forward@openssh.com" => &mut self.asked.streamlocal_forward,
            _ => return Ok(()),
        };
        *asked |= self.grant.allows(Capability::ForwardRemote);
        self.needs(Capability::ForwardRemote)
    }
}

/// `hostkeys-00@openssh.com` speaks of keys that the operator must not learn; OpenSSH sends it without wanting a reply. With one it is
/// renamed, so that the reply still comes in order.
fn global_request_down(message: &mut [u8]) -> Verdict {
    let Some((at, b"hostkeys-00@openssh.com")) = named(message, 1) else { return Verdict::Pass };
    let wants_reply = message.get(at + b"hostkeys-00@openssh.com".len()).is_some_and(|byte| *byte != 0);
    if !wants_reply {
        return Verdict::Drop;
    }
    if let Some(first) = message.get_mut(at) {
        *first = b'!';
    }
    Verdict::Pass
}

/// The string whose length field is at `at`, and where its first byte is. `None` when it is empty or not all there.
fn named(message: &[u8], at: usize) -> Option<(usize, &[u8])> {
    let name = Reader::new(message.get(at..)?).string().ok()?;
    (!name.is_empty()).then_some((at + 4, name))
}

/// The sender's number in a CHANNEL_OPEN.
fn sender(message: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(message.get(1..)?);
    reader.string().ok()?;
    reader.u32().ok()
}

/// The name in a `subsystem` request (RFC 4254, 6.5).
fn subsystem(message: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(message.get(5..)?);
    reader.string().ok()?;
    reader.bool().ok()?;
    reader.string().ok()
}

#[cfg(test)]
pub(super) mod tests;
