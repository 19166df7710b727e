use super::Direction;
use crate::access::{Capabilities, Capability, Grant};
use crate::transport::msg;
use crate::transport::wire::Reader;

/// What happens to a message.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Pass,
    /// Renamed in place by the gate: it passes, and the peer refuses it. With why.
    Refused(Refusal),
    /// Not for the other side.
    Drop,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked for, by its protocol name.
    pub kind: String,
    pub reason: &'static str,
}

/// Holds a session to its grant.
///
/// Its only state is what the operator's side has asked for, so that an instance can open nothing unasked.
pub struct Gate {
    grant: Grant,
    asked: Asked,
}

#[derive(Default)]
struct Asked {
    tcpip_forward: bool,
    streamlocal_forward: bool,
    agent: bool,
    x11: bool,
}

/// Whether something may pass, and if not, why.
type Permission = Result<(), &'static str>;

impl Gate {
    pub fn new(grant: Grant) -> Self {
        Self { grant, asked: Asked::default() }
    }

    /// Holds the session to another grant from now on.
    pub fn regrant(&mut self, grant: Grant) {
        self.grant = grant;
    }

    /// What the operator's side has asked for without a channel of its own.
    pub fn in_use(&self) -> Capabilities {
        let Asked { tcpip_forward, streamlocal_forward, agent, x11 } = self.asked;
        let asked = [(Capability::ForwardRemote, tcpip_forward || streamlocal_forward), (Capability::Agent, agent), (Capability::X11, x11)];
        asked.into_iter().filter_map(|(capability, asked)| asked.then_some(capability)).collect()
    }

    /// Judges a message on its way and renames it in place when it is refused.
    pub fn judge(&mut self, direction: Direction, message: &mut [u8]) -> Verdict {
        // Everything that carries bulk or only closes passes without a look.
        let permission = match (message.first().copied(), direction) {
            (Some(msg::CHANNEL_OPEN), _) => named(message, 1).map(|(at, name)| (at, self.open(direction, name))),
            (Some(msg::CHANNEL_REQUEST), Direction::Up) => named(message, 5).map(|(at, name)| (at, self.channel_request(message, name))),
            (Some(msg::GLOBAL_REQUEST), Direction::Up) => named(message, 1).map(|(at, name)| (at, self.global_request(name))),
            (Some(msg::GLOBAL_REQUEST), Direction::Down) => return global_request_down(message),
            // Authentication is over: what still speaks of it ends here (RFC 4252, 5.3).
            (Some(number), _) if number < msg::FIRST_CONNECTION => return Verdict::Drop,
            _ => return Verdict::Pass,
        };
        match permission {
            Some((at, Err(reason))) => {
                let kind = String::from_utf8_lossy(named(message, at.saturating_sub(4)).map_or(&[], |(_, name)| name)).into_owned();
                if let Some(first) = message.get_mut(at) {
                    *first = b'!';
                }
                Verdict::Refused(Refusal { kind, reason })
            }
            // A message too short for its name is the peer's to refuse.
            Some((_, Ok(()))) | None => Verdict::Pass,
        }
    }

    fn needs(&self, capability: Capability) -> Permission {
        if self.grant.allows(capability) {
            return Ok(());
        }
        Err(match capability {
            Capability::Shell => "the grant does not allow shell",
            Capability::Exec => "the grant does not allow exec",
            Capability::Sftp => "the grant does not allow sftp",
            Capability::ForwardLocal => "the grant does not allow forward-local",
            Capability::ForwardRemote => "the grant does not allow forward-remote",
            Capability::Agent => "the grant does not allow agent",
            Capability::X11 => "the grant does not allow x11",
            Capability::NestedSsh => "the grant does not allow nested-ssh",
            Capability::Any => "no grant allows this channel type",
        })
    }

    fn open(&self, direction: Direction, kind: &[u8]) -> Permission {
        let asked = |asked: bool| if asked { Ok(()) } else { Err("the operator's side did not ask for it") };
        match (direction, kind) {
            (Direction::Up, b"session") => Ok(()),
            (Direction::Up, b"direct-tcpip" | b"direct-streamlocal@openssh.com") => self.needs(Capability::ForwardLocal),
            (Direction::Down, b"forwarded-tcpip") => asked(self.asked.tcpip_forward),
            (Direction::Down, b"forwarded-streamlocal@openssh.com") => asked(self.asked.streamlocal_forward),
            (Direction::Down, b"auth-agent@openssh.com") => asked(self.asked.agent),
            (Direction::Down, b"x11") => asked(self.asked.x11),
            _ => Err("no grant allows this channel type"),
        }
    }

    fn channel_request(&mut self, message: &[u8], name: &[u8]) -> Permission {
        match name {
            b"shell" => self.needs(Capability::Shell),
            b"exec" => self.needs(Capability::Exec),
            b"subsystem" if subsystem(message) == Some(b"sftp") => self.needs(Capability::Sftp),
            b"subsystem" => self.needs(Capability::Exec),
            b"pty-req" if !self.grant.allows_pty() => Err("the operator's key does not allow a pty"),
            b"auth-agent-req@openssh.com" => {
                self.needs(Capability::Agent)?;
                self.asked.agent = true;
                Ok(())
            }
            b"x11-req" => {
                self.needs(Capability::X11)?;
                self.asked.x11 = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn global_request(&mut self, name: &[u8]) -> Permission {
        let asked = match name {
            b"tcpip-forward" => &mut self.asked.tcpip_forward,
            b"streamlocal-forward@openssh.com" => &mut self.asked.streamlocal_forward,
            _ => return Ok(()),
        };
        *asked |= self.grant.allows(Capability::ForwardRemote);
        self.needs(Capability::ForwardRemote)
    }
}

/// `hostkeys-00@openssh.com` speaks of keys that the operator must not learn; OpenSSH sends it without wanting a reply. With one it is
/// renamed, so that the reply still comes in order.
fn global_request_down(message: &mut [u8]) -> Verdict {
    let Some((at, b"hostkeys-00@openssh.com")) = named(message, 1) else { return Verdict::Pass };
    let wants_reply = message.get(at + b"hostkeys-00@openssh.com".len()).is_some_and(|byte| *byte != 0);
    if !wants_reply {
        return Verdict::Drop;
    }
    if let Some(first) = message.get_mut(at) {
        *first = b'!';
    }
    Verdict::Pass
}

/// The string whose length field is at `at`, and where its first byte is. `None` when it is empty or not all there.
fn named(message: &[u8], at: usize) -> Option<(usize, &[u8])> {
    let name = Reader::new(message.get(at..)?).string().ok()?;
    (!name.is_empty()).then_some((at + 4, name))
}

/// The name in a `subsystem` request (RFC 4254, 6.5).
fn subsystem(message: &[u8]) -> Option<&[u8]> {
    let mut reader = Reader::new(message.get(5..)?);
    reader.string().ok()?;
    reader.bool().ok()?;
    reader.string().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::access::{
        FleetId, GrantRule, InstanceId, Operator, OperatorName, OperatorPattern, Policy, Restrictions, Target, TargetPattern,
    };
    use crate::transport::wire::{put_string, put_u32};

    pub(in crate::splice) fn grant(allow: &[Capability]) -> Grant {
        let allow = allow.iter().copied().collect::<Capabilities>();
        let rule = GrantRule::new(vec![OperatorPattern::Anyone], vec![TargetPattern::parse("ins-*").unwrap()], allow);
        let operator = Operator {
            name: OperatorName::parse("alice").unwrap(),
            key: "SHA256:x".into(),
            source: "192.0.2.1:1".parse().unwrap(),
            restrictions: Restrictions::default(),
        };
        let target = Target { fleet: FleetId::parse("fleet-a").unwrap(), instance: InstanceId::parse("ins-a").unwrap() };
        Policy::new(Default::default(), vec![rule]).unwrap().decide(&operator, &target, std::time::UNIX_EPOCH).unwrap()
    }

    pub(in crate::splice) fn open(kind: &str) -> Vec<u8> {
        let mut message = vec![msg::CHANNEL_OPEN];
        put_string(&mut message, kind.as_bytes());
        message.extend_from_slice(&[0; 12]);
        message
    }

    pub(in crate::splice) fn request(name: &str, rest: &[u8]) -> Vec<u8> {
        let mut message = vec![msg::CHANNEL_REQUEST];
        put_u32(&mut message, 0);
        put_string(&mut message, name.as_bytes());
        message.push(1);
        put_string(&mut message, rest);
        message
    }

    fn global(name: &str, want_reply: u8) -> Vec<u8> {
        let mut message = vec![msg::GLOBAL_REQUEST];
        put_string(&mut message, name.as_bytes());
        message.push(want_reply);
        message
    }

    fn passes(gate: &mut Gate, direction: Direction, message: &[u8]) -> bool {
        let mut judged = message.to_vec();
        let verdict = gate.judge(direction, &mut judged);
        let renamed = judged != message;
        assert_eq!(matches!(verdict, Verdict::Refused(_)), renamed);
        if renamed {
            let changed: Vec<_> = judged.iter().zip(message).filter(|(a, b)| a != b).collect();
            assert_eq!((changed.len(), *changed[0].0), (1, b'!'));
        }
        !renamed
    }

    #[test]
    fn each_capability_opens_its_own_door_and_no_other() {
        use Capability::*;
        let asks = [
            (Shell, request("shell", b"")),
            (Exec, request("exec", b"id")),
            (Sftp, request("subsystem", b"sftp")),
            (Exec, request("subsystem", b"netconf")),
            (ForwardLocal, open("direct-tcpip")),
            (ForwardLocal, open("direct-streamlocal@openssh.com")),
            (ForwardRemote, global("tcpip-forward", 1)),
            (ForwardRemote, global("streamlocal-forward@openssh.com", 1)),
            (Agent, request("auth-agent-req@openssh.com", b"")),
            (X11, request("x11-req", b"")),
        ];
        for capability in Capability::ALL {
            let mut gate = Gate::new(grant(&[capability]));
            for (needed, ask) in &asks {
                assert_eq!(passes(&mut gate, Direction::Up, ask), *needed == capability, "{needed:?} under {capability:?}");
            }
            assert!(!passes(&mut gate, Direction::Up, &open("tun@openssh.com")));
            assert!(passes(&mut gate, Direction::Up, &open("session")));
            assert!(passes(&mut gate, Direction::Up, &request("window-change", b"")));
        }
    }

    #[test]
    fn an_instance_opens_nothing_that_was_not_asked_for() {
        let mut gate = Gate::new(grant(&Capability::ALL));
        let kinds = [
            ("forwarded-tcpip", global("tcpip-forward", 1)),
            ("forwarded-streamlocal@openssh.com", global("streamlocal-forward@openssh.com", 1)),
            ("auth-agent@openssh.com", request("auth-agent-req@openssh.com", b"")),
            ("x11", request("x11-req", b"")),
        ];
        for (kind, ask) in kinds {
            assert!(!passes(&mut gate, Direction::Down, &open(kind)), "{kind}");
            assert!(passes(&mut gate, Direction::Up, &ask));
            assert!(passes(&mut gate, Direction::Down, &open(kind)), "{kind}");
        }
        assert!(!passes(&mut gate, Direction::Down, &open("session")));
        let mut refused = Gate::new(grant(&[]));
        assert!(!passes(&mut refused, Direction::Up, &global("tcpip-forward", 1)));
        assert!(!passes(&mut refused, Direction::Down, &open("forwarded-tcpip")));
    }

    #[test]
    fn the_instances_other_keys_stay_with_the_instance() {
        let mut gate = Gate::new(grant(&Capability::ALL));
        assert_eq!(gate.judge(Direction::Down, &mut global("hostkeys-00@openssh.com", 0)), Verdict::Drop);
        let mut with_reply = global("hostkeys-00@openssh.com", 1);
        assert_eq!(gate.judge(Direction::Down, &mut with_reply), Verdict::Pass);
        assert_eq!(with_reply.get(5), Some(&b'!'));
        assert_eq!(gate.judge(Direction::Down, &mut global("keepalive@openssh.com", 1)), Verdict::Pass);
        assert_eq!(gate.judge(Direction::Up, &mut [50, 0, 0]), Verdict::Drop);
        assert_eq!(gate.judge(Direction::Up, &mut [192, 0, 0]), Verdict::Pass);
    }

    #[test]
    fn short_messages_pass_to_the_peer_that_refuses_them() {
        let mut gate = Gate::new(grant(&[]));
        for message in [&[][..], &[90], &[98, 0, 0], &[90, 0, 0, 0, 0], &[98, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1], &[80, 0, 0, 0, 9, 1]]
        {
            assert_eq!(gate.judge(Direction::Up, &mut message.to_vec()), Verdict::Pass);
        }
    }
}
