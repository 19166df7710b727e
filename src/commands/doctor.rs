use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::Asked;
use super::answer::{Answer, Exit, Report, exit_of};
use super::plain::plain;
use super::table::Table;
use crate::access::{Code, Failure, Lease, Target, TargetName};
use crate::audit::{Audit, Event, Subject, Text};
use crate::broker::{BoxFuture, Broker, NotOpened, Opened, Step, Upstream, Witness, ms};

/// One phase of the way, with its time or without when it is where the way ended.
#[derive(Serialize)]
struct Phase {
    phase: &'static str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    ms: Option<f64>,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
}

#[derive(Serialize)]
struct Doctor {
    target: String,
    ok: bool,
    phases: Vec<Phase>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(rename = "ref")]
    reference: String,
}

impl Report for Doctor {
    fn page(&self) -> String {
        let mut table = Table::bare();
        for Phase { phase, ok, ms, note } in &self.phases {
            let ms = ms.map_or_else(String::new, |ms| format!("{ms:>9.1} ms"));
            let state = if *ok { "ok" } else { "failed" };
            table.row([(*phase).to_owned(), state.to_owned(), ms, plain(note)]);
        }
        let mut page = table.lines("");
        match (&self.error, self.code) {
            (Some(error), Some(code)) => {
                page.push_str(&format!("{}: {} [{code}, ref {}]\n", plain(&self.target), plain(error), self.reference));
            }
            _ => page.push_str(&format!("{}: a session would open\n", plain(&self.target))),
        }
        page
    }
}

/// Everything that a session does before its first byte, and then no session: the connection is closed.
pub(super) async fn doctor<U: Upstream>(broker: &Broker<U>, audit: &Audit, name: &TargetName, asked: &Asked) -> Answer {
    let asker = asked.asker();
    let probe = Probe {
        audit,
        typed: Text::new(name.to_string().as_bytes()),
        subject: Mutex::new(asked.subject.clone()),
        learned: Mutex::default(),
    };
    let opened = asked.in_time(&asker, async { Ok(broker.open(&asked.operator, name, &asker, &probe).await) }).await;
    let opened = match opened {
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(refused)) => {
            probe.refused(&refused);
            Err(refused.failure)
        }
        Err(failure) => Err(failure),
    };
    let Learned { steps, notes, events } = probe.learned.into_inner().unwrap_or_else(PoisonError::into_inner);
    for (subject, event) in events {
        if let Err(error) = audit.record(&subject, event).await {
            tracing::error!(%error, "what a doctor learned could not be written to the audit");
            return Answer::broken("its audit cannot be written");
        }
    }
    let (report, exit) = judge(name, opened, &steps, notes, asked);
    Answer::of(&report, exit)
}

fn judge<L>(
    name: &TargetName,
    opened: Result<Opened<L>, Failure>,
    steps: &[(Step, Duration)],
    notes: Vec<(Step, String)>,
    asked: &Asked,
) -> (Doctor, Exit) {
    let note_of = |step: Step| notes.iter().filter(|(at, _)| *at == step).map(|(_, note)| note.as_str()).collect::<Vec<_>>().join("; ");
    let passed = |&(step, took): &(Step, Duration)| Phase { phase: word(step), ok: true, ms: Some(ms(took)), note: note_of(step) };
    let mut report = Doctor {
        target: name.to_string(),
        ok: opened.is_ok(),
        phases: steps.iter().map(passed).collect(),
        fleet: None,
        code: None,
        error: None,
        reference: asked.reference.to_string(),
    };
    let exit = match opened {
        Ok(opened) => {
            report.fleet = Some(opened.grant.target().fleet.to_string());
            Exit::Done
        }
        Err(failure) => {
            tracing::info!(command = %asked.reference, operator = %asked.operator.name, code = failure.code.as_str(), reason = failure.chain(), "doctor failed");
            // No time: how long a refusal took could tell an unknown instance from a forbidden one.
            let step = failed_at(failure.code, steps);
            report.phases.push(Phase {
                phase: step.map_or("broker", word),
                ok: false,
                ms: None,
                note: step.map_or_else(String::new, note_of),
            });
            report.code = Some(failure.code.as_str());
            report.error = Some(failure.text.clone());
            exit_of(&failure)
        }
    };
    (report, exit)
}

/// The step that a failure belongs to: told by its code, and where two share one, by the steps that were passed.
fn failed_at(code: Code, passed: &[(Step, Duration)]) -> Option<Step> {
    let last = passed.last().map(|(step, _)| *step);
    match code {
        Code::TargetName => Some(Step::Resolve),
        Code::TargetRefused | Code::ApiUnavailable | Code::ApiDenied | Code::ApiOffline => match last {
            None => Some(Step::Resolve),
            // The time was up on the way to the instance.
            Some(Step::Api) if code == Code::ApiUnavailable => Some(Step::Connect),
            Some(Step::Connect) => Some(Step::Kex),
            Some(Step::Kex | Step::HostKey) => Some(Step::Auth),
            Some(_) => Some(Step::Api),
        },
        Code::ApiThrottled => Some(if last.is_none() { Step::Resolve } else { Step::Quota }),
        Code::InstanceUnreachable => Some(if last >= Some(Step::Connect) { Step::Kex } else { Step::Connect }),
        Code::InstanceHostkey => Some(Step::HostKey),
        Code::InstanceLogin => Some(Step::Auth),
        _ => None,
    }
}

fn word(step: Step) -> &'static str {
    match step {
        Step::Resolve => "resolve",
        Step::Quota => "quota",
        Step::Api => "api",
        Step::Connect => "connect",
        Step::Kex => "kex",
        Step::HostKey => "host key",
        Step::Auth => "auth",
    }
}

/// Collects what the way teaches.
struct Probe<'a> {
    audit: &'a Audit,
    typed: Text,
    subject: Mutex<Subject>,
    learned: Mutex<Learned>,
}

#[derive(Default)]
struct Learned {
    steps: Vec<(Step, Duration)>,
    notes: Vec<(Step, String)>,
    events: Vec<(Subject, Event)>,
}

impl Probe<'_> {
    fn learn(&self, learn: impl FnOnce(&mut Learned)) {
        learn(&mut self.learned.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// A denied way is in the audit as a denied session is.
    fn refused(&self, NotOpened { target, denied, .. }: &NotOpened) {
        let Some(denied) = denied else { return };
        let event = Event::TargetDenied { typed: self.typed.clone(), reason: denied.to_string().as_str().into() };
        self.event(target.as_ref(), event);
    }

    fn event(&self, target: Option<&Target>, event: Event) {
        let mut subject = self.subject.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(target) = target {
            subject.set_target(target);
        }
        self.learn(|learned| learned.events.push((subject, event)));
    }
}

impl Witness for Probe<'_> {
    fn started<'a>(&'a self, _name: &'a TargetName) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async {
            let subject = self.subject.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let event = Event::DoctorStarted { typed: self.typed.clone() };
            Ok(self.audit.record_durably(&subject, event, Audit::PATIENCE).await?)
        })
    }

    fn passed(&self, step: Step, took: Duration) {
        self.learn(|learned| learned.steps.push((step, took)));
    }

    fn leased(&self, lease: &Lease, cached: bool) {
        self.subject.lock().unwrap_or_else(PoisonError::into_inner).set_lease(lease);
        if cached {
            return self.learn(|learned| learned.notes.push((Step::Api, "remembered".to_owned())));
        }
        self.event(Some(&lease.target), Event::lease_fetched(lease));
    }

    fn host_key_pinned(&self, target: &Target, fingerprint: &str) {
        self.event(Some(target), Event::HostKeyPinned { fingerprint: fingerprint.into() });
        self.learn(|learned| learned.notes.push((Step::HostKey, format!("{fingerprint} is pinned now"))));
    }

    fn host_key_mismatch(&self, target: &Target, pinned: &str, offered: &str) {
        self.event(Some(target), Event::HostKeyMismatch { pinned: pinned.into(), offered: offered.into() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_put_where_the_way_ended() {
        let until = |step: Option<Step>| -> Vec<(Step, Duration)> {
            use Step::*;
            [Resolve, Quota, Api, Connect, Kex, HostKey, Auth]
                .into_iter()
                .filter(|at| Some(*at) <= step)
                .map(|at| (at, Duration::ZERO))
                .collect()
        };
        for (code, passed, expected) in [
            (Code::TargetRefused, None, Some(Step::Resolve)),
            (Code::TargetRefused, Some(Step::Resolve), Some(Step::Api)),
            (Code::ApiThrottled, None, Some(Step::Resolve)),
            (Code::ApiThrottled, Some(Step::Resolve), Some(Step::Quota)),
            (Code::ApiUnavailable, Some(Step::Resolve), Some(Step::Api)),
            (Code::ApiUnavailable, Some(Step::Api), Some(Step::Connect)),
            (Code::InstanceUnreachable, Some(Step::Api), Some(Step::Connect)),
            (Code::InstanceUnreachable, Some(Step::Connect), Some(Step::Kex)),
            (Code::InstanceHostkey, Some(Step::Kex), Some(Step::HostKey)),
            (Code::InstanceLogin, Some(Step::HostKey), Some(Step::Auth)),
            (Code::BrokerBusy, Some(Step::Resolve), None),
        ] {
            assert_eq!(failed_at(code, &until(passed)), expected, "{code:?} after {passed:?}");
        }
    }
}
