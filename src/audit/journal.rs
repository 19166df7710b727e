use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use serde::Serialize;

use super::{Config, Event, Sink, Subject};

#[derive(Serialize)]
struct Line<'a> {
    ts: String,
    /// Which process wrote it: while one takes over from another, both write to the same file.
    process: &'a str,
    /// Counts every event of this process from 1, so that a gap shows.
    seq: u64,
    #[serde(flatten)]
    event: &'a Event,
    #[serde(flatten)]
    subject: &'a Subject,
}

/// The lines on their way into the sink.
///
/// **Invariant**: what was added is written in its order, byte after byte, however often the sink fails in between: a line that was cut off
/// by a full disk is gone on with where it stopped.
pub(super) struct Journal {
    out: Box<dyn Write + Send>,
    /// To be synced to the disk, where the sink is a file and the settings want it.
    file: Option<File>,
    process: String,
    seq: u64,
    lines: Vec<u8>,
    /// Bytes of them that the sink has taken.
    taken: usize,
    unsynced: bool,
}

impl Journal {
    pub(super) fn open(config: &Config) -> io::Result<Self> {
        Ok(match &config.path {
            // The descriptor itself: what the standard library would buffer could fail unseen.
            Sink::Stdout => Self::over(Box::new(File::from(io::stdout().as_fd().try_clone_to_owned()?)), None),
            Sink::File(path) => {
                let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
                mend(&mut file, path)?;
                let synced = config.sync.then(|| file.try_clone()).transpose()?;
                Self::over(Box::new(file), synced)
            }
        })
    }

    pub(super) fn over(out: Box<dyn Write + Send>, file: Option<File>) -> Self {
        Self { out, file, process: process_name(), seq: 0, lines: Vec::new(), taken: 0, unsynced: false }
    }

    pub(super) fn add(&mut self, subject: &Subject, event: &Event) {
        self.seq += 1;
        let line = serde_json::to_vec(&Line { ts: now(), process: &self.process, seq: self.seq, event, subject });
        // No event has a map with keys that are not strings, the one thing that cannot be JSON; the number would be kept all the same.
        let line = line.unwrap_or_else(|error| {
            tracing::error!(%error, "an audit event could not be written as JSON");
            format!("{{\"seq\":{},\"event\":\"audit.unwritable\"}}", self.seq).into_bytes()
        });
        self.lines.extend_from_slice(&visible(line));
        self.lines.push(b'\n');
    }

    /// Hands the lines to the sink, and with `durably` to the disk. What failed is to be tried again.
    pub(super) fn deliver(&mut self, durably: bool) -> io::Result<()> {
        while let Some(rest) = self.lines.get(self.taken..)
            && !rest.is_empty()
        {
            self.unsynced = true;
            match self.out.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(taken) => self.taken += taken,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.out.flush()?;
        self.taken = 0;
        self.lines.clear();
        self.lines.shrink_to(64 * 1024);
        if let Some(file) = self.file.as_ref().filter(|_| durably && self.unsynced) {
            file.sync_data()?;
            self.unsynced = false;
        }
        Ok(())
    }

    /// Lines that have not been taken whole.
    pub(super) fn undelivered(&self) -> usize {
        self.lines.get(self.taken..).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count()
    }
}

/// JSON escapes the controls of ASCII alone. What else moves a terminal's cursor, ends a line for some reader or turns the text around is
/// escaped too: nothing is lost, and nothing acts.
fn visible(line: Vec<u8>) -> Vec<u8> {
    let acts = |c: char| {
        c == '\x7f'
            || c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    match std::str::from_utf8(&line) {
        Ok(text) if text.contains(acts) => {
            let mut escaped = String::with_capacity(text.len() + 64);
            for c in text.chars() {
                match acts(c) {
                    true => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
                    false => escaped.push(c),
                }
            }
            escaped.into_bytes()
        }
        _ => line,
    }
}

/// A crash may have cut the last line off. It is ended, so that the next one stands alone.
fn mend(file: &mut File, path: &Path) -> io::Result<()> {
    // Pipes and devices keep nothing.
    let (metadata, mut last) = (file.metadata()?, [b'\n']);
    if metadata.is_file() && metadata.len() > 0 {
        File::open(path)?.read_exact_at(&mut last, metadata.len() - 1)?;
    }
    if last != *b"\n" {
        tracing::warn!(path = %path.display(), "the last line of the audit had been cut off");
        file.write_all(b"\n")?;
    }
    Ok(())
}

/// No two processes of a machine have the same: the number and the second of its start.
fn process_name() -> String {
    format!("{}-{:x}", std::process::id(), jiff::Timestamp::now().as_second())
}

/// RFC 3339, UTC, milliseconds.
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(path: &Path) -> Config {
        Config { path: Sink::File(path.to_owned()), queue: 1, sync: true }
    }

    fn event() -> Event {
        Event::TargetDenied { typed: "ins-a".into(), reason: "no grant matches".into() }
    }

    #[test]
    fn a_line_that_a_crash_cut_off_does_not_spoil_the_next_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        for (before, ended) in [("", ""), ("{\"seq\":1}\n", "{\"seq\":1}\n"), ("{\"seq\":1}\n{\"se", "{\"seq\":1}\n{\"se\n")] {
            std::fs::write(&path, before).unwrap();
            let mut journal = Journal::open(&config(&path)).unwrap();
            journal.add(&Subject::default(), &event());
            journal.deliver(true).unwrap();
            let text = std::fs::read_to_string(&path).unwrap();
            let line: serde_json::Value = serde_json::from_str(text.strip_prefix(ended).unwrap()).unwrap();
            assert_eq!(line["seq"], 1);
            assert!(line["process"].as_str().unwrap().starts_with(&format!("{}-", std::process::id())));
        }
    }

    #[test]
    fn what_would_act_on_a_terminal_is_escaped_and_none_of_it_lost() {
        let text = "a\u{9b}2J\u{7f}\u{202e}\u{2028}\u{feff}é\x1b";
        let line = visible(serde_json::to_vec(&serde_json::json!({ "a": text })).unwrap());
        assert_eq!(std::str::from_utf8(&line).unwrap(), "{\"a\":\"a\\u009b2J\\u007f\\u202e\\u2028\\ufeffé\\u001b\"}");
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&line).unwrap()["a"], text);
    }

    /// Takes some bytes at a time and fails now and then, as a disk that is full until somebody makes room.
    struct Full(std::sync::Arc<std::sync::Mutex<(Vec<u8>, usize)>>);

    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut taken = self.0.lock().unwrap();
            taken.1 += 1;
            if taken.1.is_multiple_of(3) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let n = bytes.len().min(7);
            taken.0.extend_from_slice(&bytes[..n]);
            Ok(n)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_goes_on_where_the_sink_failed() {
        let taken = std::sync::Arc::default();
        let mut journal = Journal::over(Box::new(Full(std::sync::Arc::clone(&taken))), None);
        let mut failures = 0;
        for _ in 0..5 {
            journal.add(&Subject::default(), &event());
            if journal.deliver(false).is_err() {
                failures += 1;
                assert!(journal.undelivered() > 0);
            }
        }
        while journal.deliver(false).is_err() {
            failures += 1;
        }
        assert!(failures > 10 && journal.undelivered() == 0);
        let text = String::from_utf8(taken.lock().unwrap().0.clone()).unwrap();
        let seqs: Vec<_> = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["seq"].clone()).collect();
        assert_eq!(seqs, [1, 2, 3, 4, 5]);
    }
}
