use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::HeaderValue;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout_at};

use super::attempt::{Attempt, Reply, local_time};
use super::circuit::{Circuit, Pass};
use super::credentials::{ApiKey, Credentials, KeyError, Metadata, Places};
use super::endpoint::Endpoint;
use super::errors::Class;
use super::names::Names;
use super::problem::{Cause, Problem};
use super::quota::{Permit, Quota};
use super::resolve::Ways;
use super::retry::{Backoff, RetryBudget};
use super::stats::{Counters, QuotaState, Stats};
use super::wire::{Action, Question};
use super::{Config, answer};
use crate::access::{Failure, FleetId, InstanceId, Invalid, Lease, Target, with_causes};
use crate::broker::{Asker, BoxFuture, Cloud, Located};

/// Why the client could not be made: every one is for the administrator.
#[derive(Debug, Error)]
pub enum ClientError {
    #[error(transparent)]
    Setting(#[from] Invalid),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("cannot set up HTTP and TLS (Debian's package ca-certificates has the roots that TLS needs): {}", with_causes(.0))]
    Http(#[from] reqwest::Error),
}

/// The GSE cloud API. Every call waits for its quota, is signed, and is retried where that can help, all inside the asker's deadline.
pub struct Client {
    http: reqwest::Client,
    /// Keeps no connection: one that is kept keeps the buffer that its last answer was read into.
    http_for_secrets: reqwest::Client,
    endpoint: Endpoint,
    region: HeaderValue,
    call_timeout: Duration,
    pub(super) fleets: Vec<FleetId>,
    credentials: Credentials,
    /// The endpoint's clock less ours, in seconds; zero until it refused a signature for its time.
    clock_offset: AtomicI64,
    access_quota: Quota,
    describe_quota: Quota,
    list_quota: Quota,
    circuit: Circuit,
    budget: RetryBudget,
    pub(super) ways: Ways,
    counters: Counters,
}

/// What one call has been through.
struct Progress {
    /// In the queue for the quota, all attempts together.
    quota_wait: Duration,
    /// The last attempt, from its slot to the end of its answer.
    api_time: Duration,
    key: Option<Arc<ApiKey>>,
    key_reread: bool,
    clock_set: bool,
    backoff: Backoff,
}

/// What can be done about a problem.
enum Remedy {
    None,
    Again,
    After(Duration),
}

impl Client {
    /// Reads the API key from the first place that is configured. Nothing is asked of the endpoint yet.
    pub async fn new(config: Config) -> Result<Self, ClientError> {
        let places = Places::of_this_machine(config.credential_files.clone());
        Self::with_places(config, places).await
    }

    pub(super) async fn with_places(config: Config, places: Places) -> Result<Self, ClientError> {
        let endpoint = Endpoint::parse(&config.endpoint)?;
        let is_region = !config.region.is_empty() && config.region.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        let region = HeaderValue::from_str(&config.region).ok().filter(|_| is_region).ok_or_else(|| {
            Invalid(format!("gse.region: {:?} is no region; it must be letters, digits and '-', such as ap-shanghai", config.region))
        })?;
        if config.requests_per_second == 0 || config.queue == 0 || config.call_timeout.is_zero() {
            return Err(Invalid("gse: requests_per_second, queue and call_timeout must be above zero".to_owned()).into());
        }
        let quota = || Quota::new(config.requests_per_second, config.queue);
        let names = Names::new();
        let http = |idle_connections: usize| {
            reqwest::Client::builder()
                .no_proxy()
                .redirect(reqwest::redirect::Policy::none())
                .retry(reqwest::retry::never())
                .https_only(endpoint.url.scheme() == "https")
                .pool_idle_timeout(Duration::from_secs(30))
                .pool_max_idle_per_host(idle_connections)
                .connect_timeout(config.call_timeout)
                .dns_resolver(names.clone())
                .build()
        };
        let (http, http_for_secrets) = (http(usize::MAX)?, http(0)?);
        let credentials = Credentials::load(places, Metadata::new(config.metadata_url.as_deref())?).await?;
        Ok(Self {
            http,
            http_for_secrets,
            endpoint,
            region,
            call_timeout: config.call_timeout,
            access_quota: quota(),
            describe_quota: quota(),
            list_quota: quota(),
            fleets: config.fleets,
            credentials,
            clock_offset: AtomicI64::new(0),
            circuit: Circuit::new(),
            budget: RetryBudget::new(),
            ways: Ways::default(),
            counters: Counters::default(),
        })
    }

    pub fn stats(&self) -> Stats {
        let quotas = Action::ALL.iter().map(|action| {
            let quota = self.quota(*action);
            QuotaState { action: *action, waiting: quota.waiting(), free: quota.free(), limit: quota.limit() }
        });
        Stats { calls: self.counters.snapshot(), quotas: quotas.collect(), is_asked: self.circuit.is_up() }
    }

    fn quota(&self, action: Action) -> &Quota {
        match action {
            Action::GetInstanceAccess => &self.access_quota,
            Action::DescribeInstances => &self.describe_quota,
            Action::ListFleets => &self.list_quota,
        }
    }

    /// `GetInstanceAccess`, checked.
    pub(super) async fn instance_access(&self, target: &Target, asker: &Asker) -> Result<Lease, Problem> {
        let question = Question { fleet: Some(target.fleet.as_str()), instance: Some(target.instance.as_str()), ..Question::default() };
        let (reply, progress) = self.call(Action::GetInstanceAccess, &question, asker).await?;
        answer::lease(reply, target, progress.quota_wait, progress.api_time)
    }

    /// Any other action.
    pub(super) async fn ask(&self, action: Action, question: &Question<'_>, asker: &Asker) -> Result<Reply, Problem> {
        self.call(action, question, asker).await.map(|(reply, _)| reply)
    }

    /// The retry policy: attempts until one is answered, nothing more can be done, or the deadline is too near.
    async fn call(&self, action: Action, question: &Question<'_>, asker: &Asker) -> Result<(Reply, Progress), Problem> {
        let body = serde_json::to_vec(question).map(Bytes::from).map_err(|_| Cause::Unfit("the question is no JSON"))?;
        let deadline = Instant::from_std(asker.deadline);
        self.budget.earn();
        let mut progress = Progress {
            quota_wait: Duration::ZERO,
            api_time: Duration::ZERO,
            key: None,
            key_reread: false,
            clock_set: false,
            backoff: Backoff::new(),
        };
        loop {
            let result = self.attempt(action, &body, asker, deadline, &mut progress).await;
            self.counters.count(action, result.as_ref().map_or_else(Problem::label, |_| "ok"));
            let problem = match result {
                Ok(reply) => return Ok((reply, progress)),
                Err(problem) => problem,
            };
            tracing::debug!(action = action.name(), request_id = problem.request_id, cause = ?problem.cause, "a cloud API call failed");
            match self.remedy(&problem, deadline, &mut progress).await? {
                Remedy::Again => {}
                Remedy::After(pause) if Instant::now() + pause < deadline => sleep(pause).await,
                Remedy::After(_) | Remedy::None => return Err(problem),
            }
        }
    }

    async fn remedy(&self, problem: &Problem, deadline: Instant, progress: &mut Progress) -> Result<Remedy, Problem> {
        match (problem.api_class(), &progress.key) {
            (Some(Class::Key), Some(used)) if !progress.key_reread => {
                progress.key_reread = true;
                let refreshed = timeout_at(deadline, self.credentials.refresh(used)).await.map_err(|_| Cause::DeadlinePassed)?;
                refreshed.map_err(Cause::Key)?;
                Ok(Remedy::Again)
            }
            (Some(Class::Clock), _) if !progress.clock_set => {
                let Some(offset) = problem.clock_offset else { return Ok(Remedy::None) };
                progress.clock_set = true;
                self.clock_offset.store(offset, Ordering::Relaxed);
                tracing::warn!(
                    offset_seconds = offset,
                    "the clock differs from the cloud API's; signing by the API's. Set the clock right"
                );
                Ok(Remedy::Again)
            }
            // Not from the budget: what the endpoint refuses for its limit waits for the quota again, which has just been cut.
            (Some(Class::Throttled), _) => Ok(Remedy::After(progress.backoff.pause())),
            _ if problem.is_transient() && self.budget.spend() => Ok(Remedy::After(progress.backoff.pause())),
            _ => Ok(Remedy::None),
        }
    }

    /// One attempt: circuit, quota, key, request, verdict.
    async fn attempt(
        &self,
        action: Action,
        body: &Bytes,
        asker: &Asker,
        deadline: Instant,
        progress: &mut Progress,
    ) -> Result<Reply, Problem> {
        let (permit, pass) = self.slot(action, asker, deadline, &mut progress.quota_wait).await?;
        let began = Instant::now();
        let timestamp = local_time().saturating_add(self.clock_offset.load(Ordering::Relaxed));
        let key = timeout_at(deadline, self.credentials.key(timestamp)).await.map_err(|_| Cause::DeadlinePassed)?.map_err(Cause::Key)?;
        progress.key = Some(key.clone());
        let limit = (Instant::now() + self.call_timeout).min(deadline);
        let http = if action == Action::GetInstanceAccess { &self.http_for_secrets } else { &self.http };
        let attempt = Attempt { http, endpoint: &self.endpoint, region: &self.region, action, body: body.clone(), key: &key, timestamp };
        let place = asker.place();
        place.moved(Instant::now().into_std());
        let late = if limit == deadline { Cause::DeadlinePassed } else { Cause::TimedOut };
        let result = timeout_at(limit, attempt.send(permit)).await.unwrap_or_else(|_| Err(late.into()));
        place.moved(Instant::now().into_std());
        progress.api_time = began.elapsed();
        self.judge(action, pass, &result);
        result
    }

    /// Waits for a slot of the quota, unless the circuit is open or opens meanwhile.
    async fn slot(
        &self,
        action: Action,
        asker: &Asker,
        deadline: Instant,
        waited: &mut Duration,
    ) -> Result<(Permit<'_>, Pass<'_>), Problem> {
        let mut openings = self.circuit.openings();
        self.circuit.check().map_err(Cause::Outage)?;
        let began = Instant::now();
        let permit = tokio::select! {
            biased;
            permit = timeout_at(deadline, self.quota(action).permit(&asker.operator, asker.place())) => Some(permit),
            _ = openings.changed() => None,
        };
        *waited += began.elapsed();
        if let Some(permit) = permit {
            let permit = permit.map_err(|_| Cause::QuotaDeadline)?.map_err(|_| Cause::QueueFull)?;
            return match self.circuit.admit() {
                Ok(pass) => Ok((permit, pass)),
                Err(outage) => {
                    permit.unused();
                    Err(Cause::Outage(outage).into())
                }
            };
        }
        self.circuit.check().map_err(Cause::Outage)?;
        Err(Cause::Outage(super::circuit::Outage::Unreachable).into())
    }

    /// What the outcome says of the endpoint: to the circuit, and to the quota.
    fn judge(&self, action: Action, pass: Pass<'_>, result: &Result<Reply, Problem>) {
        let Err(problem) = result else { return pass.succeeded() };
        match &problem.cause {
            Cause::Status(500..) | Cause::Transport(_) | Cause::TimedOut => pass.failed(),
            Cause::Api { class: Class::Gone, .. } if action == Action::GetInstanceAccess || !problem.is_unknown_action() => pass.gone(),
            Cause::Api { class: Class::Throttled, .. } | Cause::Status(429) => {
                self.quota(action).exceeded();
                pass.succeeded();
            }
            Cause::Api { .. } | Cause::Status(_) | Cause::TooLarge | Cause::Malformed(_) | Cause::Unfit(_) => pass.succeeded(),
            // The endpoint was not heard out.
            Cause::DeadlinePassed | Cause::QuotaDeadline | Cause::Key(_) | Cause::Sign(_) | Cause::Outage(_) | Cause::QueueFull => {}
        }
    }
}

impl Cloud for Client {
    fn locate<'a>(
        &'a self,
        instance: &'a InstanceId,
        candidates: &'a [FleetId],
        asker: &'a Asker,
    ) -> BoxFuture<'a, Result<Located, Failure>> {
        Box::pin(self.resolve(instance, candidates, asker))
    }

    fn lease<'a>(&'a self, target: &'a Target, asker: &'a Asker) -> BoxFuture<'a, Result<Lease, Failure>> {
        Box::pin(async move { self.instance_access(target, asker).await.map_err(Problem::into_failure) })
    }
}
