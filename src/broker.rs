//! The use case: a proven operator and a target's name → the target → a [`Grant`] → a [`Lease`] → a connected upstream leg.
//!
//! It owns the traits it needs: [`Cloud`] is what the GSE client does, [`Leases`] the cache before it, [`Upstream`] the way to an instance.
//!
//! **Order of work**: keep the start in the audit → resolve → decide → lease → dial → verify the host key → send the secret. Nothing is asked of the cloud API for a
//! name that policy denies in every fleet.

mod catalogue;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime};

use crate::access::{
    Code, Denied, Failure, FleetId, Grant, GrantedPort, InstanceId, Lease, Operator, OperatorName, Policy, Target, TargetName,
};

pub use catalogue::{Catalogue, Listed, Listing, Scopes};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// How far a call has come: its place in the queue for the API quota, read by whoever tells the operator; out of the queue, when it last
/// got on.
#[derive(Debug)]
pub struct QueuePlace {
    ahead: AtomicUsize,
    moved: Mutex<Option<Instant>>,
}

impl QueuePlace {
    const NOT_WAITING: usize = usize::MAX;

    /// How many calls go first, `None` while not waiting.
    pub fn set(&self, ahead: Option<usize>) {
        self.ahead.store(ahead.unwrap_or(Self::NOT_WAITING), Ordering::Relaxed);
    }

    pub fn ahead(&self) -> Option<usize> {
        Some(self.ahead.load(Ordering::Relaxed)).filter(|ahead| *ahead != Self::NOT_WAITING)
    }

    /// A request was sent, or answered.
    pub fn moved(&self, at: Instant) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// Since when its request has been waiting for nothing but the answer; `None` in the queue, and before there was a request.
    pub fn unanswered_since(&self) -> Option<Instant> {
        let moved = *self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        moved.filter(|_| self.ahead().is_none())
    }
}

impl Default for QueuePlace {
    fn default() -> Self {
        Self { ahead: AtomicUsize::new(Self::NOT_WAITING), moved: Mutex::default() }
    }
}

/// On whose behalf the cloud API is asked, until when, and where its wait can be read.
#[derive(Debug)]
pub struct Asker {
    pub operator: OperatorName,
    pub deadline: Instant,
    place: Mutex<Arc<QueuePlace>>,
}

impl Asker {
    pub fn new(operator: OperatorName, deadline: Instant) -> Self {
        Self { operator, deadline, place: Mutex::default() }
    }

    /// Follows a call that another asker began: its place in the queue is now this asker's.
    pub fn follow(&self, place: Arc<QueuePlace>) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    pub fn place(&self) -> Arc<QueuePlace> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What it is told when its deadline passes before there is an answer.
    pub fn out_of_time(&self) -> Failure {
        match self.place().ahead() {
            Some(_) => Failure::new(Code::ApiThrottled, "the cloud API's quota is used up; try again in a moment"),
            None => Failure::new(Code::ApiUnavailable, "the cloud API or the instance took too long"),
        }
    }
}

/// Where an instance is, and its lease when finding it gave one.
pub struct Located {
    pub target: Target,
    pub lease: Option<Lease>,
    /// Whether it is so for every asker. Of an instance that several fleets have, each is led to the one where they may reach it.
    pub for_all: bool,
}

/// The cloud API, uncached: every call may cost quota.
pub trait Cloud: Send + Sync + 'static {
    /// Finds the fleet of an instance. `candidates` are the configured fleets in which policy could grant it to the asker; only these are
    /// tried with `GetInstanceAccess` where the API has nothing better.
    fn locate<'a>(
        &'a self,
        instance: &'a InstanceId,
        candidates: &'a [FleetId],
        asker: &'a Asker,
    ) -> BoxFuture<'a, Result<Located, Failure>>;

    /// `GetInstanceAccess`.
    fn lease<'a>(&'a self, target: &'a Target, asker: &'a Asker) -> BoxFuture<'a, Result<Lease, Failure>>;
}

/// A lease, and whether it was in the cache before this asker came (so that a refused login may mean a rotated secret).
pub struct Leased {
    pub lease: Arc<Lease>,
    pub cached: bool,
}

/// [`Cloud`] with memory.
pub trait Leases: Send + Sync + 'static {
    fn locate<'a>(
        &'a self,
        instance: &'a InstanceId,
        candidates: &'a [FleetId],
        asker: &'a Asker,
    ) -> BoxFuture<'a, Result<Target, Failure>>;

    fn lease<'a>(&'a self, grant: &'a Grant, asker: &'a Asker) -> BoxFuture<'a, Result<Leased, Failure>>;

    /// A lease newer than `stale`, which the instance refused: fetched unless somebody else already has.
    fn renew<'a>(&'a self, grant: &'a Grant, stale: &'a Arc<Lease>, asker: &'a Asker) -> BoxFuture<'a, Result<Arc<Lease>, Failure>>;
}

/// Milliseconds with two digits behind the point, as what an opening took is told.
pub(crate) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 1e2
}

/// How long each step of an opening took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Phases {
    pub resolve: Duration,
    pub quota: Duration,
    pub api: Duration,
    pub connect: Duration,
    pub kex: Duration,
    pub auth: Duration,
}

/// A connected, authenticated upstream leg.
pub struct Connected<L> {
    pub leg: L,
    /// Only `connect`, `kex` and `auth` are set by [`Upstream`].
    pub phases: Phases,
}

/// Why an instance was not reached.
pub struct Unreached {
    pub failure: Failure,
    /// Whether a fresh lease could change it: the login was refused, or nothing answered at the address.
    pub lease_may_be_stale: bool,
}

/// The way to an instance: dial, verify the host key, authenticate.
pub trait Upstream: Send + Sync + 'static {
    type Leg: Send;
    type Stream: Send;

    fn connect(
        &self,
        grant: &Grant,
        lease: &Lease,
        deadline: Instant,
        trail: &dyn Witness,
    ) -> impl Future<Output = Result<Connected<Self::Leg>, Unreached>> + Send;

    /// Connects to another port of the instance, and sends nothing.
    fn reach(&self, port: GrantedPort, lease: &Lease, deadline: Instant) -> impl Future<Output = Result<Self::Stream, Unreached>> + Send;
}

/// A step of an opening, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// The target is known, and policy has granted it.
    Resolve,
    Quota,
    Api,
    Connect,
    Kex,
    /// The host key is the pinned one, or is pinned now.
    HostKey,
    Auth,
}

/// What an opening learns on its way, for the audit: each step is told when it happens.
pub trait Witness: Send + Sync {
    /// A step succeeded. With a lease that proved stale, the steps from the quota on are told again.
    fn passed(&self, _step: Step, _took: Duration) {}
    /// The opening begins. Until this has been kept for good nothing is asked of the cloud and no lease is used.
    fn started<'a>(&'a self, name: &'a TargetName) -> BoxFuture<'a, Result<(), Failure>>;
    fn leased(&self, lease: &Lease, cached: bool);
    fn host_key_pinned(&self, target: &Target, fingerprint: &str);
    fn host_key_mismatch(&self, target: &Target, pinned: &str, offered: &str);
}

/// What the operator's session stands on.
pub struct Opened<L> {
    pub leg: L,
    pub grant: Grant,
    pub lease: Arc<Lease>,
    pub phases: Phases,
}

/// What a forward to another port stands on.
pub struct Reached<S> {
    pub stream: S,
    pub grant: Grant,
    pub lease: Arc<Lease>,
    pub phases: Phases,
}

/// A refusal or a failure with what was known when it happened.
pub struct NotOpened {
    pub failure: Failure,
    pub target: Option<Target>,
    /// Why policy denied, as against something that broke.
    pub denied: Option<Denied>,
}

impl NotOpened {
    /// Something broke.
    pub fn failed(failure: Failure, target: Option<Target>) -> Self {
        Self { failure, target, denied: None }
    }

    pub fn denied(denied: Denied, target: Option<Target>) -> Self {
        Self { failure: Failure::target_refused().because(denied), target, denied: Some(denied) }
    }
}

impl From<Failure> for NotOpened {
    /// Something broke before the target was known.
    fn from(failure: Failure) -> Self {
        Self::failed(failure, None)
    }
}

pub struct Broker<U> {
    policy: RwLock<Arc<Policy>>,
    /// Configured fleets, the candidates for an instance named without one.
    fleets: Vec<FleetId>,
    leases: Arc<dyn Leases>,
    upstream: U,
}

impl<U: Upstream> Broker<U> {
    pub fn new(policy: Policy, fleets: Vec<FleetId>, leases: Arc<dyn Leases>, upstream: U) -> Self {
        Self { policy: RwLock::new(Arc::new(policy)), fleets, leases, upstream }
    }

    pub fn policy(&self) -> Arc<Policy> {
        self.policy.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on this policy decides. Sessions that run are not looked at.
    pub fn set_policy(&self, policy: Policy) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// Opens the upstream leg for one operator on one target. The caller bounds it by `asker.deadline`.
    pub async fn open(
        &self,
        operator: &Operator,
        name: &TargetName,
        asker: &Asker,
        trail: &dyn Witness,
    ) -> Result<Opened<U::Leg>, NotOpened> {
        let policy = self.policy();
        policy.could_reach(operator, name, SystemTime::now()).map_err(|denied| NotOpened::denied(denied, None))?;
        trail.started(name).await?;
        let started = Instant::now();
        let grant = self.decide(&policy, operator, name, asker).await?;
        let (target, resolve) = (grant.target().clone(), started.elapsed());
        trail.passed(Step::Resolve, resolve);

        let failed = |failure| NotOpened::failed(failure, Some(target.clone()));
        let asked = Instant::now();
        let Leased { mut lease, cached } = self.leases.lease(&grant, asker).await.map_err(failed)?;
        trail.leased(&lease, cached);
        let mut leasing = asked.elapsed();
        tell_leasing(trail, &lease, leasing);

        let mut connected = self.upstream.connect(&grant, &lease, asker.deadline, trail).await;
        // A secret may have been rotated, or an address changed, since the lease was fetched: ask once more, try once more.
        if let Err(Unreached { lease_may_be_stale: true, .. }) = &connected
            && cached
        {
            let asked = Instant::now();
            lease = self.leases.renew(&grant, &lease, asker).await.map_err(failed)?;
            trail.leased(&lease, false);
            tell_leasing(trail, &lease, asked.elapsed());
            leasing += asked.elapsed();
            connected = self.upstream.connect(&grant, &lease, asker.deadline, trail).await;
        }
        let Connected { leg, phases } = connected.map_err(|unreached| failed(unreached.failure))?;
        let quota = lease.quota_wait.min(leasing);
        Ok(Opened { leg, grant, lease, phases: Phases { resolve, quota, api: leasing.saturating_sub(quota), ..phases } })
    }

    /// The decision alone: nothing is leased or dialled. A refusal names the target only when it exists and policy denied it.
    pub async fn grant(&self, operator: &Operator, name: &TargetName, asker: &Asker) -> Result<Grant, NotOpened> {
        let policy = self.policy();
        policy.could_reach(operator, name, SystemTime::now()).map_err(|denied| NotOpened::denied(denied, None))?;
        self.decide(&policy, operator, name, asker).await
    }

    async fn decide(&self, policy: &Policy, operator: &Operator, name: &TargetName, asker: &Asker) -> Result<Grant, NotOpened> {
        let target = self.resolve(policy, operator, name, asker).await?;
        policy.decide(operator, &target, SystemTime::now()).map_err(|denied| NotOpened::denied(denied, Some(target)))
    }

    /// Connects to a port of a target beside its SSH: the same order of work, but that no secret is used.
    pub async fn reach(
        &self,
        operator: &Operator,
        (name, port): (&TargetName, u16),
        asker: &Asker,
        trail: &dyn Witness,
    ) -> Result<Reached<U::Stream>, NotOpened> {
        let policy = self.policy();
        policy.could_reach_port(operator, name, port, SystemTime::now()).map_err(|denied| NotOpened::denied(denied, None))?;
        trail.started(name).await?;
        let started = Instant::now();
        let target = self.resolve(&policy, operator, name, asker).await?;
        let resolve = started.elapsed();
        let denied = |denied| NotOpened::denied(denied, Some(target.clone()));
        let grant = policy.decide(operator, &target, SystemTime::now()).map_err(denied)?;
        let granted = grant.port(port).ok_or_else(|| denied(Denied::Port(port)))?;

        let failed = |failure| NotOpened::failed(failure, Some(target.clone()));
        let asked = Instant::now();
        let Leased { mut lease, cached } = self.leases.lease(&grant, asker).await.map_err(failed)?;
        trail.leased(&lease, cached);
        let mut leasing = asked.elapsed();
        let mut dialled = Instant::now();
        let mut reached = self.upstream.reach(granted, &lease, asker.deadline).await;
        // An address may have changed since the lease was fetched.
        if let Err(Unreached { lease_may_be_stale: true, .. }) = &reached
            && cached
        {
            let asked = Instant::now();
            lease = self.leases.renew(&grant, &lease, asker).await.map_err(failed)?;
            trail.leased(&lease, false);
            leasing += asked.elapsed();
            dialled = Instant::now();
            reached = self.upstream.reach(granted, &lease, asker.deadline).await;
        }
        let stream = reached.map_err(|unreached| failed(unreached.failure))?;
        let quota = lease.quota_wait.min(leasing);
        let phases = Phases { resolve, quota, api: leasing.saturating_sub(quota), connect: dialled.elapsed(), ..Phases::default() };
        Ok(Reached { stream, grant, lease, phases })
    }

    /// Where a name is, once it is known that policy could grant it.
    async fn resolve(&self, policy: &Policy, operator: &Operator, name: &TargetName, asker: &Asker) -> Result<Target, NotOpened> {
        let now = SystemTime::now();
        let target_in = |fleet: &FleetId| Target { fleet: fleet.clone(), instance: name.instance.clone() };
        if let Some(fleet) = &name.fleet {
            return Ok(target_in(fleet));
        }
        let candidates: Vec<FleetId> =
            self.fleets.iter().filter(|fleet| policy.decide(operator, &target_in(fleet), now).is_ok()).cloned().collect();
        Ok(self.leases.locate(&name.instance, &candidates, asker).await?)
    }
}

fn tell_leasing(trail: &dyn Witness, lease: &Lease, took: Duration) {
    let quota = lease.quota_wait.min(took);
    trail.passed(Step::Quota, quota);
    trail.passed(Step::Api, took.saturating_sub(quota));
}
