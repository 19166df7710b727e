use std::time::Duration;

use serde::Serialize;

use super::queue::Feeder;
use super::utf8::Utf8;

/// A terminal as a channel asked for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pty {
    pub term: String,
    pub columns: u32,
    pub rows: u32,
}

impl Pty {
    /// Players need a size: a client without a terminal of its own asks for 0 by 0.
    fn size(columns: u32, rows: u32) -> (u32, u32) {
        if columns == 0 || rows == 0 { (80, 24) } else { (columns.min(10_000), rows.min(10_000)) }
    }
}

/// The first line of an asciicast (version 2 of the format).
#[derive(Serialize)]
pub(super) struct Header<'a> {
    version: u8,
    width: u32,
    height: u32,
    timestamp: u64,
    title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<&'a str>,
    env: Environment<'a>,
}

#[derive(Serialize)]
struct Environment<'a> {
    #[serde(rename = "TERM")]
    term: &'a str,
}

impl<'a> Header<'a> {
    pub(super) fn new(pty: &'a Pty, timestamp: u64, title: String, command: Option<&'a str>) -> Self {
        let (width, height) = Pty::size(pty.columns, pty.rows);
        let term = pty.term.get(..pty.term.floor_char_boundary(64)).unwrap_or_default();
        let command = command.and_then(|command| command.get(..command.floor_char_boundary(256)));
        Self { version: 2, width, height, timestamp, title, command, env: Environment { term } }
    }

    pub(super) fn line(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// One channel's terminal on its way to a file.
pub(super) struct Cast {
    pub(super) name: String,
    pub(super) feeder: Feeder,
    output: Utf8,
    input: Utf8,
}

impl Cast {
    pub(super) fn new(name: String, feeder: Feeder) -> Self {
        Self { name, feeder, output: Utf8::default(), input: Utf8::default() }
    }

    pub(super) fn output(&mut self, at: Duration, bytes: &[u8]) {
        self.feeder.append(|lines| self.output.push(bytes, |text| lines.event(at, b'o', text)));
    }

    pub(super) fn input(&mut self, at: Duration, bytes: &[u8]) {
        self.feeder.append(|lines| self.input.push(bytes, |text| lines.event(at, b'i', text)));
    }

    pub(super) fn resized(&mut self, at: Duration, columns: u32, rows: u32) {
        let (columns, rows) = Pty::size(columns, rows);
        self.feeder.append(|lines| lines.event(at, b'r', &format!("{columns}x{rows}")));
    }

    pub(super) fn end(&mut self, at: Duration) {
        self.feeder.append(|lines| {
            self.output.end(|text| lines.event(at, b'o', text));
            self.input.end(|text| lines.event(at, b'i', text));
        });
    }
}
