use thiserror::Error;

use super::circuit::Outage;
use super::credentials::KeyError;
use super::errors::Class;
use super::sign::SignError;
use super::wire::Malformed;
use crate::access::{Code, Failure};

/// Why an attempt gave nothing to use. The texts are for the log: they hold no secret, but may hold what the API said.
#[derive(Debug, Error)]
pub(super) enum Cause {
    #[error("{code:?}: {message:?}")]
    Api { class: Class, name: &'static str, code: String, message: String },
    #[error("HTTP status {0}")]
    Status(u16),
    #[error("the request failed")]
    Transport(#[source] reqwest::Error),
    #[error("no answer in time")]
    TimedOut,
    #[error("the operator's time was up before the answer came")]
    DeadlinePassed,
    #[error("the operator's time was up while waiting for the API quota")]
    QuotaDeadline,
    #[error("the answer is larger than 64 KiB")]
    TooLarge,
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("the answer does not fit the question: {0}")]
    Unfit(&'static str),
    #[error("failed to get the API key")]
    Key(#[source] KeyError),
    #[error("failed to sign the request")]
    Sign(#[source] SignError),
    #[error("the circuit to the API is open ({0:?})")]
    Outage(Outage),
    #[error("the queue for the API quota is full")]
    QueueFull,
}

/// A [`Cause`] with what came along.
#[derive(Debug, Error)]
#[error("{cause}")]
pub(super) struct Problem {
    #[source]
    pub cause: Cause,
    pub request_id: Option<String>,
    /// The endpoint's clock, from the `Date` header, less ours: seconds.
    pub clock_offset: Option<i64>,
}

impl From<Cause> for Problem {
    fn from(cause: Cause) -> Self {
        Self { cause, request_id: None, clock_offset: None }
    }
}

impl Problem {
    /// What the API itself said, when it said something.
    pub(super) fn api_class(&self) -> Option<Class> {
        match &self.cause {
            Cause::Api { class, .. } => Some(*class),
            _ => None,
        }
    }

    /// The known name of the API's error.
    pub(super) fn api_name(&self) -> Option<&'static str> {
        match &self.cause {
            Cause::Api { name, .. } => Some(*name),
            _ => None,
        }
    }

    /// The key may not do this (here), as against a key that is not one.
    pub(super) fn is_unauthorized(&self) -> bool {
        matches!(self.api_name(), Some("UnauthorizedOperation" | "AuthFailure.UnauthorizedOperation"))
    }

    /// This site does not have the action; it may have others.
    pub(super) fn is_unknown_action(&self) -> bool {
        matches!(self.api_name(), Some("InvalidAction" | "ActionOffline"))
    }

    /// Whether the same request could succeed a little later.
    pub(super) fn is_transient(&self) -> bool {
        match &self.cause {
            Cause::Api { class, .. } => matches!(class, Class::Throttled | Class::Unavailable),
            Cause::Status(_) | Cause::Transport(_) | Cause::TimedOut | Cause::Malformed(_) => true,
            Cause::DeadlinePassed
            | Cause::QuotaDeadline
            | Cause::TooLarge
            | Cause::Unfit(_)
            | Cause::Key(_)
            | Cause::Sign(_)
            | Cause::Outage(_)
            | Cause::QueueFull => false,
        }
    }

    /// A short word for statistics.
    pub(super) fn label(&self) -> &'static str {
        match &self.cause {
            Cause::Api { class, .. } => match class {
                Class::Throttled => "throttled",
                Class::Unavailable => "unavailable",
                Class::Key => "key",
                Class::Clock => "clock",
                Class::NotFound => "not-found",
                Class::Refused => "refused",
                Class::Misconfigured => "misconfigured",
                Class::Gone => "gone",
            },
            Cause::Status(_) => "status",
            Cause::Transport(_) => "transport",
            Cause::TimedOut => "time-out",
            Cause::DeadlinePassed | Cause::QuotaDeadline => "deadline",
            Cause::TooLarge | Cause::Malformed(_) | Cause::Unfit(_) => "malformed",
            Cause::Key(_) | Cause::Sign(_) => "no-key",
            Cause::Outage(_) => "circuit-open",
            Cause::QueueFull => "queue-full",
        }
    }

    /// What the operator reads: no address, nothing that the API wrote but the RequestId.
    pub(super) fn into_failure(self) -> Failure {
        let unavailable = || Failure::new(Code::ApiUnavailable, "the cloud API is not available; try again shortly");
        let throttled = || Failure::new(Code::ApiThrottled, "the cloud API's request limit is used up; try again shortly");
        let gone =
            || Failure::new(Code::ApiOffline, "the cloud API no longer offers access to instances; tell this broker's administrator");
        let misconfigured = |what: &str| {
            let id = self.request_id.as_deref().map(|id| format!(" (RequestId {id})")).unwrap_or_default();
            Failure::new(Code::ApiDenied, format!("broker misconfigured: {what}{id}; tell its administrator"))
        };
        let failure = match &self.cause {
            Cause::Api { class, name, .. } => match class {
                Class::Throttled => throttled(),
                Class::Unavailable => unavailable(),
                Class::NotFound => Failure::target_refused(),
                Class::Refused => Failure::new(Code::ApiDenied, format!("the cloud API refused the request for this instance: {name}")),
                Class::Key => misconfigured("the cloud API does not take its API key"),
                Class::Clock => misconfigured("its clock differs too much from the cloud API's"),
                Class::Misconfigured => misconfigured("the cloud API refuses its API key or settings"),
                Class::Gone => gone(),
            },
            Cause::QuotaDeadline => throttled(),
            Cause::Status(_) | Cause::Transport(_) | Cause::TimedOut | Cause::DeadlinePassed => unavailable(),
            Cause::TooLarge | Cause::Malformed(_) | Cause::Unfit(_) => {
                Failure::new(Code::ApiUnavailable, "the cloud API gave an answer that cannot be used")
            }
            Cause::Key(error) if error.is_transient() => {
                Failure::new(Code::ApiUnavailable, "this broker cannot get its API key at the moment; try again shortly")
            }
            Cause::Key(_) | Cause::Sign(_) => misconfigured("it has no usable API key"),
            Cause::Outage(Outage::Unreachable) => unavailable(),
            Cause::Outage(Outage::Gone) => gone(),
            Cause::QueueFull => Failure::new(Code::BrokerBusy, "too many wait for the cloud API; try again shortly"),
        };
        let failure = match &self.request_id {
            Some(id) => failure.with_request_id(id.as_str()),
            None => failure,
        };
        failure.because(self.cause)
    }
}
