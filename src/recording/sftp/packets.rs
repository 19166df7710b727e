use crate::recording::operation::Unparsed;

/// Longer packets no program sends: OpenSSH stops at 256 KiB.
const MAX_PACKET: usize = 16 * 1024 * 1024;
/// A number, and two paths as long as Linux has them.
const MAX_KEPT: usize = 1 + 4 + 2 * (4 + 4096) + 64;
/// A handle is at most this long.
const MAX_HANDLE: usize = 256;

/// Cuts a stream into packets and keeps of each as much as has names and numbers: content passes unread.
#[derive(Default)]
pub(super) struct Packets {
    prefix: [u8; 4],
    have: usize,
    length: usize,
    seen: usize,
    kept: Vec<u8>,
}

impl Packets {
    pub(super) fn push(&mut self, mut bytes: &[u8], mut read: impl FnMut(&[u8]) -> Result<(), Unparsed>) -> Result<(), Unparsed> {
        while let Some((first, rest)) = bytes.split_first() {
            if let Some(slot) = self.prefix.get_mut(self.have) {
                *slot = *first;
                self.have += 1;
                bytes = rest;
                if self.have == self.prefix.len() {
                    self.begin()?;
                }
                continue;
            }
            let (part, rest) = bytes.split_at_checked(self.length - self.seen).unwrap_or((bytes, &[]));
            let kind = self.kept.first().or(part.first()).copied().unwrap_or_default();
            let room = kept_of(kind).saturating_sub(self.kept.len());
            self.kept.extend_from_slice(part.get(..room).unwrap_or(part));
            self.seen += part.len();
            bytes = rest;
            if self.seen == self.length {
                self.have = 0;
                read(&self.kept)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Unparsed> {
        self.length = u32::from_be_bytes(self.prefix) as usize;
        self.seen = 0;
        self.kept.clear();
        match self.length {
            0 => Err(Unparsed("an SFTP packet is empty")),
            length if length > MAX_PACKET => Err(Unparsed("an SFTP packet is too long")),
            _ => Ok(()),
        }
    }
}

/// Bytes of a packet, its kind included, that are worth keeping.
fn kept_of(kind: u8) -> usize {
    match kind {
        super::WRITE => 1 + 4 + 4 + MAX_HANDLE + 8 + 4,
        super::HANDLE => 1 + 4 + 4 + MAX_HANDLE,
        super::STATUS | super::DATA => 1 + 4 + 4,
        // Names, attributes and other answers: only which request they end.
        104.. if kind != super::EXTENDED => 1 + 4,
        _ => MAX_KEPT,
    }
}

/// A packet's fields, one after the other; `None` when they are not there.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?)
    }
}
