use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, sleep_until};

use super::attempts::{Attempts, Over};
use super::connections::{Outer, Proof};
use super::door::Shared;
use super::key_rules::acceptable_signature;
use super::userauth::{Method, Offer, Request, Subject};
use crate::access::OperatorName;
use crate::audit::{AuditError, Event, Subject as Audited};
use crate::transport::wire::{Reader, put_string};
use crate::transport::{Connection, TransportError, msg};

/// For a rejected authentication, so that what it took to reject it does not show.
const REJECTION_TIME: Duration = Duration::from_millis(20);

/// The way of one connection from its keys to its operator.
pub(super) struct Login<'a> {
    pub(super) shared: &'a Shared,
    pub(super) source: SocketAddr,
    pub(super) client_version: &'a str,
    pub(super) attempts: &'a Mutex<Attempts>,
    pub(super) outer: &'a Outer,
    pub(super) proven: &'a AtomicBool,
}

/// What a request to be let in comes to.
enum Answer {
    Success,
    /// The key could prove the operator (RFC 4252, 7).
    Offered,
    Failure,
    /// To the request that clients begin with, to learn what they may try.
    Methods,
}

impl Login<'_> {
    /// Until the operator is proven and the client knows it. The caller bounds the time.
    pub(super) async fn run<S: AsyncRead + AsyncWrite + Unpin>(&self, connection: &mut Connection<S>) -> Result<(), TransportError> {
        let mut has_service = false;
        loop {
            let message = connection.next().await?;
            let received = Instant::now();
            let mut reader = Reader::new(&message);
            match reader.u8()? {
                msg::SERVICE_REQUEST => {
                    let name = reader.string()?;
                    if name != b"ssh-userauth" {
                        return Err(TransportError::Misbehaved("a service other than ssh-userauth was asked for"));
                    }
                    has_service = true;
                    let mut accept = vec![msg::SERVICE_ACCEPT];
                    put_string(&mut accept, name);
                    connection.leg.send(&accept)?;
                }
                msg::USERAUTH_REQUEST if has_service => {
                    let request = Request::parse(&message)?;
                    let session_id = connection.leg.session_id().cloned().unwrap_or_default();
                    let Ok(answer) = self.answer(&request, &session_id) else {
                        return Err(TransportError::Misbehaved("it tried too often to be let in, or changed its user name"));
                    };
                    match answer {
                        Answer::Success => return self.admit(connection).await,
                        Answer::Offered => connection.leg.send(&offered(&request))?,
                        Answer::Methods => connection.leg.send(&failure())?,
                        Answer::Failure => {
                            sleep_until(received + REJECTION_TIME).await;
                            connection.leg.send(&failure())?;
                        }
                    }
                }
                _ => return Err(TransportError::Misbehaved("a message that does not belong into user authentication")),
            }
        }
    }

    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, request: &Request<'_>, session_id: &[u8]) -> Result<Answer, Over> {
        let is_first = self.attempts().begin(request.user, self.shared.attempts())?;
        let reason = match &request.method {
            // As in OpenSSH's auth2.c: that one is no failure, any later one is.
            Method::None if is_first => return Ok(Answer::Methods),
            Method::None => {
                self.attempts().fail();
                return Ok(Answer::Failure);
            }
            Method::PublicKey(offer) => match self.judge(request.user, offer, session_id) {
                Ok(answer) => return Ok(answer),
                Err(reason) => reason,
            },
            Method::Unreadable(reason) => reason.clone(),
            Method::Other(method) => {
                let method: String = method.chars().take(40).filter(|c| !c.is_control()).collect();
                format!("{method} was tried, and only a key or a certificate counts")
            }
        };
        tracing::debug!(source = %self.source, reason, "authentication refused");
        let mut attempts = self.attempts();
        attempts.fail();
        attempts.reason = Some(reason);
        Ok(Answer::Failure)
    }

    /// A name that cannot be an operator's takes the same way as one that is not.
    fn judge(&self, user: &str, offer: &Offer<'_>, session_id: &[u8]) -> Result<Answer, String> {
        let parsed = OperatorName::parse(user);
        let name =
            parsed.as_ref().map_or_else(|_| OperatorName::parse("_"), |name| Ok(name.clone())).map_err(|invalid| invalid.to_string())?;
        let rules = self.shared.rules();
        let key = offer.subject.key();
        acceptable_signature(&offer.algorithm, key)?;
        rules.operators.could_prove(&name, key)?;
        if !offer.is_signed() {
            self.attempts().offer();
            return Ok(Answer::Offered);
        }
        offer.verify(session_id)?;
        if parsed.is_err() {
            return Err("not an operator's name".to_owned());
        }
        let proof = match &offer.subject {
            Subject::Key(key) => Proof::Key { name, key: key.clone() },
            Subject::Certificate(certificate) => Proof::Certificate { name, certificate: certificate.clone() },
        };
        let operator = proof.judge(&rules.operators, self.source)?;
        self.outer.prove(proof, operator);
        Ok(Answer::Success)
    }

    async fn admit<S: AsyncRead + AsyncWrite + Unpin>(&self, connection: &mut Connection<S>) -> Result<(), TransportError> {
        let operator = self.outer.operator().ok_or(TransportError::Closed)?;
        let event = Event::OperatorAuthenticated { client: self.client_version.into() };
        let settled = {
            let mut attempts = self.attempts();
            attempts.owed = Some((Audited::operator(&operator), event));
            attempts.settle(&self.shared.audit)
        };
        if let Err(error @ AuditError::Stopped) = settled {
            tracing::error!(%error, operator = %operator.name, "a login was refused: it could not be audited");
            return Err(TransportError::Closed);
        }
        tracing::info!(operator = %operator.name, source = %self.source, key = %operator.key, "operator authenticated");
        self.proven.store(true, Ordering::Relaxed);
        connection.leg.send(&[msg::USERAUTH_SUCCESS])?;
        connection.drain().await
    }
}

/// What may be tried: keys and certificates.
fn failure() -> Vec<u8> {
    let mut message = vec![msg::USERAUTH_FAILURE];
    put_string(&mut message, b"publickey");
    message.push(0);
    message
}

fn offered(request: &Request<'_>) -> Vec<u8> {
    let mut message = vec![msg::USERAUTH_60];
    if let Method::PublicKey(offer) = &request.method {
        put_string(&mut message, offer.name);
        put_string(&mut message, offer.blob);
    }
    message
}
