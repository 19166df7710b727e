//! Edge, the only thing that an unauthenticated peer reaches: admission, one deadline, authentication (`login`, `userauth`), and byte streams
//! to named targets for whoever was proven (`serving`; `channels` are RFC 4254's, `wire` is what sessions and the connection's task share).

mod acceptor;
mod admission;
mod attempts;
mod authorized_keys;
mod beside;
mod certificate;
mod channels;
mod client;
mod closing;
mod commands;
mod connections;
#[allow(clippy::module_inception, reason = "the type that the module is named after")]
mod door;
mod expiry;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod key_file;
mod key_options;
mod key_rules;
mod lanes;
mod login;
mod netblock;
mod operators;
mod penalties;
mod proxy;
mod pulse;
mod recent;
mod rejected;
mod rules;
mod serving;
mod source_list;
mod tally;
mod turned_away;
mod userauth;
mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

pub use authorized_keys::{AuthorizedKeys, LineProblem};
pub use closing::Closing;
pub use commands::{CommandLine, Commands, Said};
pub use connections::{ConnectionCounts, Judged};
pub use door::{Door, DoorError};
pub use key_file::{KeyFileError, check_authority, check_revoked};
pub use penalties::PenaltyRules;
pub use pulse::Pulse;
pub use rules::Rules;

use crate::access::{Failure, Operator, TargetName};
use crate::broker::BoxFuture;

/// The seam: what the door hands over for every direct-tcpip open to port 22 of an authenticated operator. Nothing behind it knows of
/// the connection.
pub struct Jump {
    pub operator: Operator,
    /// The operator's client, as it names itself in the outer connection (`SSH-2.0-OpenSSH_9.2p1 …`).
    pub client_version: String,
    /// The host string as it came (attacker-controlled text, at most [`TargetName::MAX_LEN`] bytes of it), for the sentence and the audit.
    pub typed: String,
    /// The target's name, or why there will be no session (`target-name`, `broker-busy`, `broker-draining`): the operator reads that
    /// sentence on this very stream.
    pub name: Result<TargetName, Failure>,
    pub stream: Box<dyn ByteStream>,
}

pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// What the door hands over for every direct-tcpip open to another port.
pub struct Forward {
    pub operator: Operator,
    /// As in [`Jump`].
    pub client_version: String,
    pub typed: String,
    pub name: Result<TargetName, Failure>,
    pub port: u16,
    /// Not answered yet: the operator's client reads a refusal in its place.
    pub channel: Box<dyn PendingChannel>,
    /// The operator's side has closed the channel, or is gone.
    pub gone: CancellationToken,
}

/// A channel that an operator's client asked for. Dropped, it is refused.
pub trait PendingChannel: Send {
    fn accept(self: Box<Self>) -> BoxFuture<'static, Box<dyn ByteStream>>;
    fn refuse(self: Box<Self>, kind: Refusal, sentence: String) -> BoxFuture<'static, ()>;
}

/// Reasons for a refused channel (RFC 4254, 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    Prohibited,
    ConnectFailed,
    Shortage,
}

/// What runs a session on a jump's stream, or a forward, until either side ends it.
pub trait Sessions: Send + Sync + 'static {
    fn run(&self, jump: Jump) -> BoxFuture<'static, ()>;
    fn forward(&self, forward: Forward) -> BoxFuture<'static, ()>;
}

/// Settings of `[listen]`, `[operators]`, `[penalties]` and the part of `[limits]` that the door enforces.
#[derive(Debug, Clone)]
pub struct Config {
    pub addresses: Vec<SocketAddr>,
    /// One wall-clock deadline over identification, key exchange and authentication.
    pub login_grace: Duration,
    /// Networks of load balancers, whose connections begin with a PROXY protocol header.
    pub proxy_protocol_from: Vec<IpNet>,
    pub authorized_keys_dir: PathBuf,
    pub trusted_user_ca: Option<PathBuf>,
    pub revoked_keys: Option<PathBuf>,
    pub limits: Limits,
    pub penalties: PenaltyRules,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections in all, authenticated or not.
    pub connections: usize,
    /// Connections that have not authenticated yet.
    pub startups: usize,
    /// … from how many on a part of them is dropped, and how many percent to begin with: all of them when `startups` are there.
    pub startups_drop_from: usize,
    pub startups_drop_percent: usize,
    /// … of them from one source (/32, /64).
    pub startups_per_source: usize,
    /// … of them from one netblock (/24, /48).
    pub startups_per_netblock: usize,
    /// Authentication attempts a connection that may fail; the client's opening `none` is none of them.
    pub attempts: usize,
    /// Sessions (operator on target) in all.
    pub sessions: usize,
    /// Sessions of one operator.
    pub sessions_per_operator: usize,
    /// Targets open at once on one connection.
    pub sessions_per_connection: usize,
    /// Bytes that wait between the door and one target's session: what its channel's client may send before any are taken.
    pub pipe: usize,
}
