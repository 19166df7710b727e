//! What the tap tells a session's tape, read from the messages.

use crate::recording::{Pty, Start, Stream, Tape, Track};
use crate::transport::msg;
use crate::transport::wire::Reader;

use super::Direction;

/// A channel's part in the session's recording; empty while nothing is recorded.
#[derive(Default)]
pub(super) struct Taped {
    pty: Option<Pty>,
    pub(super) track: Option<Box<Track>>,
}

impl Taped {
    /// The fields of `pty-req` (RFC 4254, 6.2). One that cannot be read is a terminal all the same.
    pub(super) fn pty_requested(&mut self, mut fields: Reader<'_>) {
        let term = String::from_utf8_lossy(fields.string().unwrap_or_default()).into_owned();
        let (columns, rows) = (fields.u32().unwrap_or_default(), fields.u32().unwrap_or_default());
        self.pty = Some(Pty { term, columns, rows });
    }

    /// The fields of `window-change` (RFC 4254, 6.7).
    pub(super) fn window_changed(&mut self, tape: &mut Tape, mut fields: Reader<'_>) {
        let (Ok(columns), Ok(rows)) = (fields.u32(), fields.u32()) else { return };
        match (&mut self.track, &mut self.pty) {
            (Some(track), _) => tape.resized(track, columns, rows),
            (None, Some(pty)) => (pty.columns, pty.rows) = (columns, rows),
            (None, None) => {}
        }
    }

    pub(super) fn begin(&mut self, tape: &mut Tape, channel: u32, kind: &str, what: Option<&str>) -> Option<crate::audit::Event> {
        tape.start(&mut self.track, Start { channel, kind, what, pty: self.pty.as_ref() })
    }

    /// A data message, from behind its recipient.
    pub(super) fn data(&mut self, tape: &mut Tape, direction: Direction, number: u8, mut fields: Reader<'_>) {
        let Some(track) = &mut self.track else { return };
        let stream = match (direction, number) {
            (Direction::Up, _) => Stream::Input,
            (Direction::Down, msg::CHANNEL_DATA) => Stream::Output,
            (Direction::Down, _) => Stream::Errors,
        };
        if number == msg::CHANNEL_EXTENDED_DATA && fields.u32().is_err() {
            return;
        }
        if let Ok(bytes) = fields.string() {
            tape.data(track, stream, bytes);
        }
    }
}
