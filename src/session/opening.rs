use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use super::recorded::end_unused;
use super::trail::{Owed, Trail};
use super::{SessionRunner, broken};
use crate::access::{Failure, Grant, TargetName};
use crate::audit::{Event, Subject, Text};
use crate::broker::{Asker, NotOpened, Opened, ms};
use crate::door::{ByteStream, Jump};
use crate::quick_ack::QuickAck;
use crate::recording::Tape;
use crate::transport::{Connection, HostIdentity, Leg, Preferences, ServerAuth, Step, TransportError, msg};

/// How the broker names itself to operators. Their OpenSSH says `eow@openssh.com` and `no-more-sessions@openssh.com` only to another
/// OpenSSH; without the first, `ssh ins-x cat big | head` would not end before the file does.
const VERSION: &str = "SSH-2.0-OpenSSH_9.9 ssh-broker";
/// A client that has not offered its algorithms by then waits for ours.
const KEXINIT_NUDGE: Duration = Duration::from_secs(1);
/// For the last words to a client that is being refused, until it closes.
const LAST_WORDS: Duration = Duration::from_secs(5);

pub(super) type Downstream = Connection<Box<dyn ByteStream>>;
pub(super) type Upstream = Connection<QuickAck>;
/// A session about to begin; the tape when it is recorded.
type Begun = (Downstream, Upstream, Grant, Option<Tape>);

/// The first part of a session: both legs at the same time, so that connecting costs the longer and not the sum.
pub(super) struct Opening<'a> {
    pub(super) runner: &'a SessionRunner,
    pub(super) subject: &'a mut Subject,
    pub(super) started: Instant,
}

impl Opening<'_> {
    /// `None` when there is no session; the operator has read why, as far as the client was there to read it.
    pub(super) async fn run(self, jump: Jump) -> Option<Begun> {
        let reference = self.subject.shown_reference();
        let typed = jump.typed.clone();
        let (identity, name) = match self.identity(&jump) {
            Ok(identity) => identity,
            Err(failure) => {
                let mut owed = Owed::nothing(&self.runner.audit);
                owed.push(SessionRunner::refusal(self.subject, &typed, &failure.clone().into()));
                owed.record_now();
                let identity = HostIdentity::new(self.runner.certificates.session_key(), None);
                refuse_in_clear(jump.stream, identity, &failure.sentence(&typed, reference)).await;
                owed.record_rest().await;
                return None;
            }
        };
        let preferences = Preferences { gcm_alone: true, ..Preferences::modern() };
        let mut downstream = Connection::new(Leg::server(preferences, identity, VERSION), jump.stream);

        let deadline = self.started + self.runner.config.open_deadline;
        let asker = Asker::new(jump.operator.name.clone(), deadline);
        let trail = Trail::new(&self.runner.audit, self.subject.clone(), &typed, &jump.client_version);
        let outcome = {
            let opening = self.runner.broker.open(&jump.operator, &name, &asker, &trail);
            let opening = tokio::time::timeout_at(deadline.into(), opening);
            let opening = async { opening.await.unwrap_or_else(|_| Err(asker.out_of_time().into())) };
            self.side_by_side(&mut downstream, opening, &asker, &typed).await
        };
        let mut owed = trail.into_owed();
        match outcome {
            Err(error) => {
                // Nobody is there to read anything.
                tracing::info!(session = %reference, %error, "the operator's client left before its session stood");
                let reason = Text::new(error.to_string().as_bytes());
                owed.push((self.subject.clone(), Event::SessionAbandoned { typed: Text::new(typed.as_bytes()), reason }));
                owed.record_rest().await;
                None
            }
            Ok(Err(refused)) => {
                self.refuse(downstream, &typed, refused, owed, None).await;
                None
            }
            Ok(Ok(opened)) => self.admit(downstream, opened, &typed, owed).await,
        }
    }

    /// The certificate for exactly the names that the operator may have typed.
    fn identity(&self, jump: &Jump) -> Result<(HostIdentity, TargetName), Failure> {
        let name = jump.name.clone()?;
        let mut names = vec![name.typed.to_string()];
        if let Some(fleet) = &name.fleet {
            let canonical = format!("{}.{fleet}", name.instance);
            if !names.contains(&canonical) {
                names.push(canonical);
            }
        }
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let certificates = &self.runner.certificates;
        let certificate = certificates.certify(&names).and_then(|certificate| certificate.to_bytes().map_err(|error| error.to_string()));
        let certificate = certificate.map_err(|error| broken("its host certificate could not be made").because(error))?;
        Ok((HostIdentity::new(certificates.session_key(), Some(certificate)), name))
    }

    /// Drives the downstream leg to the point where the operator's client asks to be let in, and the opening to its end. An error is the
    /// downstream leg's.
    async fn side_by_side(
        &self,
        downstream: &mut Downstream,
        opening: impl Future<Output = Result<Opened<Upstream>, NotOpened>>,
        asker: &Asker,
        typed: &str,
    ) -> Result<Result<Opened<Upstream>, NotOpened>, TransportError> {
        let mut opening = pin!(opening);
        let mut outcome = None;
        let mut auth = ServerAuth::default();
        {
            let greeting = tokio::time::timeout(self.runner.config.handshake, greet(downstream, &mut auth));
            let mut greeting = pin!(greeting);
            loop {
                tokio::select! {
                    greeted = &mut greeting => {
                        greeted.unwrap_or(Err(TransportError::Deadline("the operator's handshake")))?;
                        break;
                    }
                    result = &mut opening, if outcome.is_none() => outcome = Some(result),
                }
            }
        }
        if let Some(outcome) = outcome {
            return Ok(outcome);
        }
        let mut look = tokio::time::interval_at((self.started + self.runner.config.queue_notice).into(), Duration::from_secs(1));
        let mut told = false;
        loop {
            tokio::select! {
                result = &mut opening => return Ok(result),
                message = downstream.next() => { auth.receive(&mut downstream.leg, &message?)?; }
                _ = look.tick(), if !told => {
                    if let Some(ahead) = asker.place().ahead() {
                        told = true;
                        let requests = if ahead == 1 { "request" } else { "requests" };
                        let text = format!("ssh-broker: {typed}: waiting for the cloud API, behind {ahead} other {requests}\r\n");
                        ServerAuth::banner(&mut downstream.leg, &text)?;
                    }
                }
            }
        }
    }

    async fn admit(self, mut downstream: Downstream, opened: Opened<Upstream>, typed: &str, mut owed: Owed) -> Option<Begun> {
        let reference = self.subject.shown_reference();
        let Opened { leg: upstream, grant, lease, phases } = opened;
        self.subject.set_lease(&lease);
        let tape = match self.runner.record(&grant, typed, self.subject, &mut owed).await {
            Ok(tape) => tape,
            Err(failure) => {
                self.refuse(downstream, typed, failure.into(), owed, None).await;
                return None;
            }
        };
        let describe = |leg: &Leg| leg.negotiated().map(|negotiated| negotiated.describe()).unwrap_or_default();
        let version = |leg: &Leg| Text::new(leg.peer_version().unwrap_or_default().as_bytes());
        let event = Event::SessionOpened {
            client: version(&downstream.leg),
            server: version(&upstream.leg),
            downstream: Text::new(describe(&downstream.leg).as_bytes()),
            upstream: Text::new(describe(&upstream.leg).as_bytes()),
            weak: upstream.leg.weak(),
            resolve_ms: ms(phases.resolve),
            quota_ms: ms(phases.quota),
            api_ms: ms(phases.api),
            connect_ms: ms(phases.connect),
            kex_ms: ms(phases.kex),
            auth_ms: ms(phases.auth),
            total_ms: ms(self.started.elapsed()),
        };
        if let Err(failure) = owed.record_opened((self.subject.clone(), event)).await {
            self.refuse(downstream, typed, failure.into(), owed, tape).await;
            return None;
        }
        tracing::info!(session = %reference, target = %grant.target(), operator = %grant.operator().name, "session opened");
        if let Err(error) = ServerAuth::succeed(&mut downstream.leg) {
            tracing::debug!(%error, session = %reference, "the downstream leg failed at the last step");
            let reason = Text::new(format!("operator: {error}").as_bytes());
            let closed = Event::SessionClosed { reason, bytes_down: 0, bytes_up: 0, duration_s: self.started.elapsed().as_secs_f64() };
            end_unused(tape, self.subject, &mut owed).await;
            owed.push((self.subject.clone(), closed));
            owed.record_rest().await;
            return None;
        }
        Some((downstream, upstream, grant, tape))
    }

    /// The operator reads the sentence as a banner, and as the reason of the disconnect for clients that show no banners. What the audit
    /// has room for is there before, the rest behind it: an audit that takes nothing keeps nobody from reading why.
    async fn refuse(&self, mut downstream: Downstream, typed: &str, refused: NotOpened, mut owed: Owed, tape: Option<Tape>) {
        owed.push(SessionRunner::refusal(self.subject, typed, &refused));
        owed.record_now();
        let sentence = refused.failure.sentence(typed, self.subject.shown_reference());
        let said = ServerAuth::banner(&mut downstream.leg, &format!("{sentence}\r\n"))
            .and_then(|()| downstream.leg.disconnect(msg::reason::NO_MORE_AUTH_METHODS, &sentence));
        if said.is_ok() {
            let _ = tokio::time::timeout(LAST_WORDS, downstream.part()).await;
        }
        end_unused(tape, self.subject, &mut owed).await;
        owed.record_rest().await;
    }
}

/// From the first byte to the request to be let in.
async fn greet(downstream: &mut Downstream, auth: &mut ServerAuth) -> Result<(), TransportError> {
    if tokio::time::timeout(KEXINIT_NUDGE, downstream.await_kexinit()).await.is_err() {
        downstream.leg.start_kex()?;
    }
    downstream.establish().await?;
    loop {
        let message = downstream.next().await?;
        if auth.receive(&mut downstream.leg, &message)? == Step::Requested {
            return Ok(());
        }
    }
}

/// A sentence before any key exchange: a disconnect is allowed there, and no host key has to be believed to read it.
async fn refuse_in_clear(stream: Box<dyn ByteStream>, identity: HostIdentity, sentence: &str) {
    let leg = Leg::server(Preferences::modern(), identity, VERSION);
    let mut connection = Connection::new(leg, stream);
    let said = async {
        // The client's first bytes are awaited, so that it is there to listen.
        connection.identify().await?;
        connection.leg.disconnect(msg::reason::BY_APPLICATION, sentence)?;
        connection.part().await
    };
    let _ = tokio::time::timeout(LAST_WORDS, said).await;
}
