//! For administrators alone: whoever calls these has made sure of it.

use std::time::Duration;

use serde::Serialize;
use ssh_key::HashAlg;

use super::answer::{Answer, Exit, Report};
use super::plain::plain;
use super::table::Table;
use super::{Asked, Reload};
use crate::access::{Code, Failure, InstanceId, Reference};
use crate::audit::{Audit, Event};
use crate::pins::Pins;
use crate::session::{Live, Running};

#[derive(Serialize)]
struct Session {
    #[serde(rename = "ref")]
    reference: String,
    operator: String,
    target: String,
    fleet: String,
    /// For raw TCP to another port than SSH.
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    login: String,
    source: String,
    key: String,
    seconds: u64,
}

impl Session {
    fn of(running: &Running) -> Self {
        let (subject, target) = (&running.subject, running.grant.target());
        let operator = running.grant.operator();
        Self {
            reference: subject.reference.map(|reference| reference.to_string()).unwrap_or_default(),
            operator: operator.name.to_string(),
            target: target.instance.to_string(),
            fleet: target.fleet.to_string(),
            port: running.port,
            login: subject.login.as_deref().unwrap_or_default().to_owned(),
            source: operator.source.to_string(),
            key: operator.key.to_string(),
            seconds: running.since.elapsed().as_secs(),
        }
    }
}

#[derive(Serialize)]
struct Sessions {
    sessions: Vec<Session>,
}

impl Report for Sessions {
    fn page(&self) -> String {
        if self.sessions.is_empty() {
            return "no session runs\n".to_owned();
        }
        let mut table = Table::new(&["REF", "OPERATOR", "TARGET", "FLEET", "LOGIN", "FROM", "FOR"]);
        for session in &self.sessions {
            let lasted = humantime::format_duration(Duration::from_secs(session.seconds)).to_string();
            let Session { reference, operator, target, fleet, port, login, source, .. } = session;
            let target = port.map_or_else(|| target.clone(), |port| format!("{target}:{port}"));
            table.row([reference.clone(), operator.clone(), target, fleet.clone(), plain(login), source.clone(), lasted]);
        }
        table.lines("")
    }
}

pub(super) fn sessions(live: &Live) -> Answer {
    Answer::of(&Sessions { sessions: live.list().iter().map(|running| Session::of(running)).collect() }, Exit::Done)
}

/// What was done, in a sentence.
#[derive(Serialize)]
struct Done {
    done: String,
}

impl Report for Done {
    fn page(&self) -> String {
        format!("{}\n", plain(&self.done))
    }
}

/// Two of some thousand sessions may share a reference by chance; then both are meant.
pub(super) fn kill(live: &Live, reference: Reference, asked: &Asked) -> Answer {
    let meant: Vec<_> = live.list().into_iter().filter(|running| running.subject.reference == Some(reference)).collect();
    if meant.is_empty() {
        return Answer::no(&format!("no session runs under {reference}: see `sessions`"));
    }
    let failure = Failure::new(Code::SessionEnded, format!("the administrator {} has ended this session", asked.operator.name));
    let mut ended = Vec::new();
    for running in meant {
        running.end(&failure);
        ended.push(format!("{} on {}", running.grant.operator().name, running.grant.target().instance));
    }
    Answer::of(&Done { done: format!("ended: {}", ended.join(", ")) }, Exit::Done)
}

pub(super) async fn reload(reload: &dyn Reload, asked: &Asked) -> Answer {
    match tokio::time::timeout_at(asked.deadline, reload.reload()).await {
        Ok(Ok(done)) => Answer::of(&Done { done }, Exit::Done),
        Ok(Err(refused)) => Answer::broken(&refused),
        Err(_) => Answer::broken("the reload takes too long: the log will say how it ended"),
    }
}

pub(super) async fn forget_host(pins: &Pins, audit: &Audit, instance: InstanceId, asked: &Asked) -> Answer {
    let forgetting = tokio::task::spawn_blocking({
        let (pins, instance) = (pins.clone(), instance.clone());
        move || pins.forget(&instance)
    });
    let forgotten = match forgetting.await {
        Ok(Ok(forgotten)) => forgotten,
        Ok(Err(error)) => return Answer::broken(&error.to_string()),
        Err(error) => return Answer::broken(&error.to_string()),
    };
    if forgotten.is_empty() {
        return Answer::no(&format!("no host key of {instance} is pinned"));
    }
    let fingerprints: Vec<String> = forgotten.iter().map(|key| key.fingerprint(HashAlg::Sha256).to_string()).collect();
    let mut subject = asked.subject.clone();
    subject.target = Some(instance.as_str().into());
    for fingerprint in &fingerprints {
        if let Err(error) = audit.record(&subject, Event::HostKeyForgotten { fingerprint: fingerprint.as_str().into() }).await {
            tracing::error!(%error, %instance, fingerprint, "a forgotten host key could not be written to the audit");
        }
    }
    Answer::of(&Done { done: format!("forgotten: {} of {instance}", fingerprints.join(", ")) }, Exit::Done)
}
