use std::cell::RefCell;
use std::sync::Arc;

use ssh_key::PrivateKey;
use ssh_key::private::{Ed25519Keypair, KeypairData};

use super::super::wire::{put_string, put_u32};
use super::super::{Buffer, ClientAuth, Credential, HostIdentity, Leg, Preferences, Received, ServerAuth, Step, TransportError, msg};
use crate::access::Secret;
use crate::fuzzing::Script;

const PASSWORD: &[u8] = b"correct horse battery staple";
/// Requests, answers to prompts and the ask for the service: more than this is an endless login.
const MOST_SENT: usize = 1 + 3 + 8;

pub(super) fn identity() -> HostIdentity {
    HostIdentity::new(Arc::new(PrivateKey::from(Ed25519Keypair::from_seed(&[7; 32]))), None)
}

/// Takes what has come to `to`, all of it, and gives its messages.
pub(crate) fn arrived(from: &mut Leg, to: &mut Leg) -> Vec<Vec<u8>> {
    to.received().put(from.outgoing().unsent());
    from.outgoing().sent(usize::MAX / 2);
    let (mut messages, mut into) = (Vec::new(), Buffer::default());
    loop {
        match to.receive(&mut into) {
            Ok(Received::NeedMore) | Err(_) => return messages,
            Ok(Received::Transport) => {}
            Ok(Received::Message { start, len }) => messages.push(into.since(start)[Leg::HEADER..Leg::HEADER + len].to_vec()),
        }
    }
}

/// Client and server, established; made once, as only their keys and the session's id are used.
pub(crate) fn with_pair(run: impl FnOnce(&mut Leg, &mut Leg)) {
    thread_local! {
        static PAIR: RefCell<Option<(Leg, Leg)>> = const { RefCell::new(None) };
    }
    PAIR.with_borrow_mut(|pair| {
        let (client, server) = pair.get_or_insert_with(|| {
            let mut client = Leg::client(Preferences::modern(), "SSH-2.0-a").unwrap();
            let mut server = Leg::server(Preferences::modern(), identity(), "SSH-2.0-b");
            while !client.is_established() || !server.is_established() {
                arrived(&mut client, &mut server);
                arrived(&mut server, &mut client);
            }
            (client, server)
        });
        run(client, server);
    });
}

fn put_chosen(message: &mut Vec<u8>, script: &mut Script<'_>, from: &[&[u8]]) {
    match script.choose(from) {
        Some(text) if !script.u8().is_multiple_of(8) => put_string(message, text),
        _ => put_string(message, script.short()),
    }
}

fn message_to_client(script: &mut Script<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    match script.below(7) {
        0 => {
            message.push(msg::SERVICE_ACCEPT);
            put_chosen(&mut message, script, &[b"ssh-userauth"]);
        }
        1 => {
            message.push(msg::USERAUTH_FAILURE);
            put_chosen(&mut message, script, &[b"publickey", b"password", b"keyboard-interactive", b"publickey,keyboard-interactive", b""]);
            message.push(script.u8() & 1);
        }
        2 => {
            message.push(msg::USERAUTH_60);
            (0..3).for_each(|_| put_string(&mut message, b""));
            let prompts = script.u8() & 3;
            put_u32(&mut message, u32::from(prompts));
            for _ in 0..prompts {
                put_string(&mut message, script.short());
                message.push(script.u8() & 1);
            }
        }
        3 => {
            message.push(msg::USERAUTH_BANNER);
            put_string(&mut message, script.short());
            put_string(&mut message, b"");
        }
        4 => message.push(msg::USERAUTH_SUCCESS),
        5 => message.extend_from_slice(script.short()),
        _ => message.extend_from_slice(script.long()),
    }
    message
}

fn credential(kind: usize) -> Credential {
    thread_local! {
        static RSA: PrivateKey = PrivateKey::from_openssh(include_str!("../../../fuzz/corpus/instance_secret/openssh-rsa")).unwrap();
    }
    match kind {
        0 => Credential::PrivateKey(Box::new(PrivateKey::from(Ed25519Keypair::from_seed(&[9; 32])))),
        1 => Credential::PrivateKey(Box::new(RSA.with(Clone::clone))),
        2 => Credential::PrivateKey(Box::new(PrivateKey::new(KeypairData::Ed25519(Ed25519Keypair::from_seed(&[8; 32])), "c").unwrap())),
        _ => Credential::Password(Secret::new(PASSWORD.to_vec())),
    }
}

/// A server's side of a login, any messages: the client ends, sends the password at most twice and a signature at most twice, and takes a
/// login for one that stands only on the server's word.
pub fn auth_client(data: &[u8]) {
    let mut script = Script::new(data);
    let credential = credential(script.below(8));
    with_pair(|client, server| {
        let mut ext_info = vec![msg::EXT_INFO];
        put_u32(&mut ext_info, 1);
        put_string(&mut ext_info, b"server-sig-algs");
        // The pair is used again: what an earlier input announced must not last.
        server.send_regardless(&[&ext_info[..], &[0; 4]].concat()).unwrap();
        put_chosen(&mut ext_info, &mut script, &[b"", b"rsa-sha2-256,rsa-sha2-512", b"rsa-sha2-256", b"ssh-rsa", b"rsa-sha2-512"]);
        server.send_regardless(&ext_info).unwrap();
        arrived(server, client);
        let Ok(mut auth) = ClientAuth::start(client, "ubuntu", &credential) else {
            arrived(client, server);
            return;
        };
        let mut sent = Vec::new();
        let mut is_accepted = false;
        while !script.is_over() {
            let message = message_to_client(&mut script);
            let result = auth.receive(client, &message);
            sent.extend(arrived(client, server));
            match result {
                Ok(false) => is_accepted |= message.first() == Some(&msg::SERVICE_ACCEPT),
                Ok(true) => {
                    assert!(is_accepted && message.first() == Some(&msg::USERAUTH_SUCCESS));
                    break;
                }
                Err(error) => {
                    let told = format!("{error} {error:?}");
                    // Unless the peer has guessed it.
                    let is_known = data.windows(5).any(|window| window == b"horse");
                    assert!((is_known || !told.contains("horse")) && told.len() < 16 * 1024);
                    break;
                }
            }
        }
        sent.extend(arrived(client, server));
        assert!(sent.len() <= MOST_SENT);
        let holds = |needle: &[u8]| sent.iter().filter(|message| message.windows(needle.len()).any(|w| w == needle)).count();
        assert!(holds(PASSWORD) <= 2 && holds(b"publickey") <= 2);
    });
}

fn message_to_server(script: &mut Script<'_>) -> Vec<u8> {
    let mut message = Vec::new();
    match script.below(4) {
        0 => {
            message.push(msg::SERVICE_REQUEST);
            put_chosen(&mut message, script, &[b"ssh-userauth", b"ssh-connection"]);
        }
        1 => {
            message.push(msg::USERAUTH_REQUEST);
            put_string(&mut message, script.short());
            put_chosen(&mut message, script, &[b"ssh-connection", b"ssh-connection", b"ssh-userauth"]);
            put_chosen(&mut message, script, &[b"none", b"publickey", b"publickey", b"password", b"hostbased"]);
            message.push(script.u8() & 1);
            put_string(&mut message, script.short());
            put_string(&mut message, script.short());
        }
        2 => message.extend_from_slice(script.short()),
        _ => message.extend_from_slice(script.long()),
    }
    message
}

/// A client's side of the inner login, any messages: nobody is let in who has not asked for the service, each message has one answer at
/// most, and the count of both is bounded.
pub fn auth_server(data: &[u8]) {
    let mut script = Script::new(data);
    with_pair(|client, server| {
        let mut auth = ServerAuth::default();
        let (mut is_accepted, mut taken, mut answers) = (false, 0, Vec::new());
        while !script.is_over() {
            let message = message_to_server(&mut script);
            let before = answers.len();
            let result = auth.receive(server, &message);
            answers.extend(arrived(server, client));
            match result {
                Ok(Step::Continue) => {
                    assert!(answers.len() == before + 1 && matches!(answers[before][0], msg::SERVICE_ACCEPT | msg::USERAUTH_60));
                    is_accepted |= answers[before][0] == msg::SERVICE_ACCEPT;
                    assert!(is_accepted);
                }
                Ok(Step::Requested) => assert!(is_accepted && answers.len() == before && message[0] == msg::USERAUTH_REQUEST),
                Err(TransportError::Misbehaved(_)) => {
                    assert!(answers.len() == before);
                    break;
                }
                Err(other) => assert!(other.to_string().is_empty(), "{other}"),
            }
            taken += 1;
            assert!(taken <= 64);
        }
    });
}
