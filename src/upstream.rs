//! Edge: the way to an instance: dial, verify the host key against its pin, authenticate.

pub mod credential;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::access::FleetId;

/// Settings of `[upstream]`, with the ports that `[gse]` names.
#[derive(Debug, Clone)]
pub struct Config {
    pub connect_timeout: Duration,
    /// Key exchange and authentication, after the TCP connection stands.
    pub handshake_timeout: Duration,
    pub host_keys: HostKeys,
    /// `state_dir/known_hosts`.
    pub known_hosts: PathBuf,
    /// Empty: any address but loopback, link-local, multicast, unspecified and metadata.
    pub allowed_networks: Vec<IpNet>,
    pub legacy_algorithms: LegacyAlgorithms,
    pub ssh_port: u16,
    pub ssh_ports: BTreeMap<FleetId, u16>,
}

/// What to do with an instance whose host key is not pinned yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKeys {
    AcceptNew,
    Strict,
}

/// When the old, weak algorithms are offered to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LegacyAlgorithms {
    /// When the API says that the instance is that old.
    Auto,
    Never,
    Always,
}
