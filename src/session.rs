//! One operator on one target: the downstream leg and the opening of the upstream leg side by side, then the splice.

mod expiry;
mod forward;
mod live;
mod opening;
mod recorded;
mod relay;
#[cfg(test)]
mod tests;
mod trail;

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand;
use futures_util::FutureExt;
use ssh_key::{Certificate, PrivateKey};

use self::opening::{Downstream, Upstream};
use crate::access::{Code, Failure, Operator, Reference};
use crate::audit::{Audit, Event, Subject, Text};
use crate::broker::{BoxFuture, Broker, NotOpened};
use crate::door::{Forward, Jump, Sessions};
use crate::recording::{Recorder, Tape};
use crate::splice::{self, Ended, Gate, Splice};
use crate::tasks::apart;
use crate::upstream::Dialer;

pub use expiry::Clock;
pub use live::{Live, Running};

/// Signs the certificates that downstream legs present: for exactly the names given.
pub trait HostCertificates: Send + Sync + 'static {
    fn session_key(&self) -> Arc<PrivateKey>;
    fn certify(&self, names: &[&str]) -> Result<Certificate, String>;
}

/// Deadlines of a session.
#[derive(Debug, Clone, Copy)]
pub struct Config {
    /// From the jump to the session: resolving, leasing, dialling, authenticating.
    pub open_deadline: Duration,
    /// For the operator's client: its key exchange and its request to be let in.
    pub handshake: Duration,
    /// How long an operator waits for the cloud API before being told so.
    pub queue_notice: Duration,
    /// What time it is on the wall, for the hours of grants.
    pub clock: Clock,
    /// Deadlines of the running session.
    pub splice: splice::Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            open_deadline: Duration::from_secs(20),
            handshake: Duration::from_secs(120),
            queue_notice: Duration::from_secs(2),
            clock: SystemTime::now,
            splice: splice::Limits::default(),
        }
    }
}

/// Everything that a session needs, shared by all of them.
pub struct SessionRunner {
    broker: Arc<Broker<Dialer>>,
    audit: Audit,
    recorder: Recorder,
    certificates: Arc<dyn HostCertificates>,
    config: Config,
    live: Arc<Live>,
}

impl SessionRunner {
    pub fn new(
        broker: Arc<Broker<Dialer>>,
        audit: Audit,
        recorder: Recorder,
        certificates: Arc<dyn HostCertificates>,
        config: Config,
    ) -> Arc<Self> {
        Arc::new(Self { broker, audit, recorder, certificates, config, live: Arc::default() })
    }

    /// The sessions that run now.
    pub fn live(&self) -> Arc<Live> {
        self.live.clone()
    }

    /// A panic ends this session or forward, and is told.
    async fn run_alone<F: Future<Output = ()>>(self: Arc<Self>, operator: &Operator, run: impl FnOnce(Arc<Self>, Subject) -> F) {
        let subject = Subject { reference: Some(new_reference()), ..Subject::operator(operator) };
        if AssertUnwindSafe(run(self.clone(), subject.clone())).catch_unwind().await.is_err() {
            tracing::error!(session = ?subject.reference, "a session ended in a panic");
            self.audit.tell(&subject, Event::SessionCrashed {}, "the crash of a session").await;
        }
    }

    async fn run_session(self: Arc<Self>, jump: Jump, mut subject: Subject) {
        let (started, typed) = (Instant::now(), jump.typed.clone());
        // Boxed: a session is to hold the memory of its opening no longer than that takes.
        let opening = Box::pin(async {
            let opening = opening::Opening { runner: &self, subject: &mut subject, started };
            let (downstream, upstream, grant, tape) = opening.run(jump).await?;
            let running = Arc::new(Running::new(subject, grant, typed, started));
            let splicing = self.splicing(downstream, upstream, &running, tape);
            Some((running, splicing))
        });
        let Some((running, splicing)) = opening.await else { return };
        let _entry = self.live.enter(running.clone());
        self.carry(splicing, &running).await;
    }

    /// Of a session or forward that was not opened, the log gets the chain, the audit the decision.
    fn refusal(subject: &Subject, typed: &str, refused: &NotOpened) -> (Subject, Event) {
        let mut subject = subject.clone();
        if let Some(target) = &refused.target {
            subject.set_target(target);
        }
        let failure = &refused.failure;
        subject.request_id = failure.request_id.as_deref().map(Arc::from).or(subject.request_id);
        let (code, reason) = (failure.code.as_str(), failure.chain());
        let typed = Text::new(typed.as_bytes());
        tracing::info!(session = ?subject.reference, target = ?typed, operator = subject.operator.as_deref(), code, reason, "session refused");
        let event = match refused.denied {
            Some(denied) => Event::TargetDenied { typed, reason: denied.to_string().as_str().into() },
            None => Event::TargetFailed { typed, code, reason: Text::new(reason.as_bytes()) },
        };
        (subject, event)
    }

    /// Made before anything is waited for, so that no future holds the legs but the splice's.
    fn splicing(
        &self,
        downstream: Downstream,
        mut upstream: Upstream,
        running: &Running,
        tape: Option<Tape>,
    ) -> impl Future<Output = Ended> + Send + use<> {
        // A recording tells what a terminal shows within 10 ms as one event. All else passes as it comes.
        if let Some(tape) = &tape {
            upstream.stream().gather(tape.shows());
        }
        let gate = Gate::new(running.grant.clone());
        let splice = Splice::new(downstream, upstream, gate, self.audit.clone(), running.subject.clone(), self.config.splice);
        splice.with_orders(running.orders()).with_tape(tape).run()
    }

    /// To its end, which is told.
    async fn carry(&self, splicing: impl Future<Output = Ended> + Send + 'static, running: &Running) {
        let mut splice = pin!(apart(splicing));
        let ended = tokio::select! {
            biased;
            ended = &mut splice => ended,
            () = expiry::watch(running, self.config.clock) => splice.await,
        };
        running.answering(self.tell_end(running, ended)).await;
    }

    async fn tell_end(&self, running: &Running, ended: Ended) {
        let subject = &running.subject;
        tracing::info!(session = ?subject.reference, reason = ended.reason, "session closed");
        let closed = Event::SessionClosed {
            reason: Text::new(ended.reason.as_bytes()),
            bytes_down: ended.bytes_down,
            bytes_up: ended.bytes_up,
            duration_s: running.since.elapsed().as_secs_f64(),
        };
        self.audit.tell(subject, closed, "the end of a session").await;
    }
}

/// The handle that the door calls.
pub struct Runner(pub Arc<SessionRunner>);

impl Sessions for Runner {
    fn run(&self, jump: Jump) -> BoxFuture<'static, ()> {
        let (runner, operator) = (self.0.clone(), jump.operator.clone());
        Box::pin(async move { runner.run_alone(&operator, |runner, subject| runner.run_session(jump, subject)).await })
    }

    fn forward(&self, forward: Forward) -> BoxFuture<'static, ()> {
        let (runner, operator) = (self.0.clone(), forward.operator.clone());
        Box::pin(async move { runner.run_alone(&operator, |runner, subject| runner.run_forward(forward, subject)).await })
    }
}

/// For one session or command.
pub(crate) fn new_reference() -> Reference {
    let mut random = [0; 4];
    // Without random numbers no key exchange succeeds either; the reference is then merely not unique.
    let _ = rand::fill(&mut random);
    Reference::from_random(u32::from_be_bytes(random))
}

/// What the operator reads when the broker itself is at fault.
fn broken(what: &str) -> Failure {
    Failure::new(Code::BrokerBusy, format!("the broker cannot serve this now: {what}"))
}
