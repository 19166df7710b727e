use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::answer;
use super::client::Client;
use super::errors::Class;
use super::problem::Problem;
use super::wire::{Action, Question};
use crate::access::{Code, Failure, FleetId, InstanceId, Target};
use crate::broker::{Asker, Located};

/// How this endpoint lets this API key find an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// `DescribeInstances` over all fleets.
    EveryFleet,
    /// The key is scoped to fleets: `DescribeInstances` in each.
    FleetByFleet,
    /// The site has `GetInstanceAccess` only.
    AccessOnly,
}

impl Way {
    /// The way that is left when `DescribeInstances` over all fleets met this.
    pub(super) fn instead(problem: &Problem) -> Option<Self> {
        if problem.is_unauthorized() {
            Some(Self::FleetByFleet)
        } else if problem.is_unknown_action() {
            Some(Self::AccessOnly)
        } else {
            None
        }
    }
}

/// The way that was found to work, for a while, so that a call that will be refused is not made for every login.
#[derive(Debug, Default)]
pub(super) struct Ways {
    known: Mutex<Option<(Way, Instant)>>,
    /// The fleets that `ListFleets` gave, for a while.
    listed: Mutex<Option<(Vec<FleetId>, Instant)>>,
    /// Held by the one who finds out.
    finding_out: tokio::sync::Mutex<()>,
}

impl Ways {
    const MEMORY: Duration = Duration::from_secs(600);
    /// How long somebody else finds out before one asks oneself.
    const TURN: Duration = Duration::from_secs(1);
    const LIST_MEMORY: Duration = Duration::from_secs(60);

    pub(super) fn known(&self) -> Option<Way> {
        let known = *self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.filter(|(_, learned)| learned.elapsed() < Self::MEMORY).map(|(way, _)| way)
    }

    pub(super) fn learn(&self, way: Way) {
        let news = self.known() != Some(way);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some((way, Instant::now()));
        if news {
            tracing::info!(?way, "how instances are found");
        }
    }
}

impl Client {
    /// Finds the fleet of an instance, the cheapest way that this endpoint offers.
    pub(super) async fn resolve(&self, instance: &InstanceId, candidates: &[FleetId], asker: &Asker) -> Result<Located, Failure> {
        let way = match self.find_everywhere(instance, asker).await.map_err(Problem::into_failure)? {
            Ok(fleets) => return located(instance, &fleets, candidates),
            Err(way) => way,
        };
        if way == Way::FleetByFleet {
            match self.find_by_fleet(instance, candidates, asker).await {
                Err(problem) if problem.is_unknown_action() => self.ways.learn(Way::AccessOnly),
                Err(problem) => return Err(problem.into_failure()),
                Ok(fleets) => return located(instance, &fleets, candidates),
            }
        }
        self.find_by_access(instance, candidates, asker).await
    }

    /// `DescribeInstances` over all fleets, or the way to take instead.
    async fn find_everywhere(&self, instance: &InstanceId, asker: &Asker) -> Result<Result<Vec<FleetId>, Way>, Problem> {
        let mut turn = None;
        if self.ways.known().is_none() {
            // Who has the turn may wait for an answer that never comes.
            turn = timeout(Ways::TURN, self.ways.finding_out.lock()).await.ok();
        }
        match self.ways.known() {
            Some(Way::EveryFleet) => drop(turn.take()),
            Some(way) => return Ok(Err(way)),
            None => {}
        }
        match self.describe(None, instance, asker).await {
            Ok(fleets) => {
                self.ways.learn(Way::EveryFleet);
                Ok(Ok(fleets))
            }
            Err(problem) => match Way::instead(&problem) {
                Some(way) => {
                    self.ways.learn(way);
                    Ok(Err(way))
                }
                None => Err(problem),
            },
        }
    }

    /// `DescribeInstances`; what is not found is in no fleet.
    async fn describe(&self, fleet: Option<&FleetId>, instance: &InstanceId, asker: &Asker) -> Result<Vec<FleetId>, Problem> {
        let question = Question { fleet: fleet.map(FleetId::as_str), instance: Some(instance.as_str()), ..Question::default() };
        match self.ask(Action::DescribeInstances, &question, asker).await {
            Ok(reply) => Ok(answer::fleets_of(reply, instance, fleet)),
            Err(problem) if problem.api_class() == Some(Class::NotFound) => Ok(Vec::new()),
            Err(problem) => Err(problem),
        }
    }

    /// Asks in each configured fleet, in each that the account has when none is configured; the likely ones first.
    async fn find_by_fleet(&self, instance: &InstanceId, candidates: &[FleetId], asker: &Asker) -> Result<Vec<FleetId>, Problem> {
        let mut fleets = if self.fleets.is_empty() { self.list_fleets(asker).await? } else { self.fleets.clone() };
        fleets.sort_by_key(|fleet| !candidates.contains(fleet));
        let mut unauthorized = None;
        let mut answered = false;
        for fleet in &fleets {
            match self.describe(Some(fleet), instance, asker).await {
                Ok(found) if found.is_empty() => answered = true,
                Ok(found) => return Ok(found),
                Err(problem) if problem.is_unauthorized() => {
                    tracing::warn!(%fleet, cause = %problem.cause, "the API key may not look into this fleet");
                    unauthorized = Some(problem);
                }
                Err(problem) => return Err(problem),
            }
        }
        match unauthorized {
            Some(problem) if !answered => Err(problem),
            _ => Ok(Vec::new()),
        }
    }

    pub(super) async fn list_fleets(&self, asker: &Asker) -> Result<Vec<FleetId>, Problem> {
        let listed = self.ways.listed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((fleets, _)) = listed.filter(|(_, at)| at.elapsed() < Ways::LIST_MEMORY) {
            return Ok(fleets);
        }
        let fleets = answer::fleet_list(self.ask(Action::ListFleets, &Question::default(), asker).await?);
        *self.ways.listed.lock().unwrap_or_else(PoisonError::into_inner) = Some((fleets.clone(), Instant::now()));
        Ok(fleets)
    }

    /// The one configured fleet without asking; of several, the candidate in which `GetInstanceAccess` has the instance, with the lease
    /// that this gave.
    async fn find_by_access(&self, instance: &InstanceId, candidates: &[FleetId], asker: &Asker) -> Result<Located, Failure> {
        if self.fleets.is_empty() {
            let text = format!("this broker cannot tell its fleet; name it: {instance}.fleet-…");
            return Err(Failure::new(Code::TargetName, text).because("the site has no DescribeInstances, and gse.fleets is empty"));
        }
        if let [fleet] = self.fleets.as_slice() {
            return Ok(Located { target: Target { fleet: fleet.clone(), instance: instance.clone() }, lease: None, for_all: true });
        }
        let mut unclear = None;
        for fleet in candidates {
            let target = Target { fleet: fleet.clone(), instance: instance.clone() };
            match self.instance_access(&target, asker).await {
                Ok(lease) => return Ok(Located { target, lease: Some(lease), for_all: true }),
                Err(problem) if problem.api_class() == Some(Class::NotFound) => {}
                // It may be there all the same, so this must not be remembered as "not found".
                Err(problem) if problem.is_unauthorized() || problem.api_class() == Some(Class::Refused) => unclear = Some(problem),
                Err(problem) => return Err(problem.into_failure()),
            }
        }
        Err(unclear.map_or_else(|| Failure::target_refused().because("no candidate fleet has it"), Problem::into_failure))
    }
}

/// Of several fleets, only those in which the asker may reach the instance count: that it is in another is nobody else's to learn.
fn located(instance: &InstanceId, fleets: &[FleetId], candidates: &[FleetId]) -> Result<Located, Failure> {
    let located =
        |fleet: &FleetId, for_all| Located { target: Target { fleet: fleet.clone(), instance: instance.clone() }, lease: None, for_all };
    let mut reachable = fleets.iter().filter(|fleet| candidates.contains(fleet));
    match (fleets, reachable.next(), reachable.next()) {
        ([], ..) => Err(Failure::target_refused().because("no fleet has it")),
        ([fleet], ..) => Ok(located(fleet, true)),
        (_, Some(fleet), None) => Ok(located(fleet, false)),
        (_, Some(_), Some(_)) => {
            let text = format!("more than one fleet has it; name the fleet: {instance}.fleet-…");
            Err(Failure::new(Code::TargetName, text))
        }
        (_, None, _) => {
            let cause = "more than one fleet has it, and the asker may reach it in none of gse.fleets; its name with the fleet would do";
            Err(Failure::target_refused().because(cause))
        }
    }
}
