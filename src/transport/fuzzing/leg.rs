use super::super::wire::{put_string, put_u32};
use super::super::{Buffer, KexInit, Leg, Preferences, Received, Role, TransportError, msg};
use super::SUITES;
use super::auth::identity;
use crate::fuzzing::Script;

/// Decisions a run; each may cost a key exchange.
const MAX_STEPS: usize = 48;
/// Bytes that one decision makes a leg send beyond what it was given: KEXINIT, reply, NEWKEYS and EXT_INFO.
const ANSWER: usize = 8 * 1024;

/// A leg in client role against a server of which only the bytes are known.
pub fn leg_client(data: &[u8]) {
    run(Role::Client, data);
}

/// A leg in server role against a client of which only the bytes are known.
pub fn leg_server(data: &[u8]) {
    run(Role::Server, data);
}

/// One end: a leg, and what it has received from the other.
struct End {
    leg: Leg,
    into: Buffer,
    got: Vec<Vec<u8>>,
    /// What the other end sent it, in order.
    expected: Vec<Vec<u8>>,
    error: Option<TransportError>,
}

impl End {
    fn new(leg: Leg) -> Self {
        Self { leg, into: Buffer::default(), got: Vec::new(), expected: Vec::new(), error: None }
    }

    /// Takes bytes from the peer. Each call of `receive` takes something in, or asks for more, or ends the leg.
    fn take(&mut self, bytes: &[u8]) {
        if self.error.is_some() {
            return;
        }
        self.leg.received().put(bytes);
        loop {
            let before = self.leg.received().len();
            match self.leg.receive(&mut self.into) {
                Ok(Received::NeedMore) => break,
                Ok(Received::Transport) => assert!(self.leg.received().len() < before),
                Ok(Received::Message { start, len }) => {
                    assert!(self.leg.received().len() < before && self.leg.is_established());
                    let message = self.into.since(start)[Leg::HEADER..Leg::HEADER + len].to_vec();
                    assert!(message[0] > msg::LAST_TRANSPORT || matches!(message[0], msg::SERVICE_REQUEST | msg::SERVICE_ACCEPT));
                    self.got.push(message);
                    self.into.truncate(start);
                }
                Err(error) => {
                    assert!(format!("{error} {error:?}").len() < 16 * 1024);
                    self.error = Some(error);
                    break;
                }
            }
        }
        assert!(self.into.is_empty());
    }

    fn sends(&mut self) -> Vec<u8> {
        let bytes = self.leg.outgoing().unsent().to_vec();
        self.leg.outgoing().sent(bytes.len());
        bytes
    }
}

fn run(role: Role, data: &[u8]) {
    let mut script = Script::new(data);
    match script.below(4) {
        0 => plain(role, script),
        1 => against_counterpart(role, script, false, data.len()),
        _ => against_counterpart(role, script, true, data.len()),
    }
}

/// The bytes as they are, from the first one on.
fn plain(role: Role, mut script: Script<'_>) {
    let mut end = End::new(match role {
        Role::Client => Leg::client(Preferences::modern(), "SSH-2.0-a").unwrap(),
        Role::Server => Leg::server(Preferences { gcm_alone: true, ..Preferences::modern() }, identity(), "SSH-2.0-b"),
    });
    let portion = [usize::MAX, 1, 5, 63, 1000][script.below(5)];
    let bytes = script.rest();
    for portion in bytes.chunks(portion) {
        end.take(portion);
        assert!(end.leg.waiting() <= ANSWER + 4 * bytes.len());
    }
    // Nobody without a private key gets a client past the first key exchange, and nobody without a secret brings a message to either.
    assert!(end.got.is_empty() && (role == Role::Server || !end.leg.is_established()));
}

fn preferences(script: &mut Script<'_>) -> Preferences {
    let (cipher, mac) = SUITES[script.below(SUITES.len())];
    let kex = [
        "curve25519-sha256",
        "curve25519-sha256@libssh.org",
        "ecdh-sha2-nistp256",
        "mlkem768x25519-sha256",
        "ecdh-sha2-nistp384",
        "ecdh-sha2-nistp521",
    ];
    let kex = vec![kex[script.below(kex.len())]];
    Preferences { kex, ciphers: vec![cipher], macs: vec![mac], ..Preferences::modern() }
}

/// A message of the transport layer or of any other, well formed or not.
fn any_message(script: &mut Script<'_>, role_of_sender: Role) -> Vec<u8> {
    let mut message = Vec::new();
    match script.below(8) {
        0 => message.push(msg::NEWKEYS),
        1 => {
            let (offer, first) = (preferences(script), script.u8() & 1 == 0);
            message = KexInit::build(&offer, role_of_sender, first).unwrap();
            // The guess that follows, and bytes behind.
            if let Some(byte) = message.iter_mut().rev().nth(4) {
                *byte = script.u8() & 1;
            }
            message.extend_from_slice(script.short());
        }
        2 => {
            message.push(msg::KEX_INIT + (script.u8() & 1));
            (0..3).for_each(|_| put_string(&mut message, script.short()));
        }
        3 => {
            message.push(msg::EXT_INFO);
            put_u32(&mut message, u32::from(script.u8() & 3));
            put_string(&mut message, b"server-sig-algs");
            put_string(&mut message, script.short());
        }
        4 => message.push(script.u8()),
        5 => {
            message.push(msg::DISCONNECT);
            put_u32(&mut message, 2);
            put_string(&mut message, script.short());
        }
        6 => message.extend_from_slice(script.short()),
        _ => message.extend_from_slice(script.long()),
    }
    message
}

/// The leg against a real one in the other role, whose packets are mixed with others and whose bytes are changed on their way. As long as
/// nothing was, everything comes, in order, whoever asks for new keys when.
fn against_counterpart(role: Role, mut script: Script<'_>, is_established: bool, size: usize) {
    let client = Leg::client(preferences(&mut script), "SSH-2.0-a").unwrap();
    let server = Leg::server(Preferences { gcm_alone: script.u8() & 1 == 1, ..Preferences::modern() }, identity(), "SSH-2.0-b");
    let (mut end, mut peer) = match role {
        Role::Client => (End::new(client), End::new(server)),
        Role::Server => (End::new(server), End::new(client)),
    };
    if is_established {
        settle(&mut end, &mut peer, Vec::new());
        assert!(end.leg.is_established() && peer.leg.is_established() && end.leg.session_id() == peer.leg.session_id());
    }
    let (mut is_honest, mut wire, mut forced) = (true, Vec::new(), Vec::new());
    let mut most = 2 * ANSWER + 4 * size;
    for _ in 0..MAX_STEPS {
        if script.is_over() || end.error.is_some() {
            break;
        }
        most += ANSWER;
        let step = script.below(12);
        is_honest &= step <= 5;
        match step {
            0 | 1 => {
                let (from, to) = if step == 0 { (&mut peer, &mut end) } else { (&mut end, &mut peer) };
                let mut message = vec![msg::FIRST_CONNECTION + script.u8() % 100];
                message.extend_from_slice(script.short());
                from.leg.send(&message).unwrap();
                to.expected.push(message);
            }
            2 => peer.leg.start_kex().unwrap(),
            3 => end.leg.start_kex().unwrap(),
            4 => {
                let n = script.u16();
                wire.extend(peer.sends());
                end.take(&wire.drain(..n.min(wire.len())).collect::<Vec<_>>());
            }
            5 => {
                let bytes = end.sends();
                peer.take(&bytes);
            }
            6 | 7 => {
                let message = any_message(&mut script, if role == Role::Client { Role::Server } else { Role::Client });
                peer.leg.send_regardless(&message).unwrap();
                forced.push(message);
            }
            8 => {
                wire.extend(peer.sends());
                let (at, with) = (script.u16(), script.u8());
                if let Some(byte) = wire.get_mut(at) {
                    *byte ^= with;
                }
            }
            9 => wire.extend_from_slice(script.short()),
            10 => {
                let (at, n) = (script.u16().min(wire.len()), usize::from(script.u8()));
                wire.drain(at..wire.len().min(at + n));
            }
            _ => {
                wire.extend(peer.sends());
                let (at, n) = (script.u16().min(wire.len()), usize::from(script.u8()));
                wire.extend_from_within(at..wire.len().min(at + n));
            }
        }
        assert!(!is_honest || (end.error.is_none() && peer.error.is_none()), "{:?} {:?}", end.error, peer.error);
        assert!(end.leg.waiting() <= most);
    }
    settle(&mut end, &mut peer, wire);
    if is_honest {
        assert!(end.error.is_none() && peer.error.is_none(), "{:?} {:?}", end.error, peer.error);
        assert!(!end.leg.in_kex() && !peer.leg.in_kex() && end.leg.waiting() == 0);
        assert!(end.got == end.expected && peer.got == peer.expected);
    }
    // Whatever was done to the bytes, nothing comes that the holder of the keys did not send.
    assert!(end.got.len() <= end.expected.len() + forced.len());
    assert!(end.got.iter().all(|message| end.expected.contains(message) || forced.contains(message)));
}

/// Carries bytes both ways until nothing moves.
fn settle(end: &mut End, peer: &mut End, wire: Vec<u8>) {
    let mut to_end = wire;
    for round in 0.. {
        assert!(round < 64, "two legs talk for ever");
        to_end.extend(peer.sends());
        let to_peer = end.sends();
        if to_end.is_empty() && to_peer.is_empty() {
            return;
        }
        end.take(&std::mem::take(&mut to_end));
        peer.take(&to_peer);
    }
}
