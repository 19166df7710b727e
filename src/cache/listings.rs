use std::sync::Arc;
use std::time::Duration;

use super::Cache;
use crate::access::{Failure, FleetId};
use crate::broker::{Asker, BoxFuture, Catalogue, Cloud, Listing, Scopes};

/// How long a listing is shown again without asking: a page of it costs as much quota as a login.
pub(super) const TTL: Duration = Duration::from_secs(30);
/// Listings that are kept at once, each of at most 10,000 instances.
pub(super) const CAPACITY: u64 = 32;

/// One fleet, or all.
pub(super) type Scope = Option<FleetId>;

impl<C: Cloud + Catalogue> Cache<C> {
    async fn listed(&self, scope: Scope, asker: &Asker) -> Result<Arc<Listing>, Failure> {
        if let Some(listing) = self.shared.listings.get(&scope).await {
            return Ok(listing);
        }
        let call = |asker: Asker| {
            let (shared, scope) = (self.shared.clone(), scope.clone());
            async move {
                // A flight for the same may have landed since this asker looked.
                if let Some(listing) = shared.listings.get(&scope).await {
                    return Ok(listing);
                }
                let listing = shared.cloud.list(scope.as_ref(), &asker).await?;
                shared.listings.put(scope, listing.clone()).await;
                Ok(listing)
            }
        };
        self.shared.listing_flights.join(&scope, asker, call).await
    }
}

impl<C: Cloud + Catalogue> Catalogue for Cache<C> {
    fn scopes<'a>(&'a self, asker: &'a Asker) -> BoxFuture<'a, Result<Scopes, Failure>> {
        self.shared.cloud.scopes(asker)
    }

    fn list<'a>(&'a self, fleet: Option<&'a FleetId>, asker: &'a Asker) -> BoxFuture<'a, Result<Arc<Listing>, Failure>> {
        Box::pin(self.listed(fleet.cloned(), asker))
    }
}
