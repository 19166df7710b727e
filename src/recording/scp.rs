use super::operation::{Operation, Side, Unparsed, text};

/// A record: a letter, a mode, a size and a name, which is at most 255 bytes on any file system; or a message.
const MAX_RECORD: usize = 4096;
/// Directories within each other.
const MAX_DEPTH: usize = 128;

/// The old copy protocol: the source sends records (`C` a file, `D` a directory, `E` its end, `T` times) and content, and waits for the
/// sink's answer to each.
pub(super) struct Scp {
    source: Side,
    /// What the command names on the instance.
    path: String,
    directories: Vec<String>,
    state: State,
    /// The record or answer being read, of each side.
    record: Vec<u8>,
    answer: Vec<u8>,
}

enum State {
    Record,
    /// A file was announced, the sink has not answered.
    Announced(File),
    Content {
        file: File,
        left: u64,
    },
    /// The source's own word on what it sent: a zero, or a message.
    Verdict(File),
    /// All was sent, the sink has not answered.
    Sent(File),
}

#[derive(Clone)]
struct File {
    name: String,
    size: u64,
    error: Option<String>,
}

impl Scp {
    /// `sends`: the instance is the source.
    pub(super) fn new(sends: bool, path: &str) -> Self {
        Self {
            source: if sends { Side::Instance } else { Side::Operator },
            path: path.to_owned(),
            directories: Vec::new(),
            state: State::Record,
            record: Vec::new(),
            answer: Vec::new(),
        }
    }

    pub(super) fn push(&mut self, from: Side, mut bytes: &[u8], tell: &mut dyn FnMut(Operation)) -> Result<(), Unparsed> {
        while !bytes.is_empty() {
            bytes = if from == self.source { self.hear_source(bytes, tell)? } else { self.hear_sink(bytes, tell)? };
        }
        Ok(())
    }

    /// The channel has ended.
    pub(super) fn end(&mut self, tell: &mut dyn FnMut(Operation)) {
        let (file, moved) = match std::mem::replace(&mut self.state, State::Record) {
            State::Record => return,
            State::Announced(file) => (file, 0),
            State::Content { file, left } => {
                let moved = file.size - left.min(file.size);
                (file, moved)
            }
            State::Verdict(file) | State::Sent(file) => {
                let size = file.size;
                (file, size)
            }
        };
        self.tell(file.name, moved, "unfinished".to_owned(), tell);
    }

    fn tell(&self, name: String, bytes: u64, result: String, tell: &mut dyn FnMut(Operation)) {
        let (up, bytes_up, bytes_down) = match self.source {
            Side::Operator => ("up", Some(bytes), None),
            Side::Instance => ("down", None, Some(bytes)),
        };
        let name = Some(name).filter(|name| !name.is_empty());
        tell(Operation { op: "file", direction: Some(up), path: self.path.clone(), name, bytes_up, bytes_down, result });
    }

    fn hear_source<'a>(&mut self, bytes: &'a [u8], tell: &mut dyn FnMut(Operation)) -> Result<&'a [u8], Unparsed> {
        match std::mem::replace(&mut self.state, State::Record) {
            State::Record => {
                let rest = line(&mut self.record, bytes)?;
                if self.record.last() == Some(&b'\n') {
                    let record = std::mem::take(&mut self.record);
                    self.state = self.read(&record, tell)?;
                }
                Ok(rest)
            }
            State::Content { file, left } => {
                let now = left.min(bytes.len() as u64);
                self.state = match left - now {
                    0 => State::Verdict(file),
                    left => State::Content { file, left },
                };
                Ok(bytes.get(now as usize..).unwrap_or_default())
            }
            State::Verdict(mut file) => {
                let rest = answer(&mut self.record, bytes)?;
                self.state = match verdict(&mut self.record) {
                    None => State::Verdict(file),
                    Some(error) => {
                        file.error = error;
                        State::Sent(file)
                    }
                };
                Ok(rest)
            }
            State::Announced(_) | State::Sent(_) => Err(Unparsed("the source of a copy does not wait for an answer")),
        }
    }

    fn read(&mut self, record: &[u8], tell: &mut dyn FnMut(Operation)) -> Result<State, Unparsed> {
        const WRONG: Unparsed = Unparsed("a record of a copy cannot be read");
        let (kind, fields) = record.strip_suffix(b"\n").and_then(<[u8]>::split_first).ok_or(WRONG)?;
        match kind {
            b'C' | b'D' => {
                let mut fields = fields.splitn(3, |byte| *byte == b' ');
                let (_mode, size, name) = (fields.next(), fields.next(), fields.next().ok_or(WRONG)?);
                let size = size.and_then(|size| std::str::from_utf8(size).ok()?.parse().ok()).ok_or(WRONG)?;
                if *kind == b'D' {
                    self.directories.push(text(name));
                    return if self.directories.len() > MAX_DEPTH { Err(Unparsed("a copy is too deep")) } else { Ok(State::Record) };
                }
                let mut path = self.directories.join("/");
                if !path.is_empty() {
                    path.push('/');
                }
                path.push_str(&text(name));
                Ok(State::Announced(File { name: path, size, error: None }))
            }
            b'E' => {
                self.directories.pop();
                Ok(State::Record)
            }
            b'T' => Ok(State::Record),
            // The source's warning or last word: a file that it cannot send.
            1 | 2 => {
                self.tell(self.directories.join("/"), 0, text(fields), tell);
                Ok(State::Record)
            }
            _ => Err(WRONG),
        }
    }

    fn hear_sink<'a>(&mut self, bytes: &'a [u8], tell: &mut dyn FnMut(Operation)) -> Result<&'a [u8], Unparsed> {
        let rest = answer(&mut self.answer, bytes)?;
        let Some(error) = verdict(&mut self.answer) else { return Ok(rest) };
        self.state = match std::mem::replace(&mut self.state, State::Record) {
            State::Announced(file) => match error {
                None if file.size == 0 => State::Verdict(file),
                None => State::Content { left: file.size, file },
                Some(error) => {
                    self.tell(file.name, 0, error, tell);
                    State::Record
                }
            },
            State::Sent(file) => {
                let result = file.error.or(error).unwrap_or_else(|| "ok".to_owned());
                self.tell(file.name, file.size, result, tell);
                State::Record
            }
            // A sink that breaks off in the middle says so once; its answer to the whole comes as well.
            State::Content { mut file, left } => {
                file.error = file.error.or(error);
                State::Content { file, left }
            }
            State::Verdict(mut file) => {
                file.error = file.error.or(error);
                State::Verdict(file)
            }
            // Answers to directories and times, and the sink's word that it is there.
            State::Record => State::Record,
        };
        Ok(rest)
    }
}

/// Adds to a line until its end; gives what comes behind.
fn line<'a>(line: &mut Vec<u8>, bytes: &'a [u8]) -> Result<&'a [u8], Unparsed> {
    let end = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1);
    let (part, rest) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
    if line.len() + part.len() > MAX_RECORD {
        return Err(Unparsed("a record of a copy is too long"));
    }
    line.extend_from_slice(part);
    Ok(rest)
}

/// Adds to an answer: a zero, or a one or two with a message behind it.
fn answer<'a>(answer: &mut Vec<u8>, bytes: &'a [u8]) -> Result<&'a [u8], Unparsed> {
    match (answer.first().or(bytes.first()), bytes.split_first()) {
        (Some(0), Some((_, rest))) => {
            answer.push(0);
            Ok(rest)
        }
        (Some(1 | 2), _) => line(answer, bytes),
        _ => Err(Unparsed("an answer in a copy cannot be read")),
    }
}

/// What a whole answer says: `Some(None)` is yes.
fn verdict(answer: &mut Vec<u8>) -> Option<Option<String>> {
    let said = match answer.as_slice() {
        [0] => None,
        [_, message @ .., b'\n'] => Some(text(message)),
        _ => return None,
    };
    answer.clear();
    Some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a dialogue with every message cut in two at `cut`.
    fn told(sends: bool, dialogue: &[(Side, &[u8])], cut: usize) -> Result<Vec<Operation>, Unparsed> {
        let (mut scp, mut told) = (Scp::new(sends, "/srv"), Vec::new());
        let mut tell = |operation| told.push(operation);
        for (from, bytes) in dialogue {
            let (first, second) = bytes.split_at(cut.min(bytes.len()));
            scp.push(*from, first, &mut tell)?;
            scp.push(*from, second, &mut tell)?;
        }
        scp.end(&mut tell);
        Ok(told)
    }

    #[test]
    fn a_tree_and_its_failures_are_told() {
        use Side::{Instance as I, Operator as O};
        let dialogue: [(Side, &[u8]); 25] = [
            (I, b"\0"),
            (O, b"T1700000000 0 1700000000 0\n"),
            (I, b"\0"),
            (O, b"D0755 0 dir\n"),
            (I, b"\0"),
            (O, b"C0644 11 a b\n"),
            (I, b"\0"),
            (O, b"C0644 5 x\nE\0"),
            (I, b"\0"),
            (O, b"C0644 0 empty\n"),
            (I, b"\0"),
            (O, b"\0"),
            (I, b"\0"),
            (O, b"C0644 3 no\n"),
            (I, b"\x01scp: no: Permission denied\n"),
            (O, b"E\n"),
            (I, b"\0"),
            (O, b"\x01scp: gone: No such file\n"),
            (O, b"C0644 3 full\n"),
            (I, b"\0"),
            (O, b"abc\0"),
            (I, b"\x01scp: full: No space left on device\n"),
            (O, b"C0644 9 late\n"),
            (I, b"\0"),
            (O, b"half"),
        ];
        for cut in 0..30 {
            let told = told(false, &dialogue, cut).unwrap();
            let seen: Vec<_> = told.iter().map(|o| (o.name.as_deref().unwrap_or(""), o.bytes_up.unwrap(), o.result.as_str())).collect();
            assert_eq!(
                seen,
                [
                    ("dir/a b", 11, "ok"),
                    ("dir/empty", 0, "ok"),
                    ("dir/no", 0, "scp: no: Permission denied"),
                    ("", 0, "scp: gone: No such file"),
                    ("full", 3, "scp: full: No space left on device"),
                    ("late", 4, "unfinished"),
                ],
                "cut at {cut}"
            );
            assert!(told.iter().all(|o| o.direction == Some("up") && o.path == "/srv" && o.op == "file"));
        }
    }

    #[test]
    fn what_is_no_copy_is_not_followed() {
        use Side::{Instance as I, Operator as O};
        let long = [b'C'; MAX_RECORD + 1];
        let deep = b"D0755 0 d\n".repeat(MAX_DEPTH + 1);
        let wrong: [&[(Side, &[u8])]; 7] = [
            &[(I, b"C0644 5 pipelined\nhello\0")],
            &[(I, b"bash: scp: not found\n")],
            &[(I, b"C0644 -5 x\n")],
            &[(I, b"\n")],
            &[(O, b"yes")],
            &[(I, &long)],
            &[(I, &deep)],
        ];
        for dialogue in wrong {
            assert!(told(true, dialogue, 3).is_err(), "{dialogue:?}");
        }
    }
}
