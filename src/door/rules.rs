use std::time::Duration;

use super::door::fitted;
use super::operators::Operators;
use super::{Config, DoorError, Limits};
use crate::access::FleetAliases;

/// What the door goes by and can be told anew while it is open: who the operators are, what targets are called, how long a login may take,
/// how many sessions there may be. The other limits are of one door, from its beginning to its end.
pub struct Rules {
    pub(super) operators: Operators,
    pub(super) aliases: FleetAliases,
    pub(super) limits: Limits,
    pub(super) login_grace: Duration,
}

impl Rules {
    /// Refuses files that cannot be read as they must be.
    pub fn read(config: &Config, aliases: FleetAliases) -> Result<Self, DoorError> {
        Ok(Self { operators: Operators::new(config)?, aliases, limits: fitted(config.limits), login_grace: config.login_grace })
    }
}
