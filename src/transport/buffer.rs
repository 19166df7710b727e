/// Bytes on their way out: filled at the tail, sent from the head.
///
/// The memory stays initialised between uses, so that growing within it costs nothing; [`Buffer::release_if_empty`] gives it back.
#[derive(Default)]
pub struct Buffer {
    data: Vec<u8>,
    head: usize,
    tail: usize,
}

impl Buffer {
    /// Where the next byte goes; a position for [`Buffer::since`] and [`Buffer::truncate`].
    pub fn tail(&self) -> usize {
        self.tail
    }

    pub fn len(&self) -> usize {
        self.tail - self.head
    }

    pub fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// `n` more bytes at the tail, with whatever was there.
    pub fn grow(&mut self, n: usize) -> &mut [u8] {
        let start = self.tail;
        self.tail += n;
        if self.data.len() < self.tail {
            self.data.resize(self.tail.next_power_of_two().max(1024), 0);
        }
        self.data.get_mut(start..self.tail).unwrap_or_default()
    }

    pub fn put(&mut self, bytes: &[u8]) {
        self.grow(bytes.len()).copy_from_slice(bytes);
    }

    /// Everything from a position that [`Buffer::tail`] gave.
    pub fn since(&mut self, start: usize) -> &mut [u8] {
        self.data.get_mut(start..self.tail).unwrap_or_default()
    }

    /// Takes back what was put since `start`.
    pub fn truncate(&mut self, start: usize) {
        self.tail = self.tail.min(start.max(self.head));
    }

    /// What is to be sent.
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
