use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Logins at a rate
    Rate,
    /// Sessions that do nothing
    Idle,
    /// Sessions that do much
    Busy,
    /// Sessions that come and go, some of them badly
    Soak,
}

/// Measures a broker under load, on loopback. Exits with 1 when a login was lost that no named limit refused, or something did not
/// return to what it was.
#[derive(Parser)]
pub struct Arguments {
    /// What to measure; everything when nothing is said
    parts: Vec<Part>,
    #[arg(long, default_value = "target/release/ssh-broker")]
    pub broker: PathBuf,
    /// Logins offered a second
    #[arg(long, default_value_t = 200)]
    pub rate: u32,
    /// For how many seconds
    #[arg(long, default_value_t = 60)]
    pub seconds: u64,
    /// Logins under way at once; what would be more waits and is told
    #[arg(long, default_value_t = 100)]
    pub at_once: usize,
    /// Sessions that do nothing
    #[arg(long, default_value_t = 2000)]
    pub idle: usize,
    /// Sessions that do much
    #[arg(long, default_value_t = 200)]
    pub busy: usize,
    /// Seconds of the soak
    #[arg(long, default_value_t = 1800)]
    pub soak: u64,
    /// Percentage of the soak's sessions that go wrong
    #[arg(long, default_value_t = 1.0)]
    pub faults: f64,
}

impl Arguments {
    pub fn parts(&self) -> Vec<Part> {
        if self.parts.is_empty() { Part::value_variants().to_vec() } else { self.parts.clone() }
    }

    /// What the parts are told to take.
    pub fn total(&self) -> Duration {
        Duration::from_secs(self.seconds + self.soak + 60)
    }
}
