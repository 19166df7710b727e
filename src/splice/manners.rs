//! What OpenSSH says only to a peer that is known to understand it. Each side knows the broker alone, which claims to understand it all;
//! what the other side is not known for ends here.

use super::Direction;
use crate::transport::{Leg, msg};

/// What the receiver of messages understands. It has said so before the operator is let in (RFC 8308, 2.4).
#[derive(Debug, Clone, Copy)]
pub(super) struct Manners {
    openssh: bool,
    answers_pings: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heed {
    Pass,
    /// A PING that the sender's own leg answers.
    Answer,
    Drop,
}

impl Manners {
    pub(super) fn of(leg: &Leg) -> Self {
        let openssh = leg.peer_version().is_some_and(|version| version.contains("-OpenSSH"));
        Self { openssh, answers_pings: leg.answers_pings() }
    }

    pub(super) fn heed(self, direction: Direction, message: &[u8]) -> Heed {
        match message.first() {
            // Our leg has announced it to the operator's side, and to no other.
            Some(&msg::PING) if direction == Direction::Up && !self.answers_pings => Heed::Answer,
            Some(&msg::CHANNEL_REQUEST) if !self.openssh && is_eow(message) => Heed::Drop,
            _ => Heed::Pass,
        }
    }
}

/// The channel request that nobody reads any more (OpenSSH's PROTOCOL, 2.1); it never wants a reply.
fn is_eow(message: &[u8]) -> bool {
    message.get(5..) == Some(b"\0\0\0\x0feow@openssh.com\0")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_receiver_is_not_known_for_ends_here() {
        let openssh = Manners { openssh: true, answers_pings: true };
        let other = Manners { openssh: false, answers_pings: false };
        let eow = b"\x62\0\0\0\x07\0\0\0\x0feow@openssh.com\0";
        let wants_reply = b"\x62\0\0\0\x07\0\0\0\x0feow@openssh.com\x01";
        let ping = b"\xc0\0\0\0\x01x";
        for direction in [Direction::Up, Direction::Down] {
            assert_eq!(openssh.heed(direction, eow), Heed::Pass);
            assert_eq!(other.heed(direction, eow), Heed::Drop);
            assert_eq!(other.heed(direction, wants_reply), Heed::Pass);
            assert_eq!(openssh.heed(direction, ping), Heed::Pass);
            assert_eq!(other.heed(direction, &[]), Heed::Pass);
        }
        assert_eq!(other.heed(Direction::Up, ping), Heed::Answer);
        assert_eq!(other.heed(Direction::Down, ping), Heed::Pass);
    }
}
