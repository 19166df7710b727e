//! What an operator says to the broker itself, as `ssh broker ls`: words → command → answer, for people or as JSON.
//!
//! **Invariants**: nobody reads of an instance that policy does not grant them, nor whether it exists, unless they are an administrator;
//! no byte that a terminal would obey comes from a peer or the cloud; every command is in the audit with its exit status, and ends in time.

mod admin;
mod answer;
mod doctor;
#[cfg(any(fuzzing, test))]
pub(crate) mod fuzzing;
mod greeting;
mod help;
mod list;
mod paste;
mod plain;
mod table;
mod whoami;
mod why;
mod words;

#[cfg(test)]
mod tests;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::access::{Failure, FleetAliases, Operator, Policy, Reference};
use crate::audit::{Audit, Event, Subject, Text};
use crate::broker::{Asker, BoxFuture, Broker, Catalogue, Upstream};
use crate::door::{self, CommandLine, Said};
use crate::keys::PublicKeys;
use crate::pins::Pins;
use crate::session::{Live, new_reference};
use answer::Answer;
use words::{Command, Spoken};

/// How commands exit, for manuals.
pub const EXIT_STATUS: &str = "They exit with 0 when done; 1 when the answer is no (not granted, nothing found, the instance cannot be \
                               reached); 2 for other words or wrong arguments; 3 for what only administrators may; 4 when the answer \
                               could not be had (the cloud API, a limit).";

/// Every command: how it is written, what it does, and whether it is for administrators alone.
pub fn reference() -> impl Iterator<Item = (String, &'static str, bool)> {
    let usage = |entry: &words::Entry| format!("{} {}", entry.word, entry.arguments).trim_end().to_owned();
    words::ENTRIES.iter().map(move |entry| (usage(entry), entry.does, entry.for_administrators))
}

/// Makes the broker read its configuration anew.
pub trait Reload: Send + Sync + 'static {
    /// What changed, or why everything stays as it was: a sentence for the administrator who asked.
    fn reload(&self) -> BoxFuture<'static, Result<String, String>>;
}

/// For a broker that reads its configuration at its start alone.
pub struct NoReload;

impl Reload for NoReload {
    fn reload(&self) -> BoxFuture<'static, Result<String, String>> {
        Box::pin(async { Err("this broker reads its configuration only when it starts: restart it".to_owned()) })
    }
}

/// What the commands need of the rest of the broker.
pub struct Parts<U> {
    pub broker: Arc<Broker<U>>,
    pub catalogue: Arc<dyn Catalogue>,
    pub live: Arc<Live>,
    pub pins: Pins,
    pub keys: PublicKeys,
    pub reload: Arc<dyn Reload>,
    pub audit: Audit,
    /// For each command.
    pub deadline: Duration,
}

/// Answers commands.
pub struct Console<U>(Arc<Parts<U>>);

/// One command's circumstances.
struct Asked {
    operator: Operator,
    subject: Subject,
    reference: Reference,
    aliases: FleetAliases,
    reached: std::net::SocketAddr,
    policy: Arc<Policy>,
    administrator: bool,
    deadline: Instant,
}

impl Asked {
    fn asker(&self) -> Asker {
        Asker::new(self.operator.name.clone(), self.deadline.into_std())
    }

    /// The outcome in time, or why there is none.
    async fn in_time<T>(&self, asker: &Asker, work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        tokio::time::timeout_at(self.deadline, work).await.unwrap_or_else(|_| Err(asker.out_of_time()))
    }

    /// The log has the chain under the reference that the operator reads.
    fn failed(&self, about: &str, failure: &Failure) -> Answer {
        tracing::info!(command = %self.reference, operator = %self.operator.name, code = failure.code.as_str(), reason = failure.chain(), "command failed");
        Answer::failed(about, failure, self.reference)
    }
}

impl<U: Upstream> Console<U> {
    pub fn new(parts: Parts<U>) -> Self {
        Self(Arc::new(parts))
    }
}

impl<U: Upstream> door::Commands for Console<U> {
    fn run(&self, line: CommandLine) -> BoxFuture<'static, Said> {
        let parts = self.0.clone();
        Box::pin(async move { parts.answer(line).await })
    }
}

impl<U: Upstream> Parts<U> {
    async fn answer(&self, line: CommandLine) -> Said {
        let CommandLine { operator, words, reached, aliases } = line;
        let reference = new_reference();
        let subject = Subject { reference: Some(reference), ..Subject::operator(&operator) };
        let policy = self.broker.policy();
        let administrator = policy.is_administrator(&operator.name);
        let deadline = Instant::now() + self.deadline;
        let asked = Asked { operator, subject, reference, aliases, reached, policy, administrator, deadline };
        let Spoken { command, json } = words::read(&words, &asked.aliases);
        let answer = match command {
            Ok(command) if command.is_for_administrators() && !administrator => Answer::forbidden(command.word()),
            Ok(command) => self.perform(command, &asked).await,
            Err(usage) => Answer::usage(&usage, administrator),
        };
        let event = Event::CommandRun { words: Text::new(&words), exit_status: answer.exit.status() };
        if let Err(error) = self.audit.record(&asked.subject, event).await {
            tracing::error!(%error, command = %reference, "a command could not be written to the audit");
            return Answer::failed("", &error.into(), reference).said(json);
        }
        answer.said(json)
    }

    async fn perform(&self, command: Command, asked: &Asked) -> Answer {
        match command {
            Command::Greeting => greeting::greeting(asked),
            Command::Help => help::help(asked.administrator),
            Command::List(pattern) => list::list(&*self.catalogue, pattern, asked).await,
            Command::WhoAmI => whoami::whoami(asked),
            Command::Why(name) => why::why(&self.broker, &name, asked).await,
            Command::Doctor(name) => doctor::doctor(&self.broker, &self.audit, &name, asked).await,
            Command::SshConfig { host, port } => paste::ssh_config(&self.keys, host, port, asked),
            Command::Sessions => admin::sessions(&self.live),
            Command::Kill(reference) => admin::kill(&self.live, reference, asked),
            Command::Reload => admin::reload(&*self.reload, asked).await,
            Command::ForgetHost(instance) => admin::forget_host(&self.pins, &self.audit, instance, asked).await,
        }
    }
}
