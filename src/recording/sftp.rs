//! SFTP as OpenSSH speaks it: version 3 (draft-ietf-secsh-filexfer-02) with OpenSSH's extensions.

mod packets;

use std::collections::HashMap;

use super::operation::{Operation, Side, Unparsed, text};
use packets::{Fields, Packets};

/// What requests that wait for their answer and open files may hold, names included.
const MAX_KEPT: usize = 512 * 1024;
/// What one of them costs besides its names.
const ENTRY: usize = 64;

const INIT: u8 = 1;
const VERSION: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const WRITE: u8 = 6;
const SETSTAT: u8 = 9;
const FSETSTAT: u8 = 10;
const OPENDIR: u8 = 11;
const REMOVE: u8 = 13;
const MKDIR: u8 = 14;
const RMDIR: u8 = 15;
const RENAME: u8 = 18;
const SYMLINK: u8 = 20;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const EXTENDED: u8 = 200;

/// The newest version whose OPEN reads as in version 3.
const LAST_VERSION: u32 = 4;
/// The bit of OPEN's flags that asks for writing.
const TO_WRITE: u32 = 2;

/// Follows one SFTP channel: files read and written, directories listed, everything that changes the instance. Looking at names and
/// attributes is not told.
pub(super) struct Sftp {
    from_client: Packets,
    from_server: Packets,
    client_version: Option<u32>,
    requests: HashMap<u32, Request>,
    /// The server's names for open files.
    handles: HashMap<Box<[u8]>, u64>,
    files: HashMap<u64, File>,
    next: u64,
    kept: usize,
}

/// A request that waits for its answer.
enum Request {
    Open(File),
    Read(u64),
    Write(u64, u64),
    Close(u64),
    Change(Operation),
}

impl Request {
    fn weight(&self) -> usize {
        ENTRY
            + match self {
                Self::Open(file) => file.path.len(),
                Self::Change(operation) => operation.path.len() + operation.name.as_ref().map_or(0, String::len),
                Self::Read(_) | Self::Write(..) | Self::Close(_) => 0,
            }
    }
}

struct File {
    path: String,
    op: &'static str,
    to_write: bool,
    read: u64,
    written: u64,
    /// The first status that was none of "ok" and "end of file".
    error: Option<u32>,
    handle_len: usize,
}

impl File {
    fn weight(&self) -> usize {
        ENTRY + self.path.len() + self.handle_len
    }

    fn told(self, result: String) -> Operation {
        let direction = match (self.read > 0, self.written > 0) {
            (true, true) => "both",
            (false, true) => "up",
            (true, false) => "down",
            (false, false) if self.to_write => "up",
            (false, false) => "down",
        };
        let is_file = self.op == "file";
        let bytes = |count: u64, way: &str| (is_file && (direction == way || direction == "both")).then_some(count);
        Operation {
            op: self.op,
            direction: is_file.then_some(direction),
            bytes_up: bytes(self.written, "up"),
            bytes_down: bytes(self.read, "down"),
            path: self.path,
            name: None,
            result,
        }
    }
}

impl Sftp {
    pub(super) fn new() -> Self {
        Self {
            from_client: Packets::default(),
            from_server: Packets::default(),
            client_version: None,
            requests: HashMap::new(),
            handles: HashMap::new(),
            files: HashMap::new(),
            next: 0,
            kept: 0,
        }
    }

    pub(super) fn push(&mut self, from: Side, bytes: &[u8], tell: &mut dyn FnMut(Operation)) -> Result<(), Unparsed> {
        // Out and in again, for a packet is read with all of this.
        let side = match from {
            Side::Operator => &mut self.from_client,
            Side::Instance => &mut self.from_server,
        };
        let mut packets = std::mem::take(side);
        let read = packets.push(bytes, |packet| match from {
            Side::Operator => self.asked(packet),
            Side::Instance => self.answered(packet, tell),
        });
        match from {
            Side::Operator => self.from_client = packets,
            Side::Instance => self.from_server = packets,
        }
        read
    }

    /// The channel has ended: what is still open was not finished.
    pub(super) fn end(&mut self, tell: &mut dyn FnMut(Operation)) {
        let mut open: Vec<(u64, File)> = self.files.drain().collect();
        open.sort_by_key(|(slot, _)| *slot);
        open.into_iter().for_each(|(_, file)| tell(file.told("unfinished".to_owned())));
        self.requests.clear();
        self.handles.clear();
        self.kept = 0;
    }

    /// Bytes and entries that are kept.
    #[cfg(any(fuzzing, test))]
    pub(super) fn is_bounded(&self) -> bool {
        let kept: usize = self.requests.values().map(Request::weight).chain(self.files.values().map(File::weight)).sum();
        kept == self.kept && kept <= MAX_KEPT && self.handles.len() <= self.files.len()
    }

    fn asked(&mut self, packet: &[u8]) -> Result<(), Unparsed> {
        const SHORT: Unparsed = Unparsed("an SFTP request is shorter than its fields");
        let mut fields = Fields(packet);
        let kind = fields.u8().ok_or(SHORT)?;
        if kind == INIT || self.client_version.is_none() {
            return self.begin(kind, fields.u32().ok_or(SHORT)?);
        }
        let id = fields.u32().ok_or(SHORT)?;
        let request = match kind {
            EXTENDED => match self.extended(fields) {
                Some(request) => request,
                None => return Ok(()),
            },
            OPEN | CLOSE | READ | WRITE | SETSTAT | FSETSTAT | OPENDIR | REMOVE | MKDIR | RMDIR | RENAME | SYMLINK => {
                match self.request(kind, fields).ok_or(SHORT)? {
                    Some(request) => request,
                    None => return Ok(()),
                }
            }
            _ => return Ok(()),
        };
        let weight = request.weight();
        if self.kept + weight > MAX_KEPT {
            return Err(Unparsed("too much is under way on an SFTP channel"));
        }
        self.kept += weight;
        match self.requests.insert(id, request) {
            None => Ok(()),
            Some(before) => {
                self.kept -= before.weight();
                Err(Unparsed("an SFTP request has the number of another one"))
            }
        }
    }

    fn begin(&mut self, kind: u8, version: u32) -> Result<(), Unparsed> {
        if kind != INIT || self.client_version.is_some() {
            return Err(Unparsed("an SFTP channel does not begin as one"));
        }
        self.client_version = Some(version);
        Ok(())
    }

    /// `None`: too short. `Some(None)`: nothing to remember, such as a handle that the server never gave.
    fn request(&self, kind: u8, mut fields: Fields<'_>) -> Option<Option<Request>> {
        let change = |op, path: &[u8], name: Option<&[u8]>| {
            Request::Change(Operation { op, path: text(path), name: name.map(text), ..Operation::default() })
        };
        let first = fields.string()?;
        let slot = self.handles.get(first).copied();
        Some(match kind {
            OPEN => Some(Request::Open(opened("file", first, fields.u32()? & TO_WRITE != 0))),
            OPENDIR => Some(Request::Open(opened("list", first, false))),
            CLOSE => slot.map(Request::Close),
            READ => slot.map(Request::Read),
            WRITE => {
                fields.u64()?;
                let len = u64::from(fields.u32()?);
                slot.map(|slot| Request::Write(slot, len))
            }
            SETSTAT => Some(change("setstat", first, None)),
            FSETSTAT => slot.and_then(|slot| self.files.get(&slot)).map(|file| change("setstat", file.path.as_bytes(), None)),
            REMOVE => Some(change("remove", first, None)),
            MKDIR => Some(change("mkdir", first, None)),
            RMDIR => Some(change("rmdir", first, None)),
            RENAME => Some(change("rename", first, Some(fields.string()?))),
            // OpenSSH has the two the other way round than the draft: what it points to, then the link.
            SYMLINK => {
                let link = fields.string()?;
                Some(change("symlink", link, Some(first)))
            }
            _ => None,
        })
    }

    fn extended(&self, mut fields: Fields<'_>) -> Option<Request> {
        let change = |op, path: String, name| Some(Request::Change(Operation { op, path, name, ..Operation::default() }));
        let path = |handle: &[u8]| self.handles.get(handle).and_then(|slot| self.files.get(slot)).map(|file| file.path.clone());
        match fields.string()? {
            b"posix-rename@openssh.com" => change("rename", text(fields.string()?), Some(text(fields.string()?))),
            b"hardlink@openssh.com" => change("link", text(fields.string()?), Some(text(fields.string()?))),
            b"lsetstat@openssh.com" => change("setstat", text(fields.string()?), None),
            b"copy-data" => {
                let from = path(fields.string()?)?;
                fields.u64()?;
                fields.u64()?;
                change("copy", from, Some(path(fields.string()?)?))
            }
            _ => None,
        }
    }

    fn answered(&mut self, packet: &[u8], tell: &mut dyn FnMut(Operation)) -> Result<(), Unparsed> {
        const SHORT: Unparsed = Unparsed("an SFTP answer is shorter than its fields");
        let mut fields = Fields(packet);
        let (kind, id) = (fields.u8().ok_or(SHORT)?, fields.u32().ok_or(SHORT)?);
        if kind == VERSION {
            let client = self.client_version.ok_or(Unparsed("an SFTP channel does not begin as one"))?;
            return if client.min(id) <= LAST_VERSION { Ok(()) } else { Err(Unparsed("a version of SFTP that is not followed")) };
        }
        let Some(request) = self.requests.remove(&id) else { return Ok(()) };
        self.kept -= request.weight();
        match (kind, request) {
            (STATUS, request) => self.settled(request, fields.u32().ok_or(SHORT)?, tell),
            (HANDLE, Request::Open(file)) => return self.open(file, fields.string().ok_or(SHORT)?),
            (DATA, Request::Read(slot)) => {
                let len = fields.u32().ok_or(SHORT)?;
                if let Some(file) = self.files.get_mut(&slot) {
                    file.read += u64::from(len);
                }
            }
            _ => return Err(Unparsed("an SFTP answer does not fit its request")),
        }
        Ok(())
    }

    fn open(&mut self, mut file: File, handle: &[u8]) -> Result<(), Unparsed> {
        file.handle_len = handle.len();
        self.kept += file.weight();
        if self.kept > MAX_KEPT {
            self.kept -= file.weight();
            return Err(Unparsed("too much is under way on an SFTP channel"));
        }
        self.next += 1;
        self.files.insert(self.next, file);
        // A server that names two open files alike cannot tell them apart itself.
        match self.handles.insert(handle.into(), self.next) {
            Some(slot) if self.files.contains_key(&slot) => Err(Unparsed("two open SFTP files have one handle")),
            _ => Ok(()),
        }
    }

    fn settled(&mut self, request: Request, status: u32, tell: &mut dyn FnMut(Operation)) {
        let failed = status > 1;
        match request {
            Request::Open(file) => tell(file.told(result(status))),
            Request::Change(operation) => tell(Operation { result: result(status), ..operation }),
            Request::Read(slot) | Request::Write(slot, _) if failed => {
                if let Some(file) = self.files.get_mut(&slot) {
                    file.error.get_or_insert(status);
                }
            }
            Request::Read(_) => {}
            Request::Write(slot, len) => {
                if let Some(file) = self.files.get_mut(&slot) {
                    file.written += len;
                }
            }
            Request::Close(slot) => {
                let Some(file) = self.files.remove(&slot) else { return };
                self.kept -= file.weight();
                self.handles.retain(|_, named| *named != slot);
                let status = file.error.unwrap_or(status);
                tell(file.told(result(status)));
            }
        }
    }
}

fn opened(op: &'static str, path: &[u8], to_write: bool) -> File {
    File { path: text(path), op, to_write, read: 0, written: 0, error: None, handle_len: 0 }
}

fn result(status: u32) -> String {
    match status {
        0 => "ok".to_owned(),
        1 => "end of file".to_owned(),
        2 => "no such file".to_owned(),
        3 => "permission denied".to_owned(),
        4 => "failure".to_owned(),
        8 => "unsupported".to_owned(),
        other => format!("status {other}"),
    }
}

#[cfg(test)]
mod tests;
