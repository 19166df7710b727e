use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::access::{Lease, Operator, Reference, Target};

/// Text from a peer: valid UTF-8 (what is not is replaced), of bounded length. JSON escapes its control characters.
#[derive(Clone, PartialEq, Eq)]
pub struct Text(String);

impl Text {
    /// Bytes kept; the rest is cut and the cut is marked with `…`.
    pub const MAX_LEN: usize = 4096;

    pub fn new(bytes: &[u8]) -> Self {
        let kept = bytes.get(..Self::MAX_LEN).unwrap_or(bytes);
        let mut text = String::from_utf8_lossy(kept).into_owned();
        if kept.len() < bytes.len() {
            text.push('…');
        }
        Self(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::new(text.as_bytes())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// What an event is about: each field is there as soon as it is known.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Subject {
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none", serialize_with = "display")]
    pub reference: Option<Reference>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operator: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fleet: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub login: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_id: Option<Arc<str>>,
}

fn display<S: Serializer>(value: &Option<Reference>, serializer: S) -> Result<S::Ok, S::Error> {
    match value {
        Some(reference) => serializer.collect_str(reference),
        None => serializer.serialize_none(),
    }
}

impl Subject {
    pub fn source(source: SocketAddr) -> Self {
        Self { source: Some(source), ..Self::default() }
    }

    pub fn operator(operator: &Operator) -> Self {
        Self {
            operator: Some(operator.name.as_str().into()),
            key: Some(operator.key.clone()),
            source: Some(operator.source),
            ..Self::default()
        }
    }

    /// What the operator reads; zeros where there is none.
    pub fn shown_reference(&self) -> Reference {
        self.reference.unwrap_or_else(|| Reference::from_random(0))
    }

    pub fn set_target(&mut self, target: &Target) {
        self.target = Some(target.instance.as_str().into());
        self.fleet = Some(target.fleet.as_str().into());
    }

    /// The target, and by what its login is known.
    pub fn set_lease(&mut self, lease: &Lease) {
        self.set_target(&lease.target);
        self.login = Some(lease.login.as_str().into());
        self.request_id = Some(lease.request_id.as_str().into());
    }
}

/// What happened. The names are the contract with whoever reads the audit.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event")]
pub enum Event {
    #[serde(rename = "operator.authenticated")]
    OperatorAuthenticated { client: Text },
    #[serde(rename = "operator.refused")]
    OperatorRefused {
        /// The name as it was given, proven or not.
        claimed: Text,
        reason: Text,
    },
    /// Connections from the source's address (an IPv6 /64) are refused from now on.
    #[serde(rename = "source.penalized")]
    SourcePenalized { offence: &'static str, refused_s: f64 },
    /// Something of ours panicked over this connection.
    #[serde(rename = "connection.crashed")]
    ConnectionCrashed {},
    #[serde(rename = "target.denied")]
    TargetDenied { typed: Text, reason: Text },
    #[serde(rename = "target.failed")]
    TargetFailed { typed: Text, code: &'static str, reason: Text },
    /// Kept for good before anything is asked of the cloud for this session, and before a secret is used. Behind it comes one of
    /// `session.opened`, `session.abandoned`, `session.crashed`, `target.denied` and `target.failed`.
    #[serde(rename = "session.started")]
    SessionStarted { typed: Text, client: Text },
    /// The operator's client left, or stopped speaking SSH, before the session stood.
    #[serde(rename = "session.abandoned")]
    SessionAbandoned { typed: Text, reason: Text },
    /// Something of ours panicked over this session, which ended with it.
    #[serde(rename = "session.crashed")]
    SessionCrashed {},
    #[serde(rename = "lease.fetched")]
    LeaseFetched { quota_ms: u64, api_ms: u64 },
    #[serde(rename = "host_key.pinned")]
    HostKeyPinned { fingerprint: Text },
    #[serde(rename = "host_key.mismatch")]
    HostKeyMismatch { pinned: Text, offered: Text },
    /// By an administrator: the next key that the instance shows is pinned in its place.
    #[serde(rename = "host_key.forgotten")]
    HostKeyForgotten { fingerprint: Text },
    /// `doctor` is about to try the way to a target: kept for good before anything is asked of the cloud. Behind it comes its `command.run`,
    /// and before that `target.denied` where policy says no.
    #[serde(rename = "doctor.started")]
    DoctorStarted { typed: Text },
    /// What an operator said to the broker itself.
    #[serde(rename = "command.run")]
    CommandRun { words: Text, exit_status: u32 },
    /// Something of ours panicked over a command, which ended with it.
    #[serde(rename = "command.crashed")]
    CommandCrashed { words: Text },
    #[serde(rename = "session.opened")]
    SessionOpened {
        client: Text,
        server: Text,
        /// Algorithms of the two legs: key exchange, host key, cipher (and MAC), operator's side first.
        downstream: Text,
        upstream: Text,
        /// The weak ones among the algorithms of the instance's side.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        weak: Vec<&'static str>,
        resolve_ms: f64,
        quota_ms: f64,
        api_ms: f64,
        connect_ms: f64,
        kex_ms: f64,
        auth_ms: f64,
        total_ms: f64,
    },
    #[serde(rename = "channel.opened")]
    ChannelOpened {
        channel: u32,
        /// `shell`, `exec`, `subsystem`, `direct-tcpip`, `forwarded-tcpip`, `x11`, `auth-agent`, …
        kind: Text,
        /// The command, the subsystem's name, or the destination.
        #[serde(skip_serializing_if = "Option::is_none")]
        what: Option<Text>,
        pty: bool,
    },
    #[serde(rename = "channel.refused")]
    ChannelRefused {
        kind: Text,
        #[serde(skip_serializing_if = "Option::is_none")]
        what: Option<Text>,
        /// `broker` when a grant lacks it, `instance` or `operator` when the peer said no.
        by: &'static str,
        reason: Text,
    },
    /// Something in a channel that is allowed and that whoever reads the audit should see.
    #[serde(rename = "channel.marked")]
    ChannelMarked {
        /// `nested-ssh`: a forward in which SSH is spoken.
        kind: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        what: Option<Text>,
    },
    #[serde(rename = "channel.closed")]
    ChannelClosed {
        channel: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_status: Option<u32>,
        #[serde(skip_serializing_if = "Option::is_none")]
        exit_signal: Option<Text>,
        /// Payload bytes from the instance to the operator.
        bytes_down: u64,
        /// Payload bytes from the operator to the instance.
        bytes_up: u64,
    },
    #[serde(rename = "recording.started")]
    RecordingStarted {
        /// A channel with a pty has a file of its own; the one without a channel is the session's.
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<u32>,
        /// Below `recording.dir`.
        file: Text,
    },
    #[serde(rename = "recording.ended")]
    RecordingEnded {
        #[serde(skip_serializing_if = "Option::is_none")]
        channel: Option<u32>,
        file: Text,
        bytes: u64,
    },
    #[serde(rename = "recording.failed")]
    RecordingFailed {
        reason: Text,
        /// Whether the session ended by it, or did not begin.
        required: bool,
    },
    /// Raw TCP to a port of the target beside its SSH.
    #[serde(rename = "forward.opened")]
    ForwardOpened { kind: &'static str, port: u16, resolve_ms: f64, quota_ms: f64, api_ms: f64, connect_ms: f64, total_ms: f64 },
    #[serde(rename = "forward.closed")]
    ForwardClosed { kind: &'static str, port: u16, reason: Text, bytes_down: u64, bytes_up: u64, duration_s: f64 },
    #[serde(rename = "session.closed")]
    SessionClosed { reason: Text, bytes_down: u64, bytes_up: u64, duration_s: f64 },
}

impl Event {
    pub fn lease_fetched(lease: &Lease) -> Self {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        Self::LeaseFetched { quota_ms: ms(lease.quota_wait), api_ms: ms(lease.api_time) }
    }
}
