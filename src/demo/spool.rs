use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::{Buf, Bytes};

/// Bytes that a peer sent and a process has not read yet: a queue, short in memory and then in an unnamed file.
///
/// russh grants window on receipt, so a peer may send whatever a process is not reading. Not taking it would stop the whole connection,
/// window adjustments included, and deadlock a full-duplex command with a slow reader. Hence the file, which is bounded too: only a
/// channel that is [`Spool::LIMIT`] behind stops its connection.
pub(super) struct Spool {
    memory: VecDeque<Bytes>,
    in_memory: usize,
    /// A ring of [`Spool::LIMIT`] bytes; made when it is first needed.
    file: Option<File>,
    /// Bytes ever written to the ring, and ever read from it.
    written: u64,
    read: u64,
}

impl Spool {
    const MEMORY: usize = 256 * 1024;
    const LIMIT: u64 = 1 << 30;
    /// Read back from the file at once.
    const BLOCK: u64 = 128 * 1024;

    pub(super) fn new() -> Self {
        Self { memory: VecDeque::new(), in_memory: 0, file: None, written: 0, read: 0 }
    }

    /// Whether a message of at most `64 KiB` may be pushed.
    pub(super) fn has_room(&self) -> bool {
        self.written - self.read <= Self::LIMIT - 64 * 1024
    }

    pub(super) fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// # Errors
    /// When the file cannot be made or written.
    pub(super) fn push(&mut self, bytes: Bytes) -> io::Result<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        // What follows bytes in the file must go to the file.
        if self.written == self.read && self.in_memory < Self::MEMORY {
            self.in_memory += bytes.len();
            self.memory.push_back(bytes);
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile()?),
        };
        let at = self.written % Self::LIMIT;
        let before_end = usize::try_from(Self::LIMIT - at).unwrap_or(usize::MAX).min(bytes.len());
        let (first, wrapped) = bytes.split_at(before_end);
        file.write_all_at(first, at)?;
        file.write_all_at(wrapped, 0)?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// The next bytes to be delivered; empty when there are none.
    pub(super) fn head(&self) -> &[u8] {
        self.memory.front().map_or(&[], |bytes| bytes)
    }

    /// Forgets `count` bytes of the head.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub(super) fn consume(&mut self, count: usize) -> io::Result<()> {
        if let Some(head) = self.memory.front_mut() {
            let count = count.min(head.len());
            head.advance(count);
            self.in_memory -= count;
            if head.is_empty() {
                self.memory.pop_front();
            }
        }
        if self.memory.is_empty() && self.read < self.written {
            self.refill()?;
        }
        Ok(())
    }

    fn refill(&mut self) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let at = self.read % Self::LIMIT;
        let count = (self.written - self.read).min(Self::BLOCK).min(Self::LIMIT - at);
        let mut block = vec![0; usize::try_from(count).unwrap_or_default()];
        file.read_exact_at(&mut block, at)?;
        self.read += count;
        self.in_memory = block.len();
        self.memory.push_back(block.into());
        if self.read == self.written {
            file.set_len(0)?;
            (self.read, self.written) = (0, 0);
        }
        Ok(())
    }

    /// Forgets everything: nobody will read it.
    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_in_order_whether_in_memory_or_not() {
        let mut spool = Spool::new();
        let message = |n: u32| Bytes::from(n.to_be_bytes().repeat(2_000));
        let (mut next_in, mut next_out) = (0, 0);
        let mut out = Vec::new();
        // Each round leaves 4 MB more in it, but every third empties it.
        for round in 0..6 {
            for _ in 0..1_000 {
                assert!(spool.has_room());
                spool.push(message(next_in)).unwrap();
                next_in += 1;
            }
            assert!(spool.in_memory <= Spool::MEMORY + 8_000, "{}", spool.in_memory);
            let until = if round % 3 == 2 { next_in } else { next_in - 500 };
            while next_out < until {
                let count = spool.head().len().min(5_000);
                out.extend_from_slice(&spool.head()[..count]);
                spool.consume(count).unwrap();
                while out.len() >= 8_000 {
                    assert_eq!(out[..8_000], message(next_out)[..]);
                    out.drain(..8_000);
                    next_out += 1;
                }
            }
            assert_eq!(spool.is_empty() && out.is_empty(), round % 3 == 2);
        }
    }

    #[test]
    fn a_spool_that_is_a_gibibyte_behind_has_no_room() {
        let mut spool = Spool::new();
        spool.written = Spool::LIMIT - 10;
        spool.read = Spool::LIMIT - 20;
        spool.file = Some(tempfile::tempfile().unwrap());
        assert!(spool.has_room());
        // Around the ring's end.
        spool.file.as_ref().unwrap().write_all_at(b"0123456789", Spool::LIMIT - 20).unwrap();
        spool.push(Bytes::from_static(b"abcdefghijKLM")).unwrap();
        spool.consume(0).unwrap();
        assert_eq!(spool.head(), b"0123456789abcdefghij");
        spool.consume(20).unwrap();
        assert_eq!(spool.head(), b"KLM");
        spool.read = 0;
        spool.written = Spool::LIMIT - 64 * 1024 + 1;
        assert!(!spool.has_room());
    }
}
