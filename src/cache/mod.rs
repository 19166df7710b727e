//! Edge: leases and resolutions in memory (moka): one call in flight per key, short negative answers.
//!
//! **Invariants**: however many ask for the same at the same time, the cloud is asked once, as long as it answers; a lease is gone from here
//! within a second after its time, traffic or not; the only failure that is remembered is "not found".

mod flight;
mod listings;
mod memory;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::access::{Code, Failure, FleetId, Grant, InstanceId, Lease, Target};
use crate::broker::{Asker, BoxFuture, Cloud, Leased, Leases, Listing};
use flight::Flights;
use listings::Scope;
use memory::Memory;

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

/// How often an asker was answered from memory, and how often not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lookups {
    pub hits: u64,
    pub misses: u64,
}

#[derive(Default)]
struct Counter {
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Counter {
    fn count(&self, hit: bool) {
        if hit { &self.hits } else { &self.misses }.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> Lookups {
        Lookups { hits: self.hits.load(Ordering::Relaxed), misses: self.misses.load(Ordering::Relaxed) }
    }
}

/// Where an instance was looked for: the answer "not found" holds for these candidates only.
type Search = (InstanceId, Vec<FleetId>);

/// [`Cloud`] with memory in front.
pub struct Cache<C> {
    shared: Arc<Shared<C>>,
}

struct Shared<C> {
    cloud: C,
    leases: Memory<Target, Held>,
    locations: Memory<InstanceId, Target>,
    absent: Memory<Target, Failure>,
    absent_everywhere: Memory<Search, Failure>,
    lease_flights: Flights<Target, Arc<Lease>>,
    locate_flights: Flights<Search, Target>,
    lease_lookups: Counter,
    locate_lookups: Counter,
    listings: Memory<Scope, Listing>,
    listing_flights: Flights<Scope, Arc<Listing>>,
}

struct Held {
    lease: Arc<Lease>,
    /// It came with a location and nobody has asked for it yet: whoever does first gets it as new.
    unclaimed: AtomicBool,
}

impl<C: Cloud> Cache<C> {
    pub fn new(cloud: C, config: Config) -> Self {
        let shared = Shared {
            cloud,
            leases: Memory::new(config.capacity, config.lease_ttl),
            locations: Memory::new(config.capacity, config.resolve_ttl),
            absent: Memory::new(config.capacity, config.not_found_ttl),
            absent_everywhere: Memory::new(config.capacity, config.not_found_ttl),
            lease_flights: Flights::default(),
            locate_flights: Flights::default(),
            lease_lookups: Counter::default(),
            locate_lookups: Counter::default(),
            listings: Memory::new(listings::CAPACITY, listings::TTL),
            listing_flights: Flights::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The cloud behind, for its statistics.
    pub fn cloud(&self) -> &C {
        &self.shared.cloud
    }

    /// Of leases, and of where instances are.
    pub fn lookups(&self) -> (Lookups, Lookups) {
        (self.shared.lease_lookups.now(), self.shared.locate_lookups.now())
    }

    async fn find(&self, instance: &InstanceId, candidates: &[FleetId], asker: &Asker) -> Result<Target, Failure> {
        let counter = &self.shared.locate_lookups;
        if let Some(target) = self.shared.locations.get(instance).await {
            counter.count(true);
            return Ok(Target::clone(&target));
        }
        let search = (instance.clone(), candidates.to_vec());
        if let Some(failure) = self.shared.absent_everywhere.get(&search).await {
            counter.count(true);
            return Err(Failure::clone(&failure));
        }
        counter.count(false);
        let call = |asker: Asker| {
            let (shared, search) = (self.shared.clone(), search.clone());
            async move { shared.locate(search, &asker).await }
        };
        self.shared.locate_flights.join(&search, asker, call).await
    }

    async fn known_or_fetched(&self, target: &Target, asker: &Asker) -> Result<Leased, Failure> {
        let counter = &self.shared.lease_lookups;
        if let Some(held) = self.shared.leases.get(target).await {
            counter.count(true);
            return Ok(Leased { lease: held.lease.clone(), cached: !held.unclaimed.swap(false, Ordering::Relaxed) });
        }
        if let Some(failure) = self.shared.absent.get(target).await {
            counter.count(true);
            return Err(Failure::clone(&failure));
        }
        counter.count(false);
        Ok(Leased { lease: self.fetched(target, None, asker).await?, cached: false })
    }

    async fn fetched(&self, target: &Target, stale: Option<&Arc<Lease>>, asker: &Asker) -> Result<Arc<Lease>, Failure> {
        let call = |asker: Asker| {
            let (shared, target, stale) = (self.shared.clone(), target.clone(), stale.cloned());
            async move { shared.fetch(target, stale.as_ref(), &asker).await }
        };
        self.shared.lease_flights.join(target, asker, call).await
    }

    /// A lease other than `stale`. Who comes while another renews joins its flight; who comes after finds its lease.
    async fn renewed(&self, target: &Target, stale: &Arc<Lease>, asker: &Asker) -> Result<Arc<Lease>, Failure> {
        if let Some(held) = self.shared.leases.get(target).await {
            if !Arc::ptr_eq(&held.lease, stale) {
                return Ok(held.lease.clone());
            }
            self.shared.leases.forget_if(target, |held| Arc::ptr_eq(&held.lease, stale)).await;
        }
        let lease = self.fetched(target, Some(stale), asker).await?;
        if !Arc::ptr_eq(&lease, stale) {
            return Ok(lease);
        }
        // The flight that was joined began before the lease proved stale, and ended in it.
        self.fetched(target, Some(stale), asker).await
    }
}

impl<C: Cloud> Shared<C> {
    /// The one call of a flight for a location.
    async fn locate(&self, search: Search, asker: &Asker) -> Result<Target, Failure> {
        // A flight for the same may have landed between this asker's look into the memory and its joining.
        if let Some(target) = self.locations.get(&search.0).await {
            return Ok(Target::clone(&target));
        }
        match self.cloud.locate(&search.0, &search.1, asker).await {
            Ok(located) => {
                if let Some(lease) = located.lease {
                    let held = Held { lease: Arc::new(lease), unclaimed: AtomicBool::new(true) };
                    self.leases.put(located.target.clone(), Arc::new(held)).await;
                }
                if located.for_all {
                    self.locations.put(search.0, Arc::new(located.target.clone())).await;
                }
                Ok(located.target)
            }
            Err(failure) => {
                if failure.code == Code::TargetRefused {
                    self.absent_everywhere.put(search, Arc::new(failure.clone())).await;
                }
                Err(failure)
            }
        }
    }

    /// The one call of a flight for a lease.
    async fn fetch(&self, target: Target, stale: Option<&Arc<Lease>>, asker: &Asker) -> Result<Arc<Lease>, Failure> {
        if let Some(held) = self.leases.get(&target).await
            && stale.is_none_or(|stale| !Arc::ptr_eq(&held.lease, stale))
        {
            return Ok(held.lease.clone());
        }
        match self.cloud.lease(&target, asker).await {
            Ok(lease) => {
                let lease = Arc::new(lease);
                let held = Held { lease: lease.clone(), unclaimed: AtomicBool::new(false) };
                self.leases.put(target, Arc::new(held)).await;
                Ok(lease)
            }
            Err(failure) => {
                if failure.code == Code::TargetRefused {
                    // It may live in another fleet by now.
                    self.locations.forget_if(&target.instance, |location| *location == target).await;
                    self.absent.put(target, Arc::new(failure.clone())).await;
                }
                Err(failure)
            }
        }
    }
}

impl<C: Cloud> Leases for Cache<C> {
    fn locate<'a>(
        &'a self,
        instance: &'a InstanceId,
        candidates: &'a [FleetId],
        asker: &'a Asker,
    ) -> BoxFuture<'a, Result<Target, Failure>> {
        Box::pin(self.find(instance, candidates, asker))
    }

    fn lease<'a>(&'a self, grant: &'a Grant, asker: &'a Asker) -> BoxFuture<'a, Result<Leased, Failure>> {
        Box::pin(self.known_or_fetched(grant.target(), asker))
    }

    fn renew<'a>(&'a self, grant: &'a Grant, stale: &'a Arc<Lease>, asker: &'a Asker) -> BoxFuture<'a, Result<Arc<Lease>, Failure>> {
        Box::pin(self.renewed(grant.target(), stale, asker))
    }
}
