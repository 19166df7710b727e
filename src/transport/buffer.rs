/// Bytes on their way: filled at the tail, taken from the head.
///
/// The memory stays initialised between uses, so that growing within it costs nothing; [`Buffer::release_if_empty`] gives it back. However
/// long it is never empty, it has no more of it than some times the most that waited in it.
#[derive(Default)]
pub struct Buffer {
    data: Vec<u8>,
    head: usize,
    tail: usize,
}

impl Buffer {
    /// Where the next byte goes; a position for [`Buffer::since`] and [`Buffer::truncate`] until bytes are taken.
    pub fn tail(&self) -> usize {
        self.len()
    }

    pub fn len(&self) -> usize {
        self.tail - self.head
    }

    #[cfg(test)]
    pub(crate) fn capacity(&self) -> usize {
        self.data.capacity()
    }

    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// `n` more bytes at the tail, with whatever was there.
    pub fn grow(&mut self, n: usize) -> &mut [u8] {
        // What waits is moved when that costs no more than the taking before it.
        if self.tail + n > self.data.len() && self.head >= self.len() {
            self.data.copy_within(self.head..self.tail, 0);
            (self.head, self.tail) = (0, self.len());
        }
        let start = self.tail;
        self.tail += n;
        if self.data.len() < self.tail {
            // By no more than a quarter beyond the need: of many that move, each is to leave the processor's cache to the others.
            self.data.resize(self.tail.max(self.data.len() / 4 * 5).next_multiple_of(1024), 0);
        }
        self.data.get_mut(start..self.tail).unwrap_or_default()
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.grow(bytes.len()).copy_from_slice(bytes);
    }

    /// Everything from a position that [`Buffer::tail`] gave.
    pub fn since(&mut self, start: usize) -> &mut [u8] {
        self.data.get_mut(self.head + start..self.tail).unwrap_or_default()
    }

    /// Takes back what was put since `start`.
    pub fn truncate(&mut self, start: usize) {
        self.tail = self.tail.min(self.head + start);
    }

    /// What is to be taken.
    pub fn unsent(&self) -> &[u8] {
        self.data.get(self.head..self.tail).unwrap_or_default()
    }

    pub fn sent(&mut self, n: usize) {
        self.head = self.tail.min(self.head + n);
        if self.head == self.tail {
            self.head = 0;
            self.tail = 0;
        }
    }

    /// Gives the memory back: an idle session holds none.
    pub fn release_if_empty(&mut self) {
        if self.is_empty() && !self.data.is_empty() {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_is_never_empty_gives_what_was_put_and_stays_small() {
        let mut buffer = Buffer::default();
        let (mut put, mut taken) = (0_u32, 0_u32);
        buffer.put(&[0; 100]);
        buffer.sent(100);
        for round in 0..100_000 {
            // Between some and 256 KiB of it wait.
            let n = if buffer.len() < 1 << 18 { 7 * 1024 } else { 64 };
            for _ in 0..n / 4 {
                let start = buffer.tail();
                buffer.grow(6);
                buffer.since(start)[..4].copy_from_slice(&put.to_be_bytes());
                buffer.truncate(start + 4);
                put += 1;
            }
            let n = (buffer.len() - 4).min(if round % 100 < 50 { 3 * 1024 } else { 12 * 1024 }) / 4;
            for bytes in buffer.unsent()[..n * 4].chunks(4) {
                assert_eq!(bytes, taken.to_be_bytes());
                taken += 1;
            }
            buffer.sent(n * 4);
            assert!(!buffer.is_empty() && buffer.data.len() <= 1 << 20, "{}", buffer.data.len());
        }
        assert!(put > 10_000_000);
    }
}
