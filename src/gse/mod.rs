//! Edge: the GSE cloud API over signed HTTP.

mod circuit;
mod endpoint;
mod errors;
pub mod quota;
mod retry;
mod sign;
mod wire;

use std::path::PathBuf;
use std::time::Duration;

use crate::access::FleetId;

/// Settings of `[gse]`.
#[derive(Debug, Clone)]
pub struct Config {
    /// `https://host[:port]`, or plain http to a loopback address.
    pub endpoint: String,
    pub region: String,
    pub credential_files: Option<CredentialFiles>,
    /// For each action, in any sliding second as the endpoint sees arrivals.
    pub requests_per_second: u32,
    pub fleets: Vec<FleetId>,
    /// One call, from connect to the last byte of the answer.
    pub call_timeout: Duration,
    /// Calls that may wait for the quota at once; more are refused as `broker-busy`.
    pub queue: usize,
}

/// Files that hold the API key (first place of the credential chain).
#[derive(Debug, Clone)]
pub struct CredentialFiles {
    pub secret_id: PathBuf,
    pub secret_key: PathBuf,
    pub token: Option<PathBuf>,
}
