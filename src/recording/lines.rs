use std::io::Write;
use std::time::Duration;

use super::escape::push_escaped;

/// What the kernel writes in one piece: a process that is killed, or a disk that is full, ends a file at a multiple of it.
const PAGE: u64 = 4096;
/// A line of JSON that stays below this never crosses a page.
pub(super) const LONGEST_LINE: usize = PAGE as usize - 1;
/// A page's rest that is too short to begin an event in.
const SHORT: usize = 128;
/// What ends an event.
const TAIL: usize = b"\"]\n".len();
/// Output within this time is one event.
const TOGETHER: Duration = Duration::from_millis(10);
/// Contents that are copied rather than exchanged when they are taken, so that a file with little to say keeps little memory.
const LITTLE: usize = 8 * 1024;

/// A file's next bytes: whole lines, of which none crosses a page of the file. So there is never half a line in a file, wherever its
/// writing was ended, and every reader of JSON lines reads it to its last event.
#[derive(Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    /// Where the first of `bytes` stands in the file.
    base: u64,
    /// The event that is still being written to: its code and its time.
    open: Option<(u8, Duration)>,
}

impl Lines {
    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it has memory that it may not need again soon: another [`Lines::take`] frees it if so.
    pub(super) fn is_large(&self) -> bool {
        self.bytes.capacity() > LITTLE
    }

    /// Bytes of the file so far.
    pub(super) fn written(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }

    /// Bytes to the end of the page.
    fn room(&self) -> usize {
        (PAGE - self.written() % PAGE) as usize
    }

    fn pad(&mut self, blanks: usize) {
        self.bytes.resize(self.bytes.len() + blanks, b' ');
    }

    /// A line of its own.
    pub(super) fn line(&mut self, json: &[u8]) {
        self.close();
        // Blanks before a value are no part of it; a line that does not fit begins on the next page.
        if json.len() >= self.room() {
            self.pad(self.room() % PAGE as usize);
        }
        self.bytes.extend_from_slice(json);
        self.bytes.push(b'\n');
    }

    /// An event of an asciicast, `[time, "code", "data"]`; as many as its text needs.
    pub(super) fn event(&mut self, at: Duration, code: u8, mut text: &str) {
        while !text.is_empty() {
            self.open(at, code);
            let room = self.room().saturating_sub(TAIL);
            let taken = push_escaped(&mut self.bytes, text, room);
            text = text.get(taken..).unwrap_or_default();
            if !text.is_empty() {
                self.close();
            }
        }
    }

    fn open(&mut self, at: Duration, code: u8) {
        if let Some((open, since)) = self.open {
            if open == code && at.saturating_sub(since) < TOGETHER && self.room() > TAIL {
                return;
            }
            self.close();
        }
        if self.room() < SHORT {
            self.pad(self.room());
        }
        let _ = write!(self.bytes, "[{}.{:06},\"{}\",\"", at.as_secs(), at.subsec_micros(), char::from(code));
        self.open = Some((code, at));
    }

    /// Ends the event that is being written to.
    pub(super) fn close(&mut self) {
        if self.open.take().is_none() {
            return;
        }
        self.bytes.extend_from_slice(b"\"]");
        let behind = self.room().saturating_sub(1);
        if behind < SHORT {
            self.pad(behind);
        }
        self.bytes.push(b'\n');
    }

    /// Moves everything to `out`, which is empty and whose memory is used again.
    pub(super) fn take(&mut self, out: &mut Vec<u8>) {
        self.close();
        self.base += self.bytes.len() as u64;
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        if self.bytes.len() > LITTLE {
            std::mem::swap(&mut self.bytes, out);
            return;
        }
        out.extend_from_slice(&self.bytes);
        self.bytes.clear();
        if self.bytes.capacity() > LITTLE {
            self.bytes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn taken(lines: &mut Lines) -> Vec<u8> {
        let mut out = Vec::new();
        lines.take(&mut out);
        out
    }

    #[test]
    fn events_close_together_are_one() {
        let mut lines = Lines::default();
        for (at, code, text) in [(0, b'o', "a"), (9, b'o', "b\n"), (20, b'o', "c"), (21, b'i', "d"), (22, b'r', "80x24")] {
            lines.event(ms(at), code, text);
        }
        let text = String::from_utf8(taken(&mut lines)).unwrap();
        assert_eq!(text, "[0.000000,\"o\",\"ab\\n\"]\n[0.020000,\"o\",\"c\"]\n[0.021000,\"i\",\"d\"]\n[0.022000,\"r\",\"80x24\"]\n");
        assert_eq!((lines.len(), lines.written()), (0, text.len() as u64));
    }

    /// Whatever is written, taken whenever: cut at any page, a file is whole lines, and together they are what was written.
    #[test]
    fn no_line_crosses_a_page() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = move |n: u64| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % n
        };
        for _ in 0..200 {
            let (mut lines, mut file, mut said, mut logged) = (Lines::default(), Vec::new(), String::new(), 0);
            for step in 0..60 {
                match below(8) {
                    0 => file.extend(taken(&mut lines)),
                    1 => {
                        let json = serde_json::to_vec(&"x".repeat(below(LONGEST_LINE as u64 - 2) as usize)).unwrap();
                        lines.line(&json);
                        logged += 1;
                    }
                    _ => {
                        let text: String = (0..below(3000)).map(|_| ['x', '\u{1b}', '"', '中', '\u{fffd}'][below(5) as usize]).collect();
                        lines.event(ms(step * below(3)), b'o', &text);
                        said.push_str(&text);
                    }
                }
            }
            file.extend(taken(&mut lines));
            assert_eq!(lines.written(), file.len() as u64);
            let mut heard = String::new();
            for line in file.split_inclusive(|byte| *byte == b'\n') {
                let value: serde_json::Value = serde_json::from_slice(line).unwrap();
                if value.is_string() { logged -= 1 } else { heard.push_str(value[2].as_str().unwrap()) }
            }
            assert!(heard == said && logged == 0);
            for page in file.chunks_exact(PAGE as usize) {
                let last = page.rsplit(|byte| *byte == b'\n').next().unwrap();
                assert!(last.iter().all(|byte| *byte == b' '), "{}", String::from_utf8_lossy(last));
            }
        }
    }
}
