//! Fuzz targets of what the door reads; see [`crate::fuzzing`].
#![allow(clippy::unwrap_used, reason = "a fuzz target tells what it found by a panic")]

use std::net::IpAddr;
use std::task::{Context, Poll, Waker};

use futures_util::FutureExt;
use ssh_encoding::Decode;
use ssh_key::Certificate;
use tokio::io::ReadBuf;

use super::authorized_keys::parse_key;
use super::channels::{Channels, Event, HIGH_WATER};
use super::key_rules::acceptable_signature;
use super::userauth::{Method, Request};
use super::{AuthorizedKeys, certificate as certificates, proxy};
use crate::access::{OperatorName, Restrictions};
use crate::fuzzing::Script;
use crate::transport::fuzzing::{arrived, with_pair};
use crate::transport::wire::{put_string, put_u32};
use crate::transport::{TransportError, msg};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
const SOURCES: [&str; 4] = ["192.0.2.1", "198.51.100.7", "2001:db8::1", "::ffff:192.0.2.1"];
/// Seconds: the beginning, and 2033.
const TIMES: [i64; 2] = [0, 2_000_000_000];

fn operator() -> OperatorName {
    OperatorName::parse("alice").unwrap()
}

/// A file of keys: every line is an entry, a comment or a problem; a key that the text does not hold proves nobody.
pub fn authorized_keys(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (keys, problems) = AuthorizedKeys::parse(&text);
    let lines = text.lines().count();
    assert!(problems.len() <= lines && problems.is_sorted_by_key(|problem| problem.line));
    assert!(problems.iter().all(|problem| (1..=lines).contains(&problem.line) && !problem.text.is_empty()));
    let key = parse_key(KEY).unwrap();
    let material = KEY.split(' ').next_back().unwrap();
    for source in SOURCES {
        let source: IpAddr = source.parse().unwrap();
        for now in TIMES {
            let admitted = keys.admit_key(&key, source, now);
            assert!(admitted.is_err() || (keys.knows(&key) && text.contains(&material[..40])));
        }
    }
    let _ = keys.trusts_an_authority();
}

/// A certificate's blob, as the library has decoded it: one that is taken is a user's, signed, in its time, with principals.
pub fn certificate(data: &[u8]) {
    let Ok(certificate) = Certificate::decode(&mut &*data) else { return };
    let shown = certificates::describe(&certificate);
    assert!(shown.len() < 1024 && !shown.chars().any(char::is_control));
    let (keys, _) = AuthorizedKeys::parse(&format!("cert-authority,principals=\"ops\" {KEY}\n"));
    for source in SOURCES {
        let source: IpAddr = source.parse().unwrap();
        for now in TIMES {
            let taken: Result<Restrictions, String> = certificates::check(&certificate, source, now.unsigned_abs());
            assert!(taken.is_err() || (certificate.cert_type().is_user() && !certificate.valid_principals().is_empty()));
            assert!(taken.is_err() || certificate.verify_signature().is_ok());
            let _ = (keys.admit_certificate(&certificate, &operator(), source, now), certificates::names(&certificate, &operator()));
        }
    }
}

/// A balancer's header: what is taken has its signature, no header is longer than its bound, and what stands behind it is left there.
pub fn proxy_header(data: &[u8]) {
    let mut stream = data;
    // A slice is always ready.
    let Some(read) = proxy::read_header(&mut stream).now_or_never() else { return };
    let taken = data.len() - stream.len();
    assert!(taken <= 16 + 2048);
    if read.is_ok() {
        assert!(
            data.starts_with(b"\r\n\r\n\0\r\nQUIT\n") && data.get(14..16).is_some_and(|len| len == ((taken - 16) as u16).to_be_bytes())
        );
    }
}

/// A request to be let in: no proof counts for a session and for another one too, and none whose algorithm is not its key's.
pub fn login_request(data: &[u8]) {
    let Ok(Request { user, method }) = Request::parse(data) else { return };
    assert!(user.len() < data.len());
    let Method::PublicKey(offer) = method else { return };
    assert!(offer.blob.len() + offer.name.len() < data.len());
    let session = b"session";
    if offer.verify(session).is_ok() {
        assert!(offer.is_signed() && offer.verify(b"another").is_err());
        assert!(acceptable_signature(&offer.algorithm, offer.subject.key()).is_ok() || offer.algorithm.as_str() == "ssh-rsa");
    }
}

const WINDOW: u32 = 4096;

fn message_on_channels(script: &mut Script<'_>) -> Vec<u8> {
    let numbers = [
        msg::CHANNEL_OPEN,
        msg::CHANNEL_OPEN,
        msg::CHANNEL_DATA,
        msg::CHANNEL_DATA,
        msg::CHANNEL_WINDOW_ADJUST,
        msg::CHANNEL_EOF,
        msg::CHANNEL_CLOSE,
        msg::CHANNEL_REQUEST,
        msg::CHANNEL_EXTENDED_DATA,
        msg::GLOBAL_REQUEST,
        script.u8(),
    ];
    let number = script.choose(&numbers).unwrap_or_default();
    let mut message = vec![number];
    match number {
        msg::CHANNEL_OPEN => {
            let kind = script.choose(&[&b"direct-tcpip"[..], b"direct-tcpip", b"session", b"x11"]).unwrap_or_default();
            put_string(&mut message, kind);
            put_u32(&mut message, u32::from(script.u8()));
            put_u32(&mut message, script.u16() as u32);
            put_u32(&mut message, script.u16() as u32);
            put_string(&mut message, script.short());
            put_u32(&mut message, script.u16() as u32);
            put_string(&mut message, b"::1");
            put_u32(&mut message, 1);
        }
        msg::GLOBAL_REQUEST => {
            put_string(&mut message, script.short());
            message.push(script.u8() & 1);
        }
        _ => {
            put_u32(&mut message, u32::from(script.u8() & 7));
            match number {
                msg::CHANNEL_DATA => put_string(&mut message, &vec![7; script.u16() & 0xfff]),
                msg::CHANNEL_EXTENDED_DATA => {
                    put_u32(&mut message, 1);
                    put_string(&mut message, script.short());
                }
                msg::CHANNEL_REQUEST => {
                    put_string(&mut message, script.choose(&[&b"pty-req"[..], b"exec", b"shell", b"env"]).unwrap_or_default());
                    message.push(script.u8() & 1);
                    put_string(&mut message, script.short());
                }
                _ => message.extend_from_slice(script.take(4)),
            }
        }
    }
    let cut = if script.u8() == 0 { script.below(message.len()) } else { 0 };
    message.truncate(message.len() - cut);
    message
}

/// The channels of a connection, any messages of an operator's client and any doings of sessions in any order: what waits for a session is
/// within its window, what waits for the client within its bound, and those that are open are those that somebody has, and a bounded
/// number beside.
pub fn door_channels(data: &[u8]) {
    let mut script = Script::new(data);
    with_pair(|client, server| {
        arrived(server, client);
        let mut channels = Channels::new(WINDOW);
        let (mut held, mut most_held) = (Vec::new(), 0);
        let cx = Context::from_waker(Waker::noop());
        while !script.is_over() {
            let number = held.get(script.below(held.len().max(1))).copied().unwrap_or(3);
            let done = match script.below(8) {
                0 => channels.write(server, number, None, &vec![9; script.u16()], &cx).map(|written| {
                    assert!(!matches!(written, Poll::Ready(Some(n)) if n > usize::from(u16::MAX)));
                }),
                1 => {
                    let mut room = vec![0; script.u16() & 0x1fff];
                    match channels.poll_read(number, &mut ReadBuf::new(&mut room), &cx) {
                        Poll::Ready(true) => channels.grant(server, number),
                        _ => Ok(()),
                    }
                }
                2 => {
                    held.retain(|one| *one != number);
                    channels.let_go(server, number)
                }
                3 if script.u8() & 1 == 0 => channels.end_data(server, number),
                _ => match channels.take(server, &message_on_channels(&mut script)) {
                    Ok(Some(Event::Open { channel, is_crowded, .. })) => match script.u8() & 3 {
                        0 => channels.refuse(server, channel, 1, "no"),
                        _ if is_crowded => channels.refuse(server, channel, 4, "crowded"),
                        _ => {
                            assert!(!held.contains(&channel));
                            held.push(channel);
                            channels.confirm(server, channel)
                        }
                    },
                    Ok(Some(Event::Request { channel, replies: true, .. })) => channels.answer(server, channel, script.u8() & 1 == 0),
                    Ok(_) => Ok(()),
                    Err(TransportError::Misbehaved(_)) => break,
                    Err(error) => Err(error),
                },
            };
            assert!(done.is_ok(), "{done:?}");
            most_held = most_held.max(held.len());
            assert!(channels.most_waiting() <= WINDOW as usize && channels.count() <= most_held + Channels::MOST);
            assert!(server.waiting() <= HIGH_WATER + 256 * 1024);
            if script.u8() & 3 == 0 {
                arrived(server, client);
                channels.undam(server);
            }
        }
        channels.end();
        assert!(held.into_iter().all(|number| matches!(channels.write(server, number, None, b"x", &cx), Ok(Poll::Ready(None)))));
        arrived(server, client);
    });
}
