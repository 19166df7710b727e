//! Everything that leaves the broker, searched for every secret that its lab has given out, in every form that it could leak in.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aho_corasick::AhoCorasick;
use base64ct::{Base64, Encoding};
use ssh_key::PrivateKey;

use crate::lab::{API_KEY, Lab};

/// Shorter pieces of a key's text, such as the end of its last line, are found in what holds no secret.
const LEAST: usize = 16;

/// The forms of one secret. In base64 it looks otherwise by where it begins within a longer text, and the characters at its ends hold bits
/// of what is beside it.
fn forms(secret: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let hex =
        |upper: bool| -> String { secret.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") }).collect() };
    let json = std::str::from_utf8(secret).map(|text| serde_json::to_string(text).unwrap()).unwrap_or_default();
    let debug = format!("{secret:?}");
    let mut forms = vec![
        ("plain", secret.to_vec()),
        ("hex", hex(false).into_bytes()),
        ("HEX", hex(true).into_bytes()),
        ("JSON", json.trim_matches('"').as_bytes().to_vec()),
        ("a list of numbers", debug.trim_matches(['[', ']']).as_bytes().to_vec()),
        ("escaped bytes", secret.escape_ascii().to_string().into_bytes()),
    ];
    for (skip, name) in [(0, "base64"), (1, "base64 behind one byte"), (2, "base64 behind two bytes")] {
        let bytes = [&vec![0; skip], secret].concat();
        let encoded = Base64::encode_string(&bytes);
        let inner = &encoded[if skip > 0 { 4 } else { 0 }..bytes.len() / 3 * 4];
        forms.push((name, inner.as_bytes().to_vec()));
        forms.push((name, inner.replace('+', "-").replace('/', "_").into_bytes()));
    }
    forms
}

/// Secrets to search for, each with what it is called.
pub struct Secrets(BTreeMap<Vec<u8>, String>);

impl Secrets {
    /// What the lab's cloud and its broker's own keys hold by now.
    pub fn of(lab: &Lab) -> Self {
        let mut secrets = Self(BTreeMap::new());
        secrets.add("the API key", API_KEY.as_bytes());
        let instances: Vec<_> = lab.endpoint.change(|inventory| inventory.instances().cloned().collect());
        for record in instances {
            secrets.add(&format!("the secret of {}", record.instance), record.secret.expose());
        }
        for own in ["host_ed25519", "ca_ed25519", "session_ed25519"] {
            secrets.add(&format!("the broker's {own}"), &fs::read(lab.path("state").join(own)).unwrap_or_default());
        }
        secrets
    }

    /// A password, or each line of a private key's text, and the key itself.
    fn add(&mut self, name: &str, secret: &[u8]) {
        let lines = secret.split(|byte| *byte == b'\n').filter(|line| line.len() >= LEAST && !line.starts_with(b"-----"));
        let seed = PrivateKey::from_openssh(secret).ok().and_then(|key| Some(key.key_data().ed25519()?.private.to_bytes().to_vec()));
        for piece in lines.map(<[u8]>::to_vec).chain(seed) {
            for (form, needle) in forms(&piece).into_iter().filter(|(_, needle)| !needle.is_empty()) {
                self.0.entry(needle).or_insert_with(|| format!("{name}, in {form}"));
            }
        }
    }

    /// Fails when one of them is in what can be read here. It is read once, whatever its length, and never held as a whole.
    fn assert_none_in(&self, automaton: &AhoCorasick, place: &str, content: impl Read) {
        let found = automaton.stream_find_iter(content).next().map(|found| found.unwrap().pattern().as_usize());
        let name = found.and_then(|position| self.0.values().nth(position));
        assert_eq!(name, None, "a secret is in the {place}");
    }
}

/// Fails when a secret is in the log, the audit, the recordings, the pins, the metrics, the broker's arguments or environment, or in what
/// the lab's operators have read.
pub fn assert_none(lab: &Lab) {
    let secrets = Secrets::of(lab);
    let automaton = AhoCorasick::new(secrets.0.keys()).unwrap();
    let mut places: Vec<(String, PathBuf)> = ["broker.log", "audit.jsonl", "state/known_hosts"]
        .into_iter()
        .map(|name| (name.to_owned(), lab.path(name)))
        .chain(files_below(&lab.path("state/recordings")).into_iter().map(|path| ("recordings".to_owned(), path)))
        .collect();
    if let Some(broker) = &lab.broker {
        places.extend(["cmdline", "environ"].map(|name| (name.to_owned(), PathBuf::from(format!("/proc/{}/{name}", broker.id())))));
    }
    for (place, path) in places {
        if let Ok(file) = File::open(path) {
            secrets.assert_none_in(&automaton, &place, file);
        }
    }
    if let Some(metrics) = lab.metrics.and_then(scraped) {
        assert!(metrics.windows(11).any(|window| window == b"ssh_broker_"), "no metrics");
        secrets.assert_none_in(&automaton, "metrics", &metrics[..]);
    }
    secrets.assert_none_in(&automaton, "operator's bytes", &lab.heard()[..]);
}

/// `None` where nobody serves them any more.
fn scraped(address: SocketAddr) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    Some(answer)
}

pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn a_secret_is_found_in_each_of_its_forms_and_wherever_it_begins() {
    let mut secrets = Secrets(BTreeMap::new());
    secrets.add("it", b"ab\"c\\0123456789?>\xc3\xa9MARKER");
    let automaton = AhoCorasick::new(secrets.0.keys()).unwrap();
    let secret = "ab\"c\\0123456789?>éMARKER";
    let mut leaks = vec![
        secret.to_owned(),
        serde_json::to_string(secret).unwrap(),
        format!("{:?}", format!("x{secret}y").as_bytes()),
        secret.bytes().map(|byte| format!("{byte:02x}")).collect(),
        secret.bytes().map(|byte| format!("{byte:02X}")).collect(),
        secret.as_bytes().escape_ascii().to_string(),
    ];
    for before in 0..4 {
        for after in 0..4 {
            let whole = [&vec![b'x'; before][..], secret.as_bytes(), &vec![b'y'; after][..]].concat();
            leaks.extend([Base64::encode_string(&whole), base64ct::Base64UrlUnpadded::encode_string(&whole)]);
        }
    }
    for leak in leaks {
        assert!(automaton.is_match(&leak), "{leak}");
    }
    assert!(!automaton.is_match("ab\"c\\0123456789?>éMARKE"));
}
