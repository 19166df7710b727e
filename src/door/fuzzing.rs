//! Fuzz targets of what the door reads; see [`crate::fuzzing`].
#![allow(clippy::unwrap_used, reason = "a fuzz target tells what it found by a panic")]

use std::net::IpAddr;

use futures_util::FutureExt;
use ssh_encoding::Decode;
use ssh_key::Certificate;

use super::authorized_keys::parse_key;
use super::{AuthorizedKeys, certificate as certificates, proxy};
use crate::access::{OperatorName, Restrictions};

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
