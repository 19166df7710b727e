use std::time::SystemTime;

use serde::Serialize;

use super::Asked;
use super::answer::{Answer, Exit, Report, exit_of};
use super::plain::plain;
use super::table::Table;
use super::whoami::restrictions;
use crate::access::{Code, Denied, Failure, Grant, TargetName};
use crate::broker::{Broker, NotOpened, Upstream};

#[derive(Serialize)]
struct Step {
    step: &'static str,
    says: String,
}

/// How a decision came about.
#[derive(Serialize)]
struct Why {
    target: String,
    allowed: bool,
    steps: Vec<Step>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fleet: Option<String>,
    allow: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(rename = "ref")]
    reference: String,
}

impl Report for Why {
    fn page(&self) -> String {
        let mut table = Table::bare();
        for Step { step, says } in &self.steps {
            table.row([(*step).to_owned(), plain(says)]);
        }
        table.lines("")
    }
}

/// The decision that a session would meet, and nothing after it: nothing is leased or dialled.
///
/// **Invariant**: but for an administrator, what is said depends on the operator's own grants and key alone, and on instances that these
/// grant: an unknown instance and a forbidden one give the same steps.
pub(super) async fn why<U: Upstream>(broker: &Broker<U>, name: &TargetName, asked: &Asked) -> Answer {
    let mut why = Why {
        target: name.to_string(),
        allowed: false,
        steps: Vec::new(),
        fleet: None,
        allow: Vec::new(),
        code: None,
        reference: asked.reference.to_string(),
    };
    why.say("name", what_is_named(name));
    why.say("grants", what_counts(name, asked));
    let asker = asked.asker();
    let decided = asked.in_time(&asker, async { Ok(broker.grant(&asked.operator, name, &asker).await) }).await;
    let decided = decided.unwrap_or_else(|failure| Err(NotOpened::failed(failure, None)));
    let exit = match decided {
        Ok(grant) => why.granted(&grant, name, asked),
        Err(refused) => why.refused(&refused, asked),
    };
    Answer::of(&why, exit)
}

fn what_is_named(name: &TargetName) -> String {
    match &name.fleet {
        Some(fleet) => format!("{} in {fleet}", name.instance),
        None => format!("{}, in whatever fleet it is", name.instance),
    }
}

/// The operator's grants for such a name: those that count now, and of the others why they do not.
fn what_counts(name: &TargetName, asked: &Asked) -> String {
    let now = SystemTime::now();
    let (mut counting, mut others) = (Vec::new(), Vec::new());
    for rule in asked.policy.grants_of(&asked.operator.name).filter(|rule| rule.could_match(name)) {
        let targets = rule.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        match rule.counts(asked.operator.source.ip(), now) {
            Ok(()) => counting.push(targets),
            Err(Denied::OtherSource) => others.push(format!("{targets} (for other addresses)")),
            Err(denied) => others.push(format!("{targets} ({denied})")),
        }
    }
    let counts = match (counting.len(), others.is_empty()) {
        (0, true) => return "none of yours is for such a name, in any fleet: the cloud API is not asked".to_owned(),
        (0, false) => "none of yours that are for such a name counts now: the cloud API is not asked".to_owned(),
        (number, _) => format!("{number} of yours could match: {}", counting.join(", ")),
    };
    if others.is_empty() { counts } else { format!("{counts}; not now: {}", others.join(", ")) }
}

impl Why {
    fn say(&mut self, step: &'static str, says: String) {
        self.steps.push(Step { step, says });
    }

    fn granted(&mut self, grant: &Grant, name: &TargetName, asked: &Asked) -> Exit {
        let target = grant.target();
        self.allowed = true;
        self.fleet = Some(target.fleet.to_string());
        self.allow = grant.capabilities().names();
        self.say(
            "fleet",
            match name.fleet.is_some() {
                true => format!("{}, as you named it; whether it has the instance is not asked", target.fleet),
                false => format!("{}, says the cloud API", target.fleet),
            },
        );
        let now = SystemTime::now();
        let matching: Vec<String> = asked
            .policy
            .grants_of(&asked.operator.name)
            .filter(|rule| rule.counts(asked.operator.source.ip(), now).is_ok())
            .flat_map(|rule| &rule.targets)
            .filter(|pattern| pattern.takes(target))
            .map(ToString::to_string)
            .collect();
        self.say("matches", matching.join(" "));
        let taken = restrictions(asked.operator.restrictions);
        if !taken.is_empty() {
            self.say("your key", format!("takes away: {}", taken.join(" ")));
        }
        self.say("answer", format!("yes: {}", self.allow.join(" ")));
        Exit::Done
    }

    fn refused(&mut self, refused: &NotOpened, asked: &Asked) -> Exit {
        let failure = &refused.failure;
        match (refused.denied, &refused.target) {
            // Before the cloud API was asked, so it says nothing of what is there.
            (Some(denied), None) => self.say("policy", denied.to_string()),
            _ if asked.administrator => self.tell_administrator(refused),
            _ => {}
        }
        self.code = Some(failure.code.as_str());
        self.say("answer", format!("no: {} [{}, ref {}]", failure.text, failure.code.as_str(), asked.reference));
        exit_of(failure)
    }

    /// What is behind the one sentence for the unknown and the forbidden.
    fn tell_administrator(&mut self, refused: &NotOpened) {
        match (refused.denied, &refused.target) {
            (Some(denied), Some(target)) => self.say("policy", format!("it is in {}: {denied}", target.fleet)),
            (None, _) if refused.failure.code == Code::TargetRefused => self.say("fleet", behind(&refused.failure)),
            _ => {}
        }
    }
}

fn behind(failure: &Failure) -> String {
    failure.cause.as_ref().map_or_else(|| failure.text.clone(), ToString::to_string)
}
