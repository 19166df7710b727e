use std::sync::Arc;

use super::{Asker, BoxFuture};
use crate::access::{Failure, FleetId, Target};

/// One instance as a listing shows it. No address: those are nobody's business but the broker's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub target: Target,
    /// The cloud's own word, such as `Active`. Bounded, but otherwise as it came.
    pub status: String,
    /// Free text such as `centos6.7`. Bounded, but otherwise as it came.
    pub operating_system: String,
}

/// The instances of one fleet, or of all.
#[derive(Debug, Default)]
pub struct Listing {
    pub instances: Vec<Listed>,
    /// Whether there are more than a listing may hold.
    pub cut: bool,
}

/// How the cloud API lets this API key list instances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scopes {
    /// All fleets in one listing.
    Whole,
    /// One listing for each of these fleets.
    Fleets(Vec<FleetId>),
}

/// What instances there are. Nothing here is judged by policy: whoever shows it must.
pub trait Catalogue: Send + Sync + 'static {
    fn scopes<'a>(&'a self, asker: &'a Asker) -> BoxFuture<'a, Result<Scopes, Failure>>;

    /// The instances of one fleet; without one, of all.
    fn list<'a>(&'a self, fleet: Option<&'a FleetId>, asker: &'a Asker) -> BoxFuture<'a, Result<Arc<Listing>, Failure>>;
}
