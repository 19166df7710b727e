//! Edge: leases and resolutions in memory (moka): one call in flight per key, short negative answers.

use std::time::Duration;

/// Settings of `[cache]`.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    pub lease_ttl: Duration,
    pub resolve_ttl: Duration,
    /// How long "not found" is remembered; no other failure is.
    pub not_found_ttl: Duration,
    /// Entries in each of the caches.
    pub capacity: u64,
}
