//! Edge: the GSE cloud API over signed HTTP.

mod answer;
mod attempt;
mod circuit;
mod client;
mod credentials;
mod endpoint;
mod errors;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod list;
mod names;
mod problem;
mod quota;
mod resolve;
mod retry;
mod sign;
mod stats;
mod wire;

#[cfg(test)]
mod simulated;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

pub use client::{Client, ClientError};
pub use credentials::KeyError;
pub use stats::{Calls, QuotaState, Stats};
pub use wire::Action;

use crate::access::FleetId;

/// Settings of `[gse]`.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://host[:port]`, or plain http to a loopback address.
    pub endpoint: String,
    pub region: String,
    pub credential_files: Option<CredentialFiles>,
    /// Where a CVM's metadata service hands out the role's key, in place of the usual address (last place of the credential chain).
    pub metadata_url: Option<String>,
    /// For each action, in any sliding second as the endpoint sees arrivals.
    pub requests_per_second: u32,
    pub fleets: Vec<FleetId>,
    /// One call, from connect to the last byte of the answer.
    pub call_timeout: Duration,
    /// Calls that may wait for the quota of one action at once; more are refused as `broker-busy`.
    pub queue: usize,
}

/// Files that hold the API key (first place of the credential chain).
#[derive(Debug, Clone)]
pub struct CredentialFiles {
    pub secret_id: PathBuf,
    pub secret_key: PathBuf,
    pub token: Option<PathBuf>,
}
