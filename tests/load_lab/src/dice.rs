use std::hash::{BuildHasher, RandomState};

/// Random numbers that nobody needs to be unpredictable (xorshift64*).
pub struct Dice(u64);

impl Dice {
    pub fn new() -> Self {
        Self(RandomState::new().hash_one(0) | 1)
    }

    /// From 0 to below 1.
    pub fn roll(&mut self) -> f64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
    }

    pub fn below(&mut self, end: usize) -> usize {
        (self.roll() * end as f64) as usize
    }
}
