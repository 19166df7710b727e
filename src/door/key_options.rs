use std::net::IpAddr;

use super::expiry;
use super::source_list::SourceList;
use crate::access::Restrictions;

/// The options before a key in `authorized_keys`.
#[derive(Debug, Clone, Default)]
pub(super) struct KeyOptions {
    pub(super) cert_authority: bool,
    /// Only with `cert_authority`.
    pub(super) principals: Option<Vec<String>>,
    from: Option<SourceList>,
    /// Unix seconds; at that second the key is expired.
    expiry: Option<i64>,
    restrictions: Restrictions,
}

impl KeyOptions {
    /// Reads the option field. What cannot be honoured here is an error: an option that is ignored is a restriction that is lost.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut options = Self::default();
        if !text.is_empty() {
            for option in split_commas(text) {
                options.apply(option)?;
            }
        }
        if options.principals.is_some() && !options.cert_authority {
            return Err("principals= belongs to cert-authority, which this line does not have".to_owned());
        }
        Ok(options)
    }

    fn apply(&mut self, option: &str) -> Result<(), String> {
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name.to_ascii_lowercase(), Some(unquote(name, value)?)),
            None => (option.to_ascii_lowercase(), None),
        };
        let restrictions = &mut self.restrictions;
        match (name.as_str(), value) {
            // In the order they are written: what follows `restrict` gives back.
            ("restrict", None) => *restrictions = Restrictions::ALL,
            ("pty", None) => restrictions.no_pty = false,
            ("no-pty", None) => restrictions.no_pty = true,
            ("port-forwarding", None) => restrictions.no_port_forwarding = false,
            ("no-port-forwarding", None) => restrictions.no_port_forwarding = true,
            ("agent-forwarding", None) => restrictions.no_agent_forwarding = false,
            ("no-agent-forwarding", None) => restrictions.no_agent_forwarding = true,
            ("x11-forwarding", None) => restrictions.no_x11_forwarding = false,
            ("no-x11-forwarding", None) => restrictions.no_x11_forwarding = true,
            // The broker runs no rc file, so there is nothing to forbid.
            ("user-rc" | "no-user-rc", None) => {}
            ("cert-authority", None) => self.cert_authority = true,
            ("from", Some(value)) => set_once(&mut self.from, "from", SourceList::parse(&value).map_err(|error| error.to_string())?)?,
            ("expiry-time", Some(value)) => {
                set_once(&mut self.expiry, "expiry-time", expiry::parse(&value).map_err(|error| error.to_string())?)?;
            }
            ("principals", Some(value)) => {
                let principals: Vec<String> = value.split(',').map(str::to_owned).collect();
                if principals.iter().any(String::is_empty) {
                    return Err("principals= has an empty name".to_owned());
                }
                set_once(&mut self.principals, "principals", principals)?;
            }
            (name, value) => {
                let shown: String = name.chars().take(40).collect();
                return Err(match value {
                    Some(_) => format!("the option {shown}= cannot be honoured by a broker, so the line is refused"),
                    None => format!("the option {shown:?} is not known or cannot be honoured by a broker, so the line is refused"),
                });
            }
        }
        Ok(())
    }

    pub(super) fn admit(&self, source: IpAddr, now: i64) -> Result<Restrictions, String> {
        if self.expiry.is_some_and(|expiry| now >= expiry) {
            return Err("the key's line has expired (expiry-time)".to_owned());
        }
        if self.from.as_ref().is_some_and(|from| !from.admits(source)) {
            return Err(format!("the key's line does not admit {} (from)", source.to_canonical()));
        }
        Ok(self.restrictions)
    }
}

fn set_once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{name}= is there twice")),
    }
}

/// Takes the quotes off a value and `\"` for `"`.
fn unquote(name: &str, value: &str) -> Result<String, String> {
    let inner = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(inner) if !inner.replace("\\\"", "").contains('"') => Ok(inner.replace("\\\"", "\"")),
        _ => {
            let shown: String = name.chars().take(40).collect();
            Err(format!("the value of {shown}= must stand in double quotes"))
        }
    }
}

/// Splits at commas outside quotes. There is always at least one piece.
fn split_commas(text: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut start = 0;
    for (at, _) in unquoted(text).filter(|(_, c)| *c == ',') {
        pieces.extend(text.get(start..at));
        start = at + 1;
    }
    pieces.extend(text.get(start..));
    pieces
}

/// The characters outside quotes. As in OpenSSH, `\"` neither opens nor closes.
pub(super) fn unquoted(text: &str) -> impl Iterator<Item = (usize, char)> {
    let (mut quoted, mut previous) = (false, ' ');
    text.char_indices().filter(move |(_, c)| {
        let toggles = *c == '"' && previous != '\\';
        previous = *c;
        quoted ^= toggles;
        !quoted && !toggles
    })
}
