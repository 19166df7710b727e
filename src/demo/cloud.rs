use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use zeroize::Zeroizing;

use super::action::{self, Action, ApiError};
use super::fault::{Fault, Script};
use super::http::Request;
use super::inventory::Inventory;
use super::keys::request_id;
use super::ledger::Ledger;
use super::signature::{self, ApiKey};

/// How much of the API there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The China site, with a key that may do everything.
    #[default]
    AllActions,
    /// The China site, with a key for fleets: DescribeInstances without a FleetId is refused as UnauthorizedOperation.
    FleetScopedKey,
    /// The international site: every other action is InvalidAction.
    GetInstanceAccessAlone,
}

/// Everything the simulated endpoint knows, and how it answers.
pub(super) struct Cloud {
    region: String,
    requests_per_second: usize,
    state: Mutex<State>,
}

/// What may change while the endpoint runs.
pub(super) struct State {
    pub(super) key: ApiKey,
    pub(super) inventory: Inventory,
    pub(super) mode: Mode,
    pub(super) script: Script,
    pub(super) ledger: Ledger,
    /// Added to the true time: seconds the endpoint's clock is ahead.
    pub(super) clock_ahead: i64,
}

/// What goes out on the connection.
pub(super) enum Reply {
    Body(Zeroizing<Vec<u8>>),
    Half(Zeroizing<Vec<u8>>),
    Status(u16),
    Redirect(String),
    Huge(u64),
    Nothing,
    Reset,
}

impl Cloud {
    pub(super) fn new(region: String, requests_per_second: usize, state: State) -> Self {
        Self { region, requests_per_second, state: Mutex::new(state) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reply, how long it is to be delayed, and the time as the endpoint knows it.
    pub(super) fn reply(&self, request: &Request, arrival: Instant) -> io::Result<(Reply, Duration, String)> {
        let id = request_id()?;
        let mut state = self.state();
        let now = shifted(SystemTime::now(), state.clock_ahead);
        let date = http_date(now);
        let action = request.header("x-tc-action").and_then(Action::parse);
        let (mut fault, mut latency, mut within) = (None, Duration::ZERO, true);
        if let Some(action) = action {
            within = state.ledger.admit(action, arrival, self.requests_per_second);
            fault = state.script.next(action);
            latency = state.script.latency(action);
        }
        let reply = match fault {
            Some(Fault::Error(code)) => Reply::Body(action::error_body(&ApiError::new(code, "simulated"), &id)),
            Some(Fault::Status(status)) => Reply::Status(status),
            Some(Fault::Body(body)) => Reply::Body(Zeroizing::new(body.into_bytes())),
            Some(Fault::Hang) => Reply::Nothing,
            Some(Fault::Reset) => Reply::Reset,
            Some(Fault::HugeBody(bytes)) => Reply::Huge(bytes),
            Some(Fault::Redirect(url)) => Reply::Redirect(url),
            Some(Fault::HalfBody) => Reply::Half(self.body(&state, request, now, within, &id, false)),
            Some(Fault::WrongIds) => Reply::Body(self.body(&state, request, now, within, &id, true)),
            None => Reply::Body(self.body(&state, request, now, within, &id, false)),
        };
        Ok((reply, latency, date))
    }

    fn body(&self, state: &State, request: &Request, now: SystemTime, within: bool, id: &str, wrong_ids: bool) -> action::Body {
        self.checked(state, request, now, within)
            .and_then(|action| action::answer(action, &request.body, &state.inventory, state.mode, id, wrong_ids))
            .unwrap_or_else(|error| action::error_body(&error, id))
    }

    /// Everything before the action itself: protocol, headers, signature, quota.
    fn checked(&self, state: &State, request: &Request, now: SystemTime, within: bool) -> Result<Action, ApiError> {
        if request.method != "POST" || request.target != "/" {
            return Err(ApiError::new("UnsupportedProtocol", "only POST / is supported"));
        }
        if request.header("content-type") != Some("application/json") {
            return Err(ApiError::new("UnsupportedProtocol", "the Content-Type must be application/json"));
        }
        let Some(name) = request.header("x-tc-action") else {
            return Err(ApiError::new("MissingParameter", "the header X-TC-Action is missing"));
        };
        match request.header("x-tc-version") {
            Some("2019-11-12") => {}
            Some(_) => return Err(ApiError::new("NoSuchVersion", "the version of gse is 2019-11-12")),
            None => return Err(ApiError::new("MissingParameter", "the header X-TC-Version is missing")),
        }
        match request.header("x-tc-region") {
            Some(region) if region == self.region => {}
            Some(_) => return Err(ApiError::new("UnsupportedRegion", format!("the region is {}", self.region))),
            None => return Err(ApiError::new("MissingParameter", "the header X-TC-Region is missing")),
        }
        signature::verify(request, &state.key, now)?;
        let action =
            Action::parse(name).filter(|action| state.mode != Mode::GetInstanceAccessAlone || *action == Action::GetInstanceAccess);
        let action = action.ok_or_else(|| ApiError::new("InvalidAction", "the action is not known"))?;
        if !within {
            return Err(ApiError::new("RequestLimitExceeded", format!("at most {} requests a second", self.requests_per_second)));
        }
        Ok(action)
    }
}

fn shifted(time: SystemTime, seconds: i64) -> SystemTime {
    let by = Duration::from_secs(seconds.unsigned_abs());
    let moved = if seconds < 0 { time.checked_sub(by) } else { time.checked_add(by) };
    moved.unwrap_or(time)
}

/// RFC 9110, 5.6.7
fn http_date(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|time| time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()).unwrap_or_default()
}
