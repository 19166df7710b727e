use std::time::Duration;

use serde::Serialize;

use super::cast::Cast;
use super::command::Command;
use super::operation::{Cut, Operation, Side, Unparsed, cut};
use super::scp::Scp;
use super::sftp::Sftp;
use super::tape::{Closed, Start, Stream};

/// One channel's part of a session's recording.
pub struct Track {
    pub(super) channel: u32,
    /// When it began, in the session.
    pub(super) began: Duration,
    kind: String,
    what: Option<String>,
    pub(super) body: Body,
}

pub(super) enum Body {
    Cast(Box<Cast>),
    Sftp(Box<Sftp>),
    Scp(Box<Scp>),
    Rsync {
        sends: bool,
        path: String,
    },
    /// Only how much it carries.
    Flow,
}

/// The first line about a channel.
#[derive(Serialize)]
pub(super) struct Began {
    op: &'static str,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cast: Option<String>,
}

impl Cut for Began {
    fn cut(&mut self, most: usize) {
        [Some(&mut self.kind), self.what.as_mut()].into_iter().flatten().for_each(|text| cut(text, most));
    }
}

/// The last line about a channel: for a forward, the flow.
#[derive(Serialize)]
pub(super) struct Ended {
    op: &'static str,
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    what: Option<String>,
    bytes_up: u64,
    bytes_down: u64,
    duration_s: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_signal: Option<String>,
}

impl Cut for Ended {
    fn cut(&mut self, most: usize) {
        let texts = [Some(&mut self.kind), self.what.as_mut(), self.exit_signal.as_mut()];
        texts.into_iter().flatten().for_each(|text| cut(text, most));
    }
}

impl Track {
    pub(super) fn new(start: &Start<'_>, began: Duration, cast: Option<Cast>) -> Self {
        let (kind, body) = match (cast, start.kind, start.what) {
            (Some(cast), kind, _) => (kind, Body::Cast(Box::new(cast))),
            (None, "subsystem", Some("sftp")) => ("sftp", Body::Sftp(Box::new(Sftp::new()))),
            (None, "exec", Some(command)) => match Command::of(command) {
                Command::Sftp => ("sftp", Body::Sftp(Box::new(Sftp::new()))),
                Command::Scp { sends, path } => ("scp", Body::Scp(Box::new(Scp::new(sends, path)))),
                Command::Rsync { sends, path } => ("rsync", Body::Rsync { sends, path: path.to_owned() }),
                Command::Other => ("exec", Body::Flow),
            },
            (None, kind, _) => (kind, Body::Flow),
        };
        Self { channel: start.channel, began, kind: kind.to_owned(), what: start.what.map(str::to_owned), body }
    }

    pub(super) fn first_line(&self) -> Began {
        let cast = if let Body::Cast(cast) = &self.body { Some(cast.name.clone()) } else { None };
        Began { op: "begin", kind: self.kind.clone(), what: self.what.clone(), cast }
    }

    /// File operations in what passes.
    pub(super) fn follow(&mut self, stream: Stream, bytes: &[u8], tell: &mut dyn FnMut(Operation)) -> Result<(), Unparsed> {
        let from = match stream {
            Stream::Input => Side::Operator,
            Stream::Output => Side::Instance,
            Stream::Errors => return Ok(()),
        };
        match &mut self.body {
            Body::Sftp(sftp) => sftp.push(from, bytes, tell),
            Body::Scp(scp) => scp.push(from, bytes, tell),
            Body::Cast(_) | Body::Rsync { .. } | Body::Flow => Ok(()),
        }
    }

    /// What the end of the channel tells, and its last line.
    pub(super) fn end(&mut self, at: Duration, closed: &Closed<'_>, tell: &mut dyn FnMut(Operation)) -> Ended {
        match &mut self.body {
            Body::Sftp(sftp) => sftp.end(tell),
            Body::Scp(scp) => scp.end(tell),
            Body::Rsync { sends, path } => tell(Operation {
                op: "rsync",
                direction: Some(if *sends { "down" } else { "up" }),
                path: std::mem::take(path),
                name: None,
                bytes_up: Some(closed.bytes_up),
                bytes_down: Some(closed.bytes_down),
                result: match (closed.exit_status, closed.exit_signal) {
                    (Some(0), _) => "ok".to_owned(),
                    (Some(status), _) => format!("exit {status}"),
                    (None, Some(signal)) => format!("signal {signal}"),
                    (None, None) => "unfinished".to_owned(),
                },
            }),
            Body::Cast(cast) => cast.end(at.saturating_sub(self.began)),
            Body::Flow => {}
        }
        let is_session = matches!(self.kind.as_str(), "shell" | "exec" | "subsystem" | "sftp" | "scp" | "rsync");
        Ended {
            op: if is_session { "end" } else { "flow" },
            kind: std::mem::take(&mut self.kind),
            what: self.what.take(),
            bytes_up: closed.bytes_up,
            bytes_down: closed.bytes_down,
            duration_s: (at.saturating_sub(self.began).as_secs_f64() * 1e3).round() / 1e3,
            exit_status: closed.exit_status,
            exit_signal: closed.exit_signal.map(str::to_owned),
        }
    }
}
