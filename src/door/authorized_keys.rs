use std::net::IpAddr;

use ssh_key::public::KeyData;
use ssh_key::{Certificate, PublicKey};

use super::key_options::{KeyOptions, unquoted};
use super::{certificate, key_rules};
use crate::access::{OperatorName, Restrictions};

/// An operator's `authorized_keys` file (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
///
/// **Invariant**: a line that cannot be honoured in full is not an entry. It is a [`LineProblem`], and its key proves nobody.
#[derive(Debug, Clone, Default)]
pub struct AuthorizedKeys {
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    key: KeyData,
    options: KeyOptions,
}

/// What is wrong with one line of a file of keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LineProblem {
    /// Counted from 1.
    pub line: usize,
    pub text: String,
}

impl AuthorizedKeys {
    /// Reads the text of a file. Never fails: what is wrong is told beside what is right.
    pub fn parse(text: &str) -> (Self, Vec<LineProblem>) {
        let mut keys = Self::default();
        let mut problems = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_matches([' ', '\t', '\r']);
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match Entry::parse(line) {
                Ok(entry) => keys.entries.push(entry),
                Err(text) => problems.push(LineProblem { line: index + 1, text }),
            }
        }
        (keys, problems)
    }

    /// Whether some line trusts an authority, so that a certificate could prove this operator.
    pub(super) fn trusts_an_authority(&self) -> bool {
        self.entries.iter().any(|entry| entry.options.cert_authority)
    }

    /// Whether some line names this key itself.
    pub(super) fn knows(&self, key: &KeyData) -> bool {
        self.entries.iter().any(|entry| !entry.options.cert_authority && entry.key == *key)
    }

    /// What the operator may do with this key from there, or why it does not count: the first line that admits it decides.
    pub(super) fn admit_key(&self, key: &KeyData, source: IpAddr, now: i64) -> Result<Restrictions, String> {
        let lines = self.entries.iter().filter(|entry| !entry.options.cert_authority && entry.key == *key);
        first_admitted(lines.map(|entry| entry.options.admit(source, now)), "no such key")
    }

    /// The same for a certificate, by the `cert-authority` lines of its authority. Without `principals=` the operator's own name must be
    /// among the certificate's principals.
    pub(super) fn admit_certificate(
        &self,
        certificate: &Certificate,
        operator: &OperatorName,
        source: IpAddr,
        now: i64,
    ) -> Result<Restrictions, String> {
        let lines = self.entries.iter().filter(|entry| entry.options.cert_authority && entry.key == *certificate.signature_key());
        let admitted = lines.map(|entry| {
            let named = match &entry.options.principals {
                Some(principals) => certificate.valid_principals().iter().any(|principal| principals.contains(principal)),
                None => certificate::names(certificate, operator),
            };
            if named {
                entry.options.admit(source, now)
            } else {
                Err("the certificate is not for this operator: wrong principals".to_owned())
            }
        });
        first_admitted(admitted, "the certificate's authority is not trusted")
    }
}

fn first_admitted(lines: impl Iterator<Item = Result<Restrictions, String>>, without: &str) -> Result<Restrictions, String> {
    let mut refusal = None;
    for line in lines {
        match line {
            Ok(restrictions) => return Ok(restrictions),
            Err(reason) => refusal = refusal.or(Some(reason)),
        }
    }
    Err(refusal.unwrap_or_else(|| without.to_owned()))
}

impl Entry {
    fn parse(line: &str) -> Result<Self, String> {
        let (options, rest) = if starts_with_key(line) { ("", line) } else { split_options(line)? };
        let options = KeyOptions::parse(options)?;
        let key = parse_key(rest)?;
        Ok(Self { key, options })
    }
}

/// A public key as in a `.pub` file, of a type that may prove somebody.
pub(super) fn parse_key(text: &str) -> Result<KeyData, String> {
    let mut words = text.split([' ', '\t']).filter(|word| !word.is_empty());
    let (Some(kind), Some(data)) = (words.next(), words.next()) else {
        return Err("no key: a line is [options] type base64 [comment]".to_owned());
    };
    if kind.contains("-cert-v01@openssh.com") {
        return Err("a certificate is not a key: name its authority's key, with cert-authority before it".to_owned());
    }
    let key = PublicKey::from_openssh(&format!("{kind} {data}")).map_err(|error| format!("not a public key: {error}"))?;
    key_rules::acceptable(key.key_data())?;
    Ok(key.key_data().clone())
}

fn starts_with_key(line: &str) -> bool {
    let first = line.split([' ', '\t']).next().unwrap_or_default();
    ["ssh-", "ecdsa-sha2-", "sk-ssh-", "sk-ecdsa-", "rsa-sha2-"].iter().any(|prefix| first.starts_with(prefix))
}

/// Cuts the options off: they end at the first blank outside quotes.
fn split_options(line: &str) -> Result<(&str, &str), String> {
    match unquoted(line).find(|(_, c)| matches!(c, ' ' | '\t')) {
        Some((at, _)) => {
            let (options, rest) = line.split_at(at);
            Ok((options, rest.trim_start_matches([' ', '\t'])))
        }
        None if line.contains('"') => Err("no key: a quote is not closed, or nothing follows the options".to_owned()),
        None => Err("no key: a line is [options] type base64 [comment]".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";

    fn admit(options: &str, source: &str, now: i64) -> Result<Restrictions, String> {
        let (keys, problems) = AuthorizedKeys::parse(&format!("{options} {KEY} a comment\n"));
        if let Some(problem) = problems.first() {
            return Err(format!("line {}: {}", problem.line, problem.text));
        }
        keys.admit_key(&parse_key(KEY).unwrap(), source.parse().unwrap(), now)
    }

    #[test]
    fn a_line_means_what_openssh_says_it_means() {
        let here = "192.0.2.1";
        assert_eq!(admit("", here, 0), Ok(Restrictions::default()));
        assert_eq!(admit("restrict", here, 0), Ok(Restrictions::ALL));
        assert_eq!(admit("restrict,pty", here, 0), Ok(Restrictions { no_pty: false, ..Restrictions::ALL }));
        assert_eq!(admit("pty,restrict", here, 0), Ok(Restrictions::ALL));
        assert_eq!(admit("No-X11-Forwarding", here, 0), Ok(Restrictions { no_x11_forwarding: true, ..Restrictions::default() }));
        assert_eq!(admit("from=\"192.0.2.0/24\",no-pty", here, 0), Ok(Restrictions { no_pty: true, ..Restrictions::default() }));
        assert!(admit("from=\"198.51.100.*\"", here, 0).unwrap_err().contains("192.0.2.1"));
        assert!(admit("expiry-time=\"19700102Z\"", here, 86_399).is_ok());
        assert!(admit("expiry-time=\"19700102Z\"", here, 86_400).unwrap_err().contains("expired"));
        for refused in [
            "command=\"echo \\\"hi\\\", you\"",
            "permitopen=\"a:1\"",
            "tunnel=\"1\"",
            "environment=\"A=b\"",
            "verify-required",
            "frobnicate",
            "from=192.0.2.1",
            "from=\"x\",from=\"192.0.2.1\"",
            "from=\"h.example\"",
            "principals=\"a\"",
            "restrict=\"x\"",
            "no-pty,,restrict",
            "expiry-time=\"soon\"",
            "\"unclosed",
        ] {
            let error = admit(refused, here, 0).unwrap_err();
            assert!(error.starts_with("line 1: "), "{refused}: {error}");
        }
    }

    #[test]
    fn good_lines_stand_beside_bad_ones_and_every_bad_one_is_named() {
        let sk = "sk-ssh-ed25519@openssh.com AAAAGnNrLXNzaC1lZDI1NTE5QG9wZW5zc2guY29tAAAAICFo/k5LU8863u66YC9eUO2170QduohPURkQnbLa/dczAAAABHNzaDo=";
        let text = format!("# comment\n\n  {KEY}\r\n{sk}\nssh-ed25519 AAAA\n\u{fffd}\u{fffd}\ncert-authority,principals=\"a,b\" {KEY}");
        let (keys, problems) = AuthorizedKeys::parse(&text);
        assert_eq!(keys.entries.len(), 2);
        assert!(keys.trusts_an_authority());
        assert_eq!(problems.iter().map(|problem| problem.line).collect::<Vec<_>>(), [4, 5, 6]);
        assert!(problems[0].text.contains("security key"), "{}", problems[0].text);
    }

    #[test]
    fn a_second_line_with_the_same_key_can_admit_what_the_first_does_not() {
        let (keys, _) = AuthorizedKeys::parse(&format!("from=\"192.0.2.9\" {KEY}\nno-pty {KEY}"));
        let admitted = keys.admit_key(&parse_key(KEY).unwrap(), "192.0.2.1".parse().unwrap(), 0);
        assert_eq!(admitted, Ok(Restrictions { no_pty: true, ..Restrictions::default() }));
    }

    #[test]
    fn no_bytes_make_the_parser_panic() {
        let seeds = [KEY, "from=\"a\\\"b\",restrict", "cert-authority,principals=\"é\" ", "\\\"\"\\ \t,=,=\""];
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for round in 0..20_000 {
            let mut bytes = seeds[round % seeds.len()].repeat(1 + round % 2).into_bytes();
            for _ in 0..=random() % 8 {
                let at = random() as usize % bytes.len();
                bytes[at] = random() as u8;
            }
            AuthorizedKeys::parse(&String::from_utf8_lossy(&bytes));
        }
    }
}
