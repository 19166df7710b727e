use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// What kind of failure ended an operator's attempt. The texts are stable: scripts match on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Code {
    TargetRefused,
    TargetName,
    ApiThrottled,
    ApiUnavailable,
    ApiDenied,
    ApiOffline,
    InstanceUnreachable,
    InstanceHostkey,
    InstanceLogin,
    BrokerBusy,
    BrokerDraining,
    /// A running session's grant is over: its hours, its length, or a changed policy.
    SessionExpired,
    /// An administrator ended a running session.
    SessionEnded,
    /// A session that must be recorded cannot be.
    RecordingFailed,
}

impl Code {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TargetRefused => "target-refused",
            Self::TargetName => "target-name",
            Self::ApiThrottled => "api-throttled",
            Self::ApiUnavailable => "api-unavailable",
            Self::ApiDenied => "api-denied",
            Self::ApiOffline => "api-offline",
            Self::InstanceUnreachable => "instance-unreachable",
            Self::InstanceHostkey => "instance-hostkey",
            Self::InstanceLogin => "instance-login",
            Self::BrokerBusy => "broker-busy",
            Self::BrokerDraining => "broker-draining",
            Self::SessionExpired => "session-expired",
            Self::SessionEnded => "session-ended",
            Self::RecordingFailed => "recording-failed",
        }
    }
}

/// Six hexadecimal digits that tie what the operator reads to what the log and the audit say.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reference(u32);

impl Reference {
    /// Uses the low 24 bits of a random number.
    pub fn from_random(random: u32) -> Self {
        Self(random & 0x00ff_ffff)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why an operator did not get onto a target.
///
/// Three readers, three texts: the operator reads [`Failure::sentence`], which holds no address, API body or secret; the log gets the
/// chain ([`Failure::chain`]); the audit gets code and [`Failure::request_id`].
#[derive(Debug, Clone)]
pub struct Failure {
    pub code: Code,
    /// What the operator reads between the target and the code: lower case, no full stop.
    pub text: String,
    pub request_id: Option<String>,
    /// The cause, for the log alone.
    pub cause: Option<Arc<dyn Error + Send + Sync>>,
}

impl Failure {
    pub fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), request_id: None, cause: None }
    }

    /// Unknown and forbidden read the same, so this has one text.
    pub fn target_refused() -> Self {
        Self::new(Code::TargetRefused, "no such instance, or not yours to reach")
    }

    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.cause = Some(Arc::from(cause.into()));
        self
    }

    #[must_use]
    pub fn with_request_id(mut self, request_id: impl Into<String>) -> Self {
        self.request_id = Some(request_id.into());
        self
    }

    /// `ssh-broker: ins-gi2lxw: no such instance, or not yours to reach [target-refused, ref 7f3a9c]`
    pub fn sentence(&self, target: &str, reference: Reference) -> String {
        format!("ssh-broker: {target}: {} [{}, ref {reference}]", self.text, self.code.as_str())
    }

    /// The text with every cause behind it, for the log.
    pub fn chain(&self) -> String {
        match &self.cause {
            None => self.text.clone(),
            Some(cause) => format!("{}: {}", self.text, with_causes(cause.as_ref())),
        }
    }
}

/// The error's text with every cause behind it.
pub fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_is_the_documented_one_and_the_cause_stays_in_the_log() {
        let failure = Failure::target_refused().because("no grant matches");
        assert_eq!(
            failure.sentence("ins-gi2lxw", Reference::from_random(0xff7f_3a9c)),
            "ssh-broker: ins-gi2lxw: no such instance, or not yours to reach [target-refused, ref 7f3a9c]"
        );
        assert_eq!(failure.chain(), "no such instance, or not yours to reach: no grant matches");
    }
}
