//! Answers are checked against what was asked before anything is made of them.

use std::net::IpAddr;
use std::time::Duration;

use super::attempt::Reply;
use super::problem::{Cause, Problem};
use crate::access::{FleetId, InstanceId, Lease, Target};
use crate::broker::Listed;

/// A login longer than this is none that any Unix has (`LOGIN_NAME_MAX` is 256).
const MAX_LOGIN: usize = 256;

/// The lease for exactly `target`.
pub(super) fn lease(reply: Reply, target: &Target, quota_wait: Duration, api_time: Duration) -> Result<Lease, Problem> {
    let Reply { answer, request_id } = reply;
    let unfit = |what| Problem { request_id: request_id.clone(), ..Cause::Unfit(what).into() };
    let access = answer.instance_access.ok_or_else(|| unfit("no InstanceAccess"))?;
    if access.fleet_id.as_deref() != Some(target.fleet.as_str()) {
        return Err(unfit("another FleetId than was asked for"));
    }
    if access.instance_id.as_deref() != Some(target.instance.as_str()) {
        return Err(unfit("another InstanceId than was asked for"));
    }
    let address: IpAddr = access.ip_address.and_then(|text| text.trim().parse().ok()).ok_or_else(|| unfit("IpAddress is no address"))?;
    let credentials = access.credentials.ok_or_else(|| unfit("no Credentials"))?;
    let login = credentials.user_name.unwrap_or_default();
    if login.is_empty() || login.len() > MAX_LOGIN || login.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(unfit("UserName is no login"));
    }
    let secret = credentials.secret.ok_or_else(|| unfit("no Secret"))?.0;
    if secret.expose().trim_ascii().is_empty() {
        return Err(unfit("Secret is empty"));
    }
    let operating_system = access
        .operating_system
        .map(|text| text.chars().filter(|c| !c.is_control()).take(128).collect::<String>())
        .filter(|text| !text.is_empty());
    Ok(Lease {
        target: target.clone(),
        login,
        secret,
        address,
        operating_system,
        request_id: request_id.clone().unwrap_or_default(),
        quota_wait,
        api_time,
    })
}

/// The fleets in which the answer has the instance, each once. What does not fit the question is passed over.
pub(super) fn fleets_of(reply: Reply, instance: &InstanceId, asked: Option<&FleetId>) -> Vec<FleetId> {
    let mut fleets: Vec<FleetId> = reply
        .answer
        .instances
        .unwrap_or_default()
        .into_iter()
        .flatten()
        .filter(|found| found.instance_id.as_deref() == Some(instance.as_str()))
        .filter_map(|found| FleetId::parse(&found.fleet_id?).ok())
        .filter(|fleet| asked.is_none_or(|asked| asked == fleet))
        .collect();
    fleets.sort();
    fleets.dedup();
    fleets
}

/// Characters kept of what the cloud says of an instance in a listing.
const MAX_NOTE: usize = 64;

/// The instances of one page, and how many entries it had: what has no ids, or those of another fleet than was asked for, is passed over.
/// More than `most` are not taken from any answer.
pub(super) fn listed(reply: Reply, asked: Option<&FleetId>, most: usize) -> (Vec<Listed>, usize) {
    let page = reply.answer.instances.unwrap_or_default();
    let on_page = page.len();
    let note = |text: Option<String>| text.unwrap_or_default().chars().take(MAX_NOTE).collect::<String>();
    let instances = page.into_iter().flatten().take(most).filter_map(|found| {
        let fleet = FleetId::parse(&found.fleet_id?).ok().filter(|fleet| asked.is_none_or(|asked| asked == fleet))?;
        let instance = InstanceId::parse(&found.instance_id?).ok()?;
        Some(Listed { target: Target { fleet, instance }, status: note(found.status), operating_system: note(found.operating_system) })
    });
    (instances.collect(), on_page)
}

/// The fleets that the account has.
pub(super) fn fleet_list(reply: Reply) -> Vec<FleetId> {
    let ids = reply.answer.fleet_ids.unwrap_or_default();
    ids.into_iter().flatten().filter_map(|id| FleetId::parse(&id).ok()).collect()
}
