//! Fuzz target of gate and tap; see [`crate::fuzzing`].
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a fuzz target tells what it found by a panic")]

use super::{Direction, Gate, Tap, Verdict};
use crate::access::{
    Capabilities, Capability, FleetId, Grant, GrantRule, InstanceId, Operator, OperatorName, OperatorPattern, Policy, Restrictions, Target,
    TargetPattern,
};
use crate::audit::Text;
use crate::fuzzing::Script;
use crate::transport::msg;
use crate::transport::wire::{Reader, put_string, put_u32};

const CHANNELS: [&[u8]; 12] = [
    b"session",
    b"direct-tcpip",
    b"direct-streamlocal@openssh.com",
    b"forwarded-tcpip",
    b"forwarded-streamlocal@openssh.com",
    b"auth-agent@openssh.com",
    b"x11",
    b"tun@openssh.com",
    b"!ession",
    b"!irect-tcpip",
    b"d",
    b"",
];
const REQUESTS: [&[u8]; 13] = [
    b"shell",
    b"exec",
    b"subsystem",
    b"pty-req",
    b"auth-agent-req@openssh.com",
    b"x11-req",
    b"env",
    b"window-change",
    b"exit-status",
    b"exit-signal",
    b"!xec",
    b"eow@openssh.com",
    b"",
];
const GLOBALS: [&[u8]; 6] = [
    b"tcpip-forward",
    b"streamlocal-forward@openssh.com",
    b"cancel-tcpip-forward",
    b"hostkeys-00@openssh.com",
    b"keepalive@openssh.com",
    b"",
];

/// A refusal is told on each terminal there can be, and once beside them.
const MAX_WORDS: usize = 10;

fn grant(script: &mut Script<'_>) -> Option<Grant> {
    let (bits, more, no_pty) = (script.u8(), script.u8(), script.u8() & 1 == 1);
    let bits = u16::from_be_bytes([more, bits]);
    let allow: Capabilities = Capability::ALL.into_iter().enumerate().filter(|(i, _)| bits >> i & 1 == 1).map(|(_, one)| one).collect();
    let rule = GrantRule::new(vec![OperatorPattern::Anyone], vec![TargetPattern::parse("ins-*").unwrap()], allow);
    let operator = Operator {
        name: OperatorName::parse("alice").unwrap(),
        key: "SHA256:x".into(),
        source: "192.0.2.1:1".parse().unwrap(),
        restrictions: Restrictions { no_pty, ..Restrictions::default() },
    };
    let target = Target { fleet: FleetId::parse("fleet-a").unwrap(), instance: InstanceId::parse("ins-a").unwrap() };
    Policy::new(Default::default(), vec![rule]).unwrap().decide(&operator, &target, std::time::UNIX_EPOCH).ok()
}

fn put_one_of(message: &mut Vec<u8>, script: &mut Script<'_>, from: &[&[u8]]) {
    put_string(message, script.choose(from).unwrap());
}

/// Few numbers, so that messages meet.
fn put_number(message: &mut Vec<u8>, script: &mut Script<'_>) {
    let number = script.u8();
    put_u32(message, if number == 0xff { u32::MAX } else { u32::from(number & 7) });
}

fn any_message(script: &mut Script<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    match script.below(9) {
        0 => {
            message.push(msg::CHANNEL_OPEN);
            put_one_of(&mut message, script, &CHANNELS);
            (0..3).for_each(|_| put_number(&mut message, script));
            put_string(&mut message, script.short());
            put_number(&mut message, script);
            message.extend_from_slice(script.short());
        }
        1 => {
            message.push(msg::CHANNEL_OPEN_CONFIRMATION);
            (0..4).for_each(|_| put_number(&mut message, script));
        }
        2 => {
            message.push(msg::CHANNEL_OPEN_FAILURE);
            (0..2).for_each(|_| put_number(&mut message, script));
            put_string(&mut message, script.short());
        }
        3 | 4 => {
            message.push(msg::CHANNEL_REQUEST);
            put_number(&mut message, script);
            put_one_of(&mut message, script, &REQUESTS);
            message.push(script.u8() & 1);
            match script.below(4) {
                0 => put_string(&mut message, b"sftp"),
                1 => put_string(&mut message, script.short()),
                2 => put_number(&mut message, script),
                _ => message.extend_from_slice(script.short()),
            }
        }
        5 => {
            message.push(msg::GLOBAL_REQUEST);
            put_one_of(&mut message, script, &GLOBALS);
            message.extend_from_slice(script.short());
        }
        6 => {
            message.push(msg::CHANNEL_WINDOW_ADJUST + (script.u8() & 7));
            put_number(&mut message, script);
            put_string(&mut message, script.short());
        }
        7 => message.extend_from_slice(script.short()),
        _ => message.extend_from_slice(script.long()),
    }
    message
}

/// What a message asks for, read apart from the gate's own reading: whether the grant lets it pass.
fn is_allowed(grant: &Grant, direction: Direction, message: &[u8]) -> bool {
    let mut reader = Reader::new(message);
    let (Ok(number), true) = (reader.u8(), direction == Direction::Up) else { return true };
    if number == msg::CHANNEL_REQUEST && reader.u32().is_err() {
        return true;
    }
    let Ok(name) = reader.string() else { return true };
    let needed = match (number, name) {
        (msg::CHANNEL_OPEN, b"direct-tcpip" | b"direct-streamlocal@openssh.com") => Capability::ForwardLocal,
        (msg::CHANNEL_OPEN, b"session" | b"") => return true,
        (msg::CHANNEL_OPEN, other) => return other.starts_with(b"!") || grant.allows(Capability::Any),
        (msg::CHANNEL_REQUEST, b"shell") => Capability::Shell,
        (msg::CHANNEL_REQUEST, b"exec") => Capability::Exec,
        (msg::CHANNEL_REQUEST, b"subsystem") => match (reader.u8(), reader.string()) {
            (Ok(_), Ok(b"sftp")) => Capability::Sftp,
            _ => Capability::Exec,
        },
        (msg::CHANNEL_REQUEST, b"auth-agent-req@openssh.com") => Capability::Agent,
        (msg::CHANNEL_REQUEST, b"x11-req") => Capability::X11,
        (msg::CHANNEL_REQUEST, b"pty-req") => return grant.allows_pty(),
        (msg::GLOBAL_REQUEST, b"tcpip-forward" | b"streamlocal-forward@openssh.com") => Capability::ForwardRemote,
        _ => return true,
    };
    grant.allows(needed)
}

/// Where a message may be changed on its way: the first letter of a name that is refused; what the instance learns of a window; the bytes
/// of a forward in which SSH is not allowed.
fn may_change(grant: &Grant, direction: Direction, came: &[u8], at: usize, became: u8) -> bool {
    let number = came.first().copied().unwrap_or_default();
    let window = match (number, direction) {
        (msg::CHANNEL_OPEN, Direction::Up) if came.get(5..12) == Some(b"session") => 16..20,
        (msg::CHANNEL_WINDOW_ADJUST, Direction::Up) => 5..9,
        _ => 0..0,
    };
    match number {
        msg::CHANNEL_DATA | msg::CHANNEL_EXTENDED_DATA => at >= 9 && !grant.allows(Capability::NestedSsh),
        _ => window.contains(&at) || (became == b'!' && at >= 5),
    }
}

/// Any messages in both directions: one that passes is as it came but where [`may_change`] says; nothing passes that the grant does not
/// allow; the tables name only channels that are there, and each message tells the audit and the operator little.
pub fn splice(data: &[u8]) {
    let mut script = Script::new(data);
    let Some(granted) = grant(&mut script) else { return };
    let (mut gate, mut tap) = (Gate::new(granted.clone()), Tap::default());
    let mut carried = 0;
    while !script.is_over() {
        let direction = if script.u8() & 1 == 0 { Direction::Up } else { Direction::Down };
        let came = any_message(&mut script);
        let mut message = came.clone();
        let verdict = gate.judge(direction, &mut message);
        let changed: Vec<usize> = (0..came.len()).filter(|at| came[*at] != message[*at]).collect();
        assert!(message.len() == came.len());
        assert!(changed.iter().all(|at| may_change(&granted, direction, &came, *at, message[*at])));
        let refusal = match &verdict {
            Verdict::Drop => {
                assert!(changed.is_empty() && message[0] <= msg::GLOBAL_REQUEST);
                continue;
            }
            Verdict::Misbehaved(_) => {
                assert!(direction == Direction::Down && message[0] == msg::CHANNEL_OPEN_CONFIRMATION);
                break;
            }
            Verdict::Replaced(instead) => {
                assert!(changed.is_empty() && message[0] == msg::CHANNEL_OPEN_FAILURE && instead[..5] == message[..5]);
                None
            }
            Verdict::Refused(refusal) => Some(refusal),
            Verdict::Pass | Verdict::Marked(_) => None,
        };
        assert!(message.first().is_none_or(|number| *number >= msg::FIRST_CONNECTION));
        assert!(is_allowed(&granted, direction, &message));
        carried += message.len() as u64;
        if tap.observe(direction, &message, refusal).is_err() {
            break;
        }
        assert!(gate.words().count() <= MAX_WORDS && gate.is_bounded());
        assert!(tap.is_bounded() && tap.events.len() <= 2);
        for event in tap.events.drain(..) {
            let line = serde_json::to_string(&event).unwrap();
            assert!(!line.contains('\n') && line.len() < 3 * 6 * Text::MAX_LEN + 1024);
        }
    }
    tap.end();
    assert!(tap.is_bounded() && tap.bytes_up + tap.bytes_down <= carried);
}
