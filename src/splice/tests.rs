//! The splice keeps order, proven by properties: two peers of our own with legs of their own play random scripts at each other through a
//! running [`Splice`], under any grant: channels opened, refused, used, closed and their numbers used again; requests of both kinds in
//! both directions, with and without replies; data within windows; new keys asked for by either peer, on either leg and by the splice's
//! own clock, also at once; notices from outside; waits that are cancelled and begun anew, peers that take nothing for a while, streams
//! that give and take a few bytes at a time or none.
//!
//! Each peer must receive exactly what the other one sent, in that order, each message once: byte for byte but for what the gate refused,
//! which is told apart here by the grant alone. So replies come in the order asked, the gate's own failures in their place among them.
//! Neither peer may ever receive what does not fit the protocol: a reply to nothing, data beyond its window, a notice without a terminal.
//!
//! The scripts are few in every run; `PROPTEST_CASES=5000 cargo nextest run splice::tests` plays more.

mod choppy;
mod peer;

use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use ssh_key::PrivateKey;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, duplex};
use tokio::time::Instant;

use self::choppy::Choppy;
use self::peer::{Action, Log, NOTICE, Peer, Side, UNKNOWN, action};
use super::gate::tests::grant;
use super::{Direction, Ended, Gate, Limits, Orders, Splice};
use crate::access::Capability;
use crate::audit::{Audit, Subject};
use crate::fuzzing::few_cases;
use crate::transport::wire::{Reader, put_string, put_u32};
use crate::transport::{Connection, HostIdentity, KeyLimits, Leg, Preferences, msg};

/// When everything that can still happen has happened: the clock stands while anything moves.
const END: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
struct Play {
    allowed: Vec<Capability>,
    operator: Vec<Action>,
    instance: Vec<Action>,
    chops: [Vec<usize>; 2],
    /// Bytes that each stream holds.
    room: usize,
    rekey_interval: Duration,
}

fn play() -> impl Strategy<Value = Play> {
    let chops = || {
        prop::collection::vec(prop_oneof![Just(0), Just(1), Just(7), Just(1500), Just(20_000)], 0..5).prop_map(|mut chops| {
            chops.push(1 << 20);
            chops
        })
    };
    let script = || prop::collection::vec(action(), 0..100);
    // Half of the operators have a terminal from the beginning.
    let operators = (any::<bool>(), script()).prop_map(|(has_terminal, script)| match has_terminal {
        true => terminal().into_iter().chain(script).collect(),
        false => script,
    });
    let allowed = prop::sample::subsequence(
        [Capability::Shell, Capability::Exec, Capability::Sftp, Capability::ForwardLocal, Capability::ForwardRemote, Capability::Agent]
            .into_iter()
            .chain([Capability::Any])
            .collect::<Vec<_>>(),
        0..=7,
    );
    let room = prop_oneof![Just(600), Just(10_000), Just(256 * 1024)];
    let interval = prop_oneof![Just(Duration::from_secs(1)), Just(Duration::from_secs(3600))];
    (allowed, operators, script(), [chops(), chops()], room, interval).prop_map(
        |(allowed, operator, instance, chops, room, rekey_interval)| Play { allowed, operator, instance, chops, room, rekey_interval },
    )
}

fn terminal() -> [Action; 5] {
    [
        Action::Open { kind: 0, window: 20_000 },
        Action::Read { most: 2 },
        Action::Ask { channel: 0, name: 0, wants_reply: true },
        Action::Ask { channel: 0, name: 1, wants_reply: true },
        Action::Read { most: 4 },
    ]
}

type End = Connection<Choppy<DuplexStream>>;

/// Two ends of a leg whose operator is let in: the client's, the server's.
pub(super) async fn leg_over<S: AsyncRead + AsyncWrite + Unpin>(left: S, right: S) -> (Connection<S>, Connection<S>) {
    let key = Arc::new(PrivateKey::from(ssh_key::private::Ed25519Keypair::from_seed(&[7; 32])));
    let mut client = Connection::new(Leg::client(Preferences::modern(), "SSH-2.0-a").unwrap(), left);
    let mut server = Connection::new(Leg::server(Preferences::modern(), HostIdentity::new(key, None), "SSH-2.0-b"), right);
    // Behind the keys stands what each end understands; the last word before the session is the server's.
    let lets_in = async {
        server.establish().await?;
        server.leg.send(&[msg::USERAUTH_SUCCESS])?;
        server.drain().await
    };
    let (success, let_in) = tokio::join!(client.next(), lets_in);
    let_in.unwrap();
    assert_eq!(success.unwrap(), [msg::USERAUTH_SUCCESS]);
    (client, server)
}

async fn leg(chops: &[usize], room: usize) -> (End, End) {
    let (left, right) = duplex(room);
    leg_over(Choppy::new(left, chops), Choppy::new(right, chops)).await
}

async fn run(play: Play) -> (Log, Log, Ended) {
    let (operator, downstream) = leg(&play.chops[0], play.room).await;
    let (upstream, instance) = leg(&play.chops[1], play.room).await;
    let (audit, _writer) = Audit::with_sink(Box::new(std::io::sink()), 10_000);
    let orders = Orders::default();
    let keys = KeyLimits { rekey_interval: play.rekey_interval, ..KeyLimits::default() };
    let limits = Limits { keys, ..Limits::default() };
    let splice = Splice::new(downstream, upstream, Gate::new(grant(&play.allowed)), audit, Subject::default(), limits);
    let splice = tokio::spawn(splice.with_orders(orders.clone()).run());
    let end = Instant::now() + END;
    let operator = Peer::new(Side::Operator, operator, orders.clone()).play(play.operator, end);
    let instance = Peer::new(Side::Instance, instance, orders).play(play.instance, end);
    let (operator, instance) = tokio::join!(operator, instance);
    let (operator, connections) = operator.expect("the operator's side was ended");
    let instance = instance.expect("the instance's side was ended");
    drop((connections, instance.1));
    (operator, instance.0, splice.await.unwrap())
}

/// The name in a message that asks for something by name, and where it begins.
fn name(message: &[u8]) -> Option<(usize, &[u8])> {
    let at = match message[0] {
        msg::GLOBAL_REQUEST | msg::CHANNEL_OPEN => 1,
        msg::CHANNEL_REQUEST => 5,
        _ => return None,
    };
    Some((at + 4, Reader::new(&message[at..]).string().unwrap()))
}

fn wants_reply(message: &[u8]) -> bool {
    name(message).is_some_and(|(at, name)| message[0] != msg::CHANNEL_OPEN && message[at + name.len()] != 0)
}

/// Whether the other side may learn of it under its own name.
fn is_refused(allowed: &[Capability], direction: Direction, message: &[u8]) -> bool {
    use Capability::{Agent, Any, Exec, ForwardLocal, ForwardRemote, Sftp, Shell};
    let Some((_, name)) = name(message) else { return false };
    let needed = match (message[0], direction, name) {
        (msg::CHANNEL_OPEN, Direction::Up, b"direct-tcpip") => ForwardLocal,
        (msg::CHANNEL_OPEN, Direction::Up, b"tun@openssh.com") => Any,
        (msg::CHANNEL_OPEN, Direction::Down, name) => return name != b"forwarded-tcpip",
        (msg::CHANNEL_REQUEST, Direction::Up, b"shell") => Shell,
        (msg::CHANNEL_REQUEST, Direction::Up, b"exec") => Exec,
        (msg::CHANNEL_REQUEST, Direction::Up, b"subsystem") => Sftp,
        (msg::CHANNEL_REQUEST, Direction::Up, b"auth-agent-req@openssh.com") => Agent,
        (msg::GLOBAL_REQUEST, Direction::Up, b"tcpip-forward") => ForwardRemote,
        (msg::GLOBAL_REQUEST, Direction::Down, b"hostkeys-00@openssh.com") => return true,
        _ => return false,
    };
    !allowed.contains(&needed)
}

/// What the other side is to receive of a message; `None` when it is not for that side.
fn expected(allowed: &[Capability], direction: Direction, sent: &[u8]) -> Option<Vec<u8>> {
    let mut message = sent.to_vec();
    if is_refused(allowed, direction, sent) {
        if sent[0] == msg::GLOBAL_REQUEST && direction == Direction::Down && !wants_reply(sent) {
            return None;
        }
        message[name(sent)?.0] = b'!';
    }
    if sent[0] == msg::CHANNEL_OPEN_FAILURE && direction == Direction::Down {
        // What the instance did not know because the gate had refused it is told with the gate's reason.
        let reason = match Reader::new(&sent[9..]).string().unwrap().strip_prefix(UNKNOWN) {
            Some(b"!irect-tcpip") => "ssh-broker: the grant does not allow forward-local",
            Some(b"!un@openssh.com") => "ssh-broker: the grant does not allow channels of this type",
            _ => return Some(message),
        };
        message.truncate(5);
        put_u32(&mut message, 1);
        put_string(&mut message, reason.as_bytes());
        put_string(&mut message, b"");
    }
    Some(message)
}

/// The part of a message that says how large a window is, which reaches the instance less a reserve.
fn window(message: &[u8]) -> Option<std::ops::Range<usize>> {
    match message[0] {
        msg::CHANNEL_WINDOW_ADJUST => Some(5..9),
        msg::CHANNEL_OPEN if &message[5..12] == b"session" => Some(16..20),
        _ => None,
    }
}

/// Takes the windows out of messages: without them, and what they grant in all.
fn without_windows(mut messages: Vec<Vec<u8>>) -> (Vec<Vec<u8>>, u64) {
    let mut granted = 0;
    for message in &mut messages {
        if let Some(range) = window(message) {
            granted += u64::from(Reader::new(&message[range.clone()]).u32().unwrap());
            message[range].fill(0);
        }
    }
    (messages, granted)
}

/// The bytes that a data message carries.
fn carried(message: &[u8]) -> &[u8] {
    match message[0] {
        msg::CHANNEL_DATA => &message[9..],
        msg::CHANNEL_EXTENDED_DATA => &message[13..],
        _ => &[],
    }
}

fn is_notice(message: &[u8]) -> bool {
    carried(message).starts_with(NOTICE)
}

/// Whether each global request with a reply that a side made was granted, as the replies say it in their order.
fn check_replies(log: &Log, is_granted: impl Fn(&[u8]) -> bool) -> Result<(), TestCaseError> {
    let requests = log.sent.iter().filter(|message| message[0] == msg::GLOBAL_REQUEST && wants_reply(message));
    let replies = log.received.iter().filter(|message| matches!(message[0], msg::REQUEST_SUCCESS | msg::REQUEST_FAILURE));
    let (asked, got): (Vec<bool>, Vec<bool>) =
        (requests.map(|message| is_granted(message)).collect(), replies.map(|message| message[0] == msg::REQUEST_SUCCESS).collect());
    prop_assert_eq!(asked, got);
    Ok(())
}

fn check(allowed: &[Capability], mut operator: Log, instance: Log, ended: &Ended) -> Result<(), TestCaseError> {
    for log in [&operator, &instance] {
        prop_assert!(log.wrong.is_empty(), "{:?}", log.wrong);
        prop_assert_eq!(log.unanswered, 0);
        check_replies(log, |message| {
            let direction = if std::ptr::eq(log, &operator) { Direction::Up } else { Direction::Down };
            name(message).is_some_and(|(_, name)| name != b"none@example.com") && !is_refused(allowed, direction, message)
        })?;
    }
    let carries = |log: &Log| log.sent.iter().map(|message| carried(message).len() as u64).sum::<u64>();
    prop_assert_eq!((ended.bytes_up, ended.bytes_down), (carries(&operator), carries(&instance)));

    let shown: u64 = operator.received.iter().filter(|message| is_notice(message)).map(|message| carried(message).len() as u64).sum();
    operator.received.retain(|message| !is_notice(message));
    let down: Vec<_> = instance.sent.iter().filter_map(|message| expected(allowed, Direction::Down, message)).collect();
    same(&down, &operator.received)?;

    let up: Vec<_> = operator.sent.iter().filter_map(|message| expected(allowed, Direction::Up, message)).collect();
    let sessions = up.iter().filter(|message| message[0] == msg::CHANNEL_OPEN && window(message).is_some()).count() as u64;
    let ((up, granted), (came, known)) = (without_windows(up), without_windows(instance.received));
    same(&up, &came)?;
    // Notices come out of the reserve, which is filled up again out of what is granted next.
    prop_assert!(known + shown <= granted && granted <= known + shown + 1024 * sessions, "{known} + {shown} of {granted}");
    Ok(())
}

/// The first difference alone: the whole of two sessions would be no help.
fn same(expected: &[Vec<u8>], came: &[Vec<u8>]) -> Result<(), TestCaseError> {
    let short = |message: Option<&Vec<u8>>| message.map(|message| String::from_utf8_lossy(&message[..message.len().min(60)]).into_owned());
    for at in 0..expected.len().max(came.len()) {
        let (expected, came) = (expected.get(at), came.get(at));
        prop_assert!(expected == came, "message {at}: {:?} came instead of {:?}", short(came), short(expected));
    }
    Ok(())
}

proptest! {
    #![proptest_config(few_cases(64))]

    #[test]
    fn each_side_receives_what_is_permitted_in_its_order_and_once(play in play()) {
        let allowed = play.allowed.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let (operator, instance, ended) = runtime.block_on(run(play));
        check(&allowed, operator, instance, &ended)?;
    }
}
