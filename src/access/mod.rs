//! The centre: who (operator), where (target), whether (policy → [`Grant`]), with what ([`Lease`], [`Secret`]) and how it is said when
//! it does not work ([`Failure`]). No input or output, no runtime, nothing but std and `zeroize`.

mod capability;
mod destination;
mod failure;
mod glob;
mod grant;
mod hours;
mod lease;
mod network;
mod operator;
mod policy;
mod ports;
mod recording;
mod rule;
#[cfg(test)]
pub(crate) mod samples;
mod secret;
mod target;

pub use capability::{Capabilities, Capability};
pub use destination::Destination;
pub use failure::{Code, Failure, Reference, with_causes};
pub use glob::{Glob, wildcard_matches};
pub use grant::{Grant, GrantedPort};
pub use hours::{Hours, LocalMinute, Utc, Zone};
pub use lease::Lease;
pub use network::Network;
pub use operator::{Operator, OperatorName, Restrictions};
pub use policy::{Denied, Policy};
pub use ports::Ports;
pub use recording::{RecordMode, Recording};
pub use rule::{GrantRule, OperatorPattern, TargetPattern};
pub use secret::Secret;
pub use target::{FleetAliases, FleetId, InstanceId, Target, TargetName};

/// Why a text from a file, the command line or a peer is not what it should be: what was wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid(pub String);

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Invalid {}
