//! Session channels of the outer connection: an operator's words to the broker itself, as `ssh broker ls`.

use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncRead, AsyncWrite};

use super::closing::DRAINING;
use super::door::Shared;
use super::tally::{Tally, TallyPermit};
use super::wire::{ChannelStream, Wire};
use crate::access::{Code, FleetAliases, Operator, OperatorName};
use crate::audit::{Audit, Event, Subject, Text};
use crate::broker::BoxFuture;

/// What an operator says to the broker itself.
pub struct CommandLine {
    pub operator: Operator,
    /// As it came: at most [`CommandLine::MAX_LEN`] bytes and one more, so that what is too long can be told.
    pub words: Vec<u8>,
    /// The broker's address that the operator's client connected to.
    pub reached: SocketAddr,
    /// Of the names that the operator may type for a target.
    pub aliases: FleetAliases,
}

impl CommandLine {
    pub const MAX_LEN: usize = 4096;
}

/// What the operator reads, in lines that end with `\n`, and the exit status.
#[derive(Debug, Default)]
pub struct Said {
    pub out: String,
    pub err: String,
    pub exit: u32,
}

/// What answers. It bounds its own time and the length of what it says.
pub trait Commands: Send + Sync + 'static {
    fn run(&self, line: CommandLine) -> BoxFuture<'static, Said>;
}

/// Session channels open at once on one connection; OpenSSH's own `MaxSessions` is 10.
const PER_CONNECTION: usize = 10;
/// Commands of one operator at once.
const PER_OPERATOR: usize = 16;
/// For the operator's client to take the answer.
const TAKING: Duration = Duration::from_secs(60);
/// How a command that was refused for want of room exits; as for every answer that could not be had.
const FAILED: u32 = 4;

/// The session channels of one connection that have not said yet what they are for.
pub(super) struct SessionChannels<S: AsyncRead + AsyncWrite + Unpin> {
    wire: Arc<Wire<S>>,
    reached: SocketAddr,
    waiting: HashMap<u32, Waiting<S>>,
    open: Arc<Tally<()>>,
    /// Those of them whose words are being answered: the connection is not idle.
    running: Arc<Tally<()>>,
}

struct Waiting<S: AsyncRead + AsyncWrite + Unpin> {
    channel: ChannelStream<S>,
    pty: bool,
    permit: TallyPermit<()>,
}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> SessionChannels<S> {
    pub(super) fn new(wire: Arc<Wire<S>>, reached: SocketAddr, running: Arc<Tally<()>>) -> Self {
        Self { wire, reached, waiting: HashMap::new(), open: Tally::new(), running }
    }

    /// Whether there is room for one more.
    pub(super) fn open(&mut self, channel: u32) -> bool {
        let Some(permit) = self.open.take((), PER_CONNECTION) else { return false };
        let stream = ChannelStream::new(self.wire.clone(), channel);
        self.waiting.insert(channel, Waiting { channel: stream, pty: false, permit });
        true
    }

    pub(super) fn close(&mut self, channel: u32) {
        self.waiting.remove(&channel);
    }

    /// A terminal changes line ends, nothing else. Whether the operator's key allows one.
    pub(super) fn pty(&mut self, channel: u32, operator: Option<&Operator>) -> bool {
        let Some(waiting) = self.waiting.get_mut(&channel) else { return false };
        waiting.pty = operator.is_some_and(|operator| !operator.restrictions.no_pty);
        waiting.pty
    }

    /// Runs the words of an `exec` (none for `shell`), once a channel (RFC 4254, 6.5), and answers the request.
    pub(super) fn run(&mut self, channel: u32, words: &[u8], operator: Option<Operator>, shared: &Arc<Shared>, replies: bool) {
        let waiting = self.waiting.remove(&channel);
        if replies {
            self.wire.answer(channel, operator.is_some() && waiting.is_some());
        }
        let (Some(operator), Some(waiting)) = (operator, waiting) else { return };
        let kept = words.get(..=CommandLine::MAX_LEN).unwrap_or(words).to_vec();
        let name = operator.name.clone();
        let line = CommandLine { operator, words: kept, reached: self.reached, aliases: shared.rules().aliases.clone() };
        let (shared, running) = (shared.clone(), self.running.take((), PER_CONNECTION));
        shared.clone().tracker.spawn(async move {
            let Waiting { channel, pty, permit } = waiting;
            let said = said(&shared, name, line).await;
            let answered = async {
                let lines = |text: String| if pty { text.replace('\n', "\r\n") } else { text };
                say(&channel, None, lines(said.out).as_bytes()).await?;
                // A terminal has one stream.
                say(&channel, (!pty).then_some(STDERR), lines(said.err).as_bytes()).await
            };
            if matches!(tokio::time::timeout(TAKING, answered).await, Ok(Ok(()))) {
                channel.end_data();
                channel.request("exit-status", &said.exit.to_be_bytes());
            } else {
                tracing::debug!("an operator's client did not take the answer of a command");
            }
            drop((channel, permit, running));
        });
    }
}

/// RFC 4254, 5.2
const STDERR: u32 = 1;

/// What the words get; when there is no room for them, the audit has that too.
async fn said(shared: &Shared, operator: OperatorName, line: CommandLine) -> Said {
    let busy = || format!("you have {PER_OPERATOR} commands running already, as many as you may [broker-busy]");
    let refusal = match (shared.is_draining(), shared.commands_by_operator.take(operator, PER_OPERATOR)) {
        (false, Some(_permit)) => return run_alone(&*shared.commands, &shared.audit, line).await,
        (true, _) => format!("{DRAINING} [{}]", Code::BrokerDraining.as_str()),
        (false, None) => busy(),
    };
    let event = Event::CommandRun { words: Text::new(&line.words), exit_status: FAILED };
    shared.audit.tell(&Subject::operator(&line.operator), event, "a refused command").await;
    failed(&refusal)
}

/// A panic ends this command alone, and is told.
async fn run_alone(commands: &dyn Commands, audit: &Audit, line: CommandLine) -> Said {
    let (subject, words) = (Subject::operator(&line.operator), Text::new(&line.words));
    let answered = AssertUnwindSafe(async { commands.run(line).await }).catch_unwind().await;
    match answered {
        Ok(said) => said,
        Err(_panic) => {
            tracing::error!(operator = subject.operator.as_deref(), ?words, "a command ended in a panic");
            audit.tell(&subject, Event::CommandCrashed { words }, "the crash of a command").await;
            failed("something in the broker failed over this command; its log has more [broker-busy]")
        }
    }
}

fn failed(sentence: &str) -> Said {
    Said { err: format!("ssh-broker: {sentence}\n"), exit: FAILED, ..Said::default() }
}

async fn say<S: AsyncRead + AsyncWrite + Unpin>(channel: &ChannelStream<S>, extended: Option<u32>, mut text: &[u8]) -> io::Result<()> {
    while !text.is_empty() {
        let n = poll_fn(|cx| channel.poll_say(cx, extended, text)).await?;
        text = text.get(n..).unwrap_or_default();
        channel.wire().flush();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::samples;

    struct Panics;

    impl Commands for Panics {
        fn run(&self, line: CommandLine) -> BoxFuture<'static, Said> {
            Box::pin(async move {
                tokio::task::yield_now().await;
                panic!("hunter2 {:?}", line.words)
            })
        }
    }

    #[tokio::test]
    async fn a_panic_ends_its_command_alone_and_is_in_the_audit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let config = crate::audit::Config { path: crate::audit::Sink::File(path.clone()), queue: 10, sync: false };
        let (audit, writer) = Audit::start(&config, Box::new(|_| {})).unwrap();
        let operator = samples::operator("alice");
        let reached = "192.0.2.9:2222".parse().unwrap();
        let line = CommandLine { operator, words: b"doctor ins-a".to_vec(), reached, aliases: FleetAliases::default() };
        let said = run_alone(&Panics, &audit, line).await;
        assert!(said.exit == FAILED && said.out.is_empty() && said.err.starts_with("ssh-broker: ") && !said.err.contains("hunter2"));
        drop(audit);
        writer.join().unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&line["event"], &line["words"], &line["operator"]),
            (&"command.crashed".into(), &"doctor ins-a".into(), &"alice".into())
        );
    }
}
