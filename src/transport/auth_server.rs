use super::wire::{Reader, put_string};
use super::{Leg, TransportError, msg};

/// Requests taken, for the service and to be let in; an honest client sends one of each.
const MAX_REQUESTS: usize = 32;

/// What a message of the operator's client asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Answered; more will come.
    Continue,
    /// The client has asked to be let in and waits for [`ServerAuth::succeed`].
    Requested,
}

/// User authentication (RFC 4252) in server role, for a peer that is proven already: any method succeeds, when the time has come. The
/// user name is not looked at.
#[derive(Debug, Default)]
pub struct ServerAuth {
    service: bool,
    requests: usize,
}

impl ServerAuth {
    pub fn receive(&mut self, leg: &mut Leg, message: &[u8]) -> Result<Step, TransportError> {
        self.requests += 1;
        if self.requests > MAX_REQUESTS {
            return Err(TransportError::Misbehaved("too many authentication requests"));
        }
        let mut reader = Reader::new(message);
        match reader.u8()? {
            msg::SERVICE_REQUEST if reader.string()? == b"ssh-userauth" => {
                self.service = true;
                let mut accept = vec![msg::SERVICE_ACCEPT];
                put_string(&mut accept, b"ssh-userauth");
                leg.send(&accept)?;
                Ok(Step::Continue)
            }
            msg::SERVICE_REQUEST => Err(TransportError::Misbehaved("a service other than ssh-userauth was asked for")),
            msg::USERAUTH_REQUEST if self.service => self.request(leg, reader),
            _ => Err(TransportError::Misbehaved("a message that does not belong into user authentication")),
        }
    }

    fn request(&mut self, leg: &mut Leg, mut reader: Reader<'_>) -> Result<Step, TransportError> {
        let (_user, service, method) = (reader.string()?, reader.string()?, reader.string()?);
        if service != b"ssh-connection" {
            return Err(TransportError::Misbehaved("a service other than ssh-connection was asked for"));
        }
        if method != b"publickey" {
            return Ok(Step::Requested);
        }
        let signed = reader.bool()?;
        let (algorithm, key) = (reader.string()?, reader.string()?);
        if signed {
            return Ok(Step::Requested);
        }
        let mut ok = vec![msg::USERAUTH_60];
        put_string(&mut ok, algorithm);
        put_string(&mut ok, key);
        leg.send(&ok)?;
        Ok(Step::Continue)
    }

    /// Shows the operator a text (RFC 4252, 5.4): only after a request and before the success.
    pub fn banner(leg: &mut Leg, text: &str) -> Result<(), TransportError> {
        let mut message = vec![msg::USERAUTH_BANNER];
        put_string(&mut message, text.as_bytes());
        put_string(&mut message, b"");
        leg.send(&message)
    }

    pub fn succeed(leg: &mut Leg) -> Result<(), TransportError> {
        leg.send(&[msg::USERAUTH_SUCCESS])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Preferences;

    #[test]
    fn requests_of_either_kind_are_counted() {
        let mut service = vec![msg::SERVICE_REQUEST];
        put_string(&mut service, b"ssh-userauth");
        let mut leg = Leg::client(Preferences::modern(), "SSH-2.0-a").unwrap();
        let mut auth = ServerAuth::default();
        let taken = (0..1000).take_while(|_| auth.receive(&mut leg, &service).is_ok()).count();
        assert_eq!(taken, MAX_REQUESTS);
    }
}
