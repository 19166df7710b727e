use ssh_key::PrivateKey;

use super::*;

fn identity() -> HostIdentity {
    let key = ssh_key::private::Ed25519Keypair::from_seed(&[7; 32]);
    HostIdentity::new(Arc::new(PrivateKey::from(key)), None)
}

/// Carries bytes both ways until nothing moves; gives the messages that each side received.
fn settle(client: &mut Leg, server: &mut Leg) -> Result<[Vec<Vec<u8>>; 2], TransportError> {
    let mut messages = [Vec::new(), Vec::new()];
    loop {
        let mut moved = false;
        for (side, got) in messages.iter_mut().enumerate() {
            let (from, to) = if side == 0 { (&mut *client, &mut *server) } else { (&mut *server, &mut *client) };
            let bytes = from.outgoing().unsent().to_vec();
            from.outgoing().sent(bytes.len());
            to.received().put(&bytes);
            let mut into = Buffer::default();
            loop {
                match to.receive(&mut into)? {
                    Received::NeedMore => break,
                    Received::Transport => {}
                    Received::Message { start, len } => got.push(payload(into.since(start), len).to_vec()),
                }
            }
            moved |= !bytes.is_empty();
        }
        if !moved {
            return Ok(messages);
        }
    }
}

fn pair(edit: impl Fn(&mut Preferences)) -> (Leg, Leg) {
    let mut preferences = Preferences::modern();
    edit(&mut preferences);
    let client = Leg::client(preferences, "SSH-2.0-a").unwrap();
    (client, Leg::server(Preferences { gcm_alone: true, ..Preferences::modern() }, identity(), "SSH-2.0-b"))
}

#[test]
fn every_algorithm_establishes_and_carries() {
    let modern = Preferences::modern();
    for kex in &modern.kex {
        for (cipher, mac) in [("aes256-gcm@openssh.com", ""), ("chacha20-poly1305@openssh.com", ""), ("aes192-ctr", "hmac-sha2-512")] {
            let (mut client, mut server) = pair(|p| {
                p.kex = vec![kex];
                p.ciphers = vec![cipher];
                p.macs = vec![mac];
            });
            settle(&mut client, &mut server).unwrap();
            assert!(client.is_established() && server.is_established(), "{kex} {cipher}");
            assert_eq!(client.session_id(), server.session_id());
            client.send(&[80, 1]).unwrap();
            server.send(&[80, 2]).unwrap();
            assert_eq!(settle(&mut client, &mut server).unwrap(), [vec![vec![80, 1]], vec![vec![80, 2]]]);
            assert!(server.negotiated().unwrap().describe().contains(cipher));
        }
    }
}

#[test]
fn a_server_agrees_on_nothing_legacy_whatever_it_is_given() {
    use crate::transport::preferences::{LEGACY_CIPHERS, LEGACY_KEX, LEGACY_MACS};
    let refused = |edit: &dyn Fn(&mut Preferences)| {
        let mut client = Preferences::with_legacy();
        edit(&mut client);
        let mut client = Leg::client(client, "SSH-2.0-a").unwrap();
        let mut server = Leg::server(Preferences::with_legacy(), identity(), "SSH-2.0-b");
        assert!(matches!(settle(&mut client, &mut server), Err(TransportError::NoCommon { .. })));
        assert!(!server.is_established() && server.weak().is_empty());
    };
    LEGACY_KEX.iter().for_each(|name| refused(&|p| p.kex = vec![name]));
    LEGACY_CIPHERS.iter().for_each(|name| refused(&|p| p.ciphers = vec![name]));
    LEGACY_MACS.iter().for_each(|name| {
        refused(&|p| {
            p.ciphers = vec!["aes128-ctr"];
            p.macs = vec![name];
        });
    });
    refused(&|p| p.host_key = vec!["ssh-rsa"]);
}

#[test]
fn a_patient_client_offers_after_the_server_or_when_told_to() {
    let server = || Leg::server(Preferences::modern(), identity(), "SSH-2.0-b");
    let (mut client, mut other) = (Leg::patient_client(Preferences::with_legacy(), "SSH-2.0-a"), server());
    assert_eq!(client.outgoing().unsent(), b"SSH-2.0-a\r\n");
    // Both wait.
    settle(&mut client, &mut other).unwrap();
    assert!(!client.is_exchanging() && !other.is_exchanging());
    other.start_kex().unwrap();
    settle(&mut client, &mut other).unwrap();
    assert!(client.is_established() && client.weak().is_empty() && !client.preferences.has_legacy());
    // A server that waits for ever.
    let (mut client, mut other) = (Leg::patient_client(Preferences::with_legacy(), "SSH-2.0-a"), server());
    settle(&mut client, &mut other).unwrap();
    client.drop_legacy();
    client.start_kex().unwrap();
    assert!(!client.preferences.has_legacy());
    settle(&mut client, &mut other).unwrap();
    assert!(client.is_established() && !client.may_sign_with_sha1());
}

#[test]
fn the_messages_of_a_group_exchange_have_their_turn() {
    let running = |message: &[u8]| {
        let (mut client, mut server) = pair(|_| {});
        let mut offer = Preferences::with_legacy();
        offer.kex = vec!["diffie-hellman-group-exchange-sha256"];
        client.preferences = Preferences::with_legacy();
        client.exchange = Exchange::Idle;
        let kexinit = KexInit::build(&offer, Role::Server, true).unwrap();
        server.outbound.put(&kexinit).unwrap();
        client.received().put(server.outgoing().unsent());
        let mut into = Buffer::default();
        client.receive(&mut into).unwrap();
        client.receive(&mut into).unwrap();
        client.take_transport(message)
    };
    let mut hostile = vec![msg::KEX_REPLY];
    put_string(&mut hostile, &[5]);
    put_string(&mut hostile, &[2]);
    for message in [&hostile[..], &[msg::GEX_REPLY, 0, 0, 0, 0], &[msg::NEWKEYS], &[msg::KEX_INIT], &[msg::KEX_REPLY]] {
        assert!(matches!(running(message), Err(TransportError::Misbehaved(_))), "{message:?}");
    }
    // A client that sends what only a server may.
    let (mut client, mut server) = pair(|_| {});
    settle(&mut client, &mut server).unwrap();
    assert!(server.take_transport(&[msg::GEX_REPLY, 0, 0, 0, 0]).is_err());
}

#[test]
fn a_client_that_has_aes_gcm_gets_nothing_else() {
    let (mut client, mut server) = pair(|p| p.ciphers = vec!["chacha20-poly1305@openssh.com", "aes128-ctr", "aes256-gcm@openssh.com"]);
    settle(&mut client, &mut server).unwrap();
    assert!(client.negotiated().unwrap().describe().contains("aes256-gcm"));
}

#[test]
fn messages_wait_while_both_sides_rekey_at_once_and_keep_their_order() {
    let (mut client, mut server) = pair(|_| {});
    settle(&mut client, &mut server).unwrap();
    for round in 0..20u8 {
        client.send(&[94, round, 0]).unwrap();
        client.start_kex().unwrap();
        server.start_kex().unwrap();
        client.send(&[94, round, 1]).unwrap();
        server.send(&[94, round, 2]).unwrap();
        assert!(client.holds() && server.holds());
        let expected = [vec![vec![94, round, 0], vec![94, round, 1]], vec![vec![94, round, 2]]];
        assert_eq!(settle(&mut client, &mut server).unwrap(), expected);
        assert!(!client.in_kex() && !server.in_kex());
    }
}

#[test]
fn what_is_held_is_bounded() {
    let (mut client, mut server) = pair(|_| {});
    settle(&mut client, &mut server).unwrap();
    client.start_kex().unwrap();
    let refused = (0..200).find_map(|_| client.send(&[94; 32_768]).err());
    assert!(matches!(refused, Some(TransportError::HeldTooMuch)));
}

#[test]
fn strict_key_exchange_is_enforced_before_and_after_kexinit() {
    // Before: an IGNORE in front of the KEXINIT.
    let (mut client, mut server) = pair(|_| {});
    let hello = client.outgoing().unsent().to_vec();
    let line = hello.iter().position(|byte| *byte == b'\n').unwrap() + 1;
    let mut ignore = Outbound::new();
    ignore.put(&[msg::IGNORE, 0, 0, 0, 0]).unwrap();
    let slipped = [&hello[..line], ignore.buffer.unsent(), &hello[line..]].concat();
    server.received().put(&slipped);
    let mut into = Buffer::default();
    let result = (0..3).try_for_each(|_| server.receive(&mut into).map(drop));
    assert!(matches!(result, Err(TransportError::Misbehaved(_))));
    // After: an IGNORE behind it.
    let (_, mut server) = pair(|_| {});
    server.received().put(&[&hello[..], ignore.buffer.unsent()].concat());
    let result = (0..3).try_for_each(|_| server.receive(&mut into).map(drop));
    assert!(matches!(result, Err(TransportError::Misbehaved(_))));
}

#[test]
fn nothing_of_the_layers_above_passes_before_keys() {
    for message in [&[50u8, 0][..], &[80, 0], &[5, 0, 0, 0, 0]] {
        let (mut client, mut server) = pair(|_| {});
        let hello = client.outgoing().unsent().to_vec();
        let mut early = Outbound::new();
        early.put(message).unwrap();
        server.received().put(&[&hello[..], early.buffer.unsent()].concat());
        let mut into = Buffer::default();
        let result = (0..3).try_for_each(|_| server.receive(&mut into).map(drop));
        assert!(matches!(result, Err(TransportError::Misbehaved(_))));
        assert!(into.is_empty());
    }
}

#[test]
fn a_server_announces_that_it_answers_pings_and_does() {
    let (mut client, mut server) = pair(|_| {});
    settle(&mut client, &mut server).unwrap();
    assert!(client.answers_pings() && !server.answers_pings());
    server.answer_ping(b"\xc0\0\0\0\x01x").unwrap();
    // In the midst of new keys an answer waits for them.
    server.start_kex().unwrap();
    server.answer_ping(b"\xc0\0\0\0\x01y").unwrap();
    let [_, heard] = settle(&mut client, &mut server).unwrap();
    assert_eq!(heard, [b"\xc1\0\0\0\x01x".to_vec(), b"\xc1\0\0\0\x01y".to_vec()]);
    // What is not read is not answered without end.
    let ping = vec![msg::PING; 30_000];
    let answered = (0..1000).take_while(|_| server.answer_ping(&ping).is_ok()).count();
    assert!(answered > 0 && answered * ping.len() <= MAX_UNREAD + 2 * ping.len(), "{answered}");
}

#[test]
fn a_peer_that_reads_nothing_is_answered_only_so_far() {
    let (mut client, mut server) = pair(|_| {});
    settle(&mut client, &mut server).unwrap();
    let mut into = Buffer::default();
    let mut send_unknown = |server: &mut Leg| {
        client.outbound.put(&[9]).unwrap();
        let bytes = client.outgoing().unsent().to_vec();
        client.outgoing().sent(bytes.len());
        server.received().put(&bytes);
        server.receive(&mut into)
    };
    assert_eq!(send_unknown(&mut server).unwrap(), Received::Transport);
    server.outgoing().grow(MAX_UNREAD);
    assert!(matches!(send_unknown(&mut server), Err(TransportError::Misbehaved(_))));
}

#[test]
fn a_peer_that_may_not_have_new_keys_yet_gets_none() {
    for takes in [false, true] {
        let (mut client, mut server) = pair(|_| ());
        settle(&mut client, &mut server).unwrap();
        server.take_rekeys(takes);
        client.start_kex().unwrap();
        assert_eq!(settle(&mut client, &mut server).is_ok(), takes);
    }
}

#[test]
fn what_cannot_be_sealed_does_not_leave() {
    let (mut client, mut server) = pair(|_| ());
    settle(&mut client, &mut server).unwrap();
    server.wear_out();
    let out = server.outgoing();
    let start = out.tail();
    out.put(&[0; HEADER]);
    out.put(b"in the clear");
    assert!(server.forward(start, 12).is_err() && server.send(&[80, 1]).is_err());
    assert!(server.outgoing().is_empty());
}
