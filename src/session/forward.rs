use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::recorded::{Flow, end_unused};
use super::relay::{Broken, Relay};
use super::trail::{Owed, Trail};
use super::{Running, SessionRunner, expiry};
use crate::access::Code;
use crate::audit::{Event, Subject, Text};
use crate::broker::{Asker, NotOpened, Reached, ms};
use crate::door::{Forward, PendingChannel, Refusal};
use crate::quick_ack::QuickAck;
use crate::recording::Tape;

/// For what an operator that is gone had sent before.
const LINGER: Duration = Duration::from_secs(5);
const KIND: &str = "tcp";
/// How the audit names the end that the operator's client brought.
const LEFT: &str = "operator: closed the channel";

impl SessionRunner {
    /// Raw TCP to a port of the target beside its SSH.
    pub(super) async fn run_forward(self: Arc<Self>, forward: Forward, subject: Subject) {
        let Forward { operator, client_version, typed, name, port, channel, gone } = forward;
        let started = Instant::now();
        let asker = Asker::new(operator.name.clone(), started + self.config.open_deadline);
        let trail = Trail::new(&self.audit, subject.clone(), &typed, &client_version);
        let reached = match &name {
            Err(failure) => Some(Err(NotOpened::failed(failure.clone(), None))),
            Ok(name) => {
                let reaching = self.broker.reach(&operator, (name, port), &asker, &trail);
                tokio::select! {
                    reached = tokio::time::timeout_at(asker.deadline.into(), reaching) => {
                        Some(reached.unwrap_or_else(|_| Err(asker.out_of_time().into())))
                    }
                    () = gone.cancelled() => None,
                }
            }
        };
        let mut owed = trail.into_owed();
        match reached {
            Some(Ok(reached)) => self.forward(reached, (subject, typed, port), started, channel, gone, owed).await,
            Some(Err(refused)) => self.refuse_forward(&subject, &typed, &refused, channel, owed, None).await,
            None => {
                // Nobody is there to read anything.
                let (typed, reason) = (Text::new(typed.as_bytes()), "the operator's client left".into());
                owed.push((subject, Event::SessionAbandoned { typed, reason }));
                owed.record_rest().await;
            }
        }
    }

    async fn refuse_forward(
        &self,
        subject: &Subject,
        typed: &str,
        refused: &NotOpened,
        channel: Box<dyn PendingChannel>,
        mut owed: Owed,
        tape: Option<Tape>,
    ) {
        owed.push(Self::refusal(subject, typed, refused));
        owed.record_now();
        let kind = match refused.failure.code {
            Code::TargetRefused | Code::TargetName => Refusal::Prohibited,
            Code::BrokerBusy | Code::BrokerDraining | Code::ApiThrottled => Refusal::Shortage,
            _ => Refusal::ConnectFailed,
        };
        let reference = subject.shown_reference();
        // A connection that takes no answer is left to its own end.
        let _ = tokio::time::timeout(self.config.handshake, channel.refuse(kind, refused.failure.sentence(typed, reference))).await;
        end_unused(tape, subject, &mut owed).await;
        owed.record_rest().await;
    }

    async fn forward(
        &self,
        reached: Reached<QuickAck>,
        (mut subject, typed, port): (Subject, String, u16),
        started: Instant,
        channel: Box<dyn PendingChannel>,
        gone: CancellationToken,
        mut owed: Owed,
    ) {
        let Reached { stream, grant, lease, phases } = reached;
        subject.set_target(grant.target());
        subject.request_id = Some(lease.request_id.as_str().into());
        let opened = Event::ForwardOpened {
            kind: KIND,
            port,
            resolve_ms: ms(phases.resolve),
            quota_ms: ms(phases.quota),
            api_ms: ms(phases.api),
            connect_ms: ms(phases.connect),
            total_ms: ms(started.elapsed()),
        };
        let tape = match self.record(&grant, &typed, &subject, &mut owed).await {
            Ok(tape) => tape,
            Err(failure) => return self.refuse_forward(&subject, &typed, &failure.into(), channel, owed, None).await,
        };
        if let Err(failure) = owed.record_opened((subject.clone(), opened)).await {
            return self.refuse_forward(&subject, &typed, &failure.into(), channel, owed, tape).await;
        }
        tracing::info!(session = ?subject.reference, target = %grant.target(), operator = %grant.operator().name, port, "forward opened");
        drop(lease);
        let flow = Flow::begin(tape, KIND, &format!("{}:{port}", grant.target()));
        let running = Arc::new(Running::new(subject, grant, typed, started).on_port(port));
        let _entry = self.live.enter(running.clone());
        running.answering(self.carry_forward(&running, (port, started), channel, stream, gone, flow)).await;
    }

    /// To its end, which is told.
    async fn carry_forward(
        &self,
        running: &Running,
        (port, started): (u16, Instant),
        channel: Box<dyn PendingChannel>,
        stream: QuickAck,
        gone: CancellationToken,
        mut flow: Flow,
    ) {
        let mut relay = Relay::default();
        let reason = tokio::select! {
            reason = self.relay(&mut relay, running, channel, stream, &gone) => reason,
            reason = flow.lost() => reason,
        };
        for event in flow.end(relay.bytes_up(), relay.bytes_down()).await {
            self.audit.tell(&running.subject, event, "the end of a recording").await;
        }
        tracing::info!(session = ?running.subject.reference, reason, "forward closed");
        let closed = Event::ForwardClosed {
            kind: KIND,
            port,
            reason: Text::new(reason.as_bytes()),
            bytes_down: relay.bytes_down(),
            bytes_up: relay.bytes_up(),
            duration_s: started.elapsed().as_secs_f64(),
        };
        self.audit.tell(&running.subject, closed, "the end of a forward").await;
    }

    /// Until both ways have ended, either side breaks, the operator is gone, or the broker ends it.
    async fn relay(
        &self,
        relay: &mut Relay,
        running: &Running,
        channel: Box<dyn PendingChannel>,
        mut instance: QuickAck,
        gone: &CancellationToken,
    ) -> String {
        let orders = running.orders();
        let mut ordered = pin!(async {
            tokio::select! {
                farewell = orders.ended() => farewell,
                () = expiry::watch(running, self.config.clock) => orders.ended().await,
            }
        });
        // The connection that takes the answer may be held up by another of its channels.
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(self.config.handshake, channel.accept()) => accepted,
            farewell = &mut ordered => return farewell.reason,
            () = gone.cancelled() => return LEFT.to_owned(),
        };
        let Ok(mut operator) = accepted else { return "operator: the connection did not take the answer in time".to_owned() };
        let ended = tokio::select! {
            ended = relay.run(&mut operator, &mut instance) => ended,
            farewell = &mut ordered => return farewell.reason,
            () = gone.cancelled() => {
                let _ = tokio::time::timeout(LINGER, relay.finish_up(&mut operator, &mut instance)).await;
                return LEFT.to_owned();
            }
        };
        match ended {
            Ok(()) => "both sides ended".to_owned(),
            Err(Broken::Operator(error)) => format!("operator: {error}"),
            Err(Broken::Instance(error)) => format!("instance: {error}"),
        }
    }
}
