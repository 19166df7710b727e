use super::*;
use crate::access::{Destination, GrantRule, samples};
use crate::transport::wire::{put_string, put_u32};

pub(in crate::splice) fn grant(allow: &[Capability]) -> Grant {
    decide(GrantRule { allow: allow.iter().copied().collect(), ..samples::rule() })
}

fn decide(rule: GrantRule) -> Grant {
    samples::grant(rule, std::time::UNIX_EPOCH)
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
    assert_eq!(gate.words().count(), usize::from(renamed));
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
        assert_eq!(passes(&mut gate, Direction::Up, &open("tun@openssh.com")), capability == Any);
        assert_eq!(passes(&mut gate, Direction::Down, &open("new@example.com")), capability == Any);
        assert!(!passes(&mut gate, Direction::Down, &open("direct-tcpip")));
        assert!(passes(&mut gate, Direction::Up, &open("session")));
        assert!(passes(&mut gate, Direction::Up, &request("window-change", b"")));
    }
}

fn to(host: &str, port: u32) -> Vec<u8> {
    let mut message = vec![msg::CHANNEL_OPEN];
    put_string(&mut message, b"direct-tcpip");
    message.extend_from_slice(&[0; 12]);
    put_string(&mut message, host.as_bytes());
    put_u32(&mut message, port);
    put_string(&mut message, b"127.0.0.1");
    put_u32(&mut message, 1);
    message
}

fn to_socket(path: &str) -> Vec<u8> {
    let mut message = vec![msg::CHANNEL_OPEN];
    put_string(&mut message, b"direct-streamlocal@openssh.com");
    message.extend_from_slice(&[0; 12]);
    put_string(&mut message, path.as_bytes());
    put_string(&mut message, b"");
    put_u32(&mut message, 0);
    message
}

#[test]
fn forwards_go_where_the_grant_says_and_nowhere_else() {
    let allow = [Capability::ForwardLocal].into_iter().collect();
    let mut rule = GrantRule { allow, ..samples::rule() };
    let some = ["10.0.0.0/8:*", "localhost:8000-8100", "/run/*.sock"].map(|text| Destination::parse(text).unwrap());
    rule.forward_to = Some(some.to_vec());
    let mut gate = Gate::new(decide(rule));
    for (open, permitted) in [
        (to("10.1.2.3", 22), true),
        (to("localhost", 8000), true),
        (to("localhost", 8101), false),
        (to("11.1.2.3", 22), false),
        (to_socket("/run/x.sock"), true),
        (to_socket("/run/../x.sock"), false),
        (open("direct-tcpip"), false),
        (open("direct-streamlocal@openssh.com"), false),
    ] {
        assert_eq!(passes(&mut gate, Direction::Up, &open), permitted, "{}", String::from_utf8_lossy(&open));
    }
}

#[test]
fn the_failure_of_a_refused_open_tells_why_and_no_other_does() {
    let mut gate = Gate::new(grant(&[]));
    let mut failure = vec![msg::CHANNEL_OPEN_FAILURE];
    [0, 3].into_iter().for_each(|field| put_u32(&mut failure, field));
    put_string(&mut failure, b"open failed");
    assert_eq!(gate.judge(Direction::Down, &mut failure.clone()), Verdict::Pass);
    assert!(!passes(&mut gate, Direction::Up, &open("direct-tcpip")));
    let Verdict::Replaced(told) = gate.judge(Direction::Down, &mut failure.clone()) else { panic!("not told") };
    let mut expected = vec![msg::CHANNEL_OPEN_FAILURE, 0, 0, 0, 0, 0, 0, 0, 1];
    put_string(&mut expected, b"ssh-broker: the grant does not allow forward-local");
    put_string(&mut expected, b"");
    assert_eq!(told, expected);
    assert_eq!(gate.judge(Direction::Down, &mut failure), Verdict::Pass);
    // An instance that knows the name with the mark in it is up to no good.
    assert!(!passes(&mut gate, Direction::Up, &open("direct-tcpip")));
    let mut confirmation = vec![msg::CHANNEL_OPEN_CONFIRMATION];
    confirmation.extend_from_slice(&[0; 16]);
    assert!(matches!(gate.judge(Direction::Down, &mut confirmation), Verdict::Misbehaved(_)));
}

#[test]
fn ssh_inside_of_a_forward_needs_its_own_capability() {
    use Capability::{ForwardLocal, NestedSsh};
    for allow in [&[ForwardLocal][..], &[ForwardLocal, NestedSsh]] {
        let mut gate = Gate::new(grant(allow));
        assert!(passes(&mut gate, Direction::Up, &to("10.0.0.5", 22)));
        let mut confirmation = vec![msg::CHANNEL_OPEN_CONFIRMATION, 0, 0, 0, 0, 0, 0, 0, 9];
        confirmation.extend_from_slice(&[0; 8]);
        assert_eq!(gate.judge(Direction::Down, &mut confirmation), Verdict::Pass);
        let mut data = vec![msg::CHANNEL_DATA, 0, 0, 0, 0];
        put_string(&mut data, b"SSH-2.0-OpenSSH_9.2\r\n");
        match gate.judge(Direction::Down, &mut data) {
            Verdict::Refused(refusal) if allow.len() == 1 => {
                assert_eq!((refusal.kind.as_str(), refusal.what), ("nested-ssh", Some("10.0.0.5:22".into())));
                assert_eq!(gate.words().count(), 1);
            }
            Verdict::Marked(_) if allow.len() == 2 => {}
            other => panic!("{other:?}"),
        }
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
    for message in [&[][..], &[90], &[98, 0, 0], &[90, 0, 0, 0, 0], &[98, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1], &[80, 0, 0, 0, 9, 1]] {
        assert_eq!(gate.judge(Direction::Up, &mut message.to_vec()), Verdict::Pass);
    }
}
