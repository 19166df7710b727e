use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::Invalid;

/// Whether `text` is an id of the cloud API: `prefix`, then more of `[a-z0-9-]`, 64 bytes at most.
fn is_id(text: &str, prefix: &str) -> bool {
    text.len() <= 64
        && text
            .strip_prefix(prefix)
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'))
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                if is_id(text, $prefix) {
                    return Ok(Self(text.into()));
                }
                let shown: String = text.chars().take(80).collect();
                Err(Invalid(format!(concat!("{:?} is not ", $what, ": ", $prefix, "… of a-z, 0-9 and '-', 64 characters at most"), shown)))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id!(
    /// `ins-gi2lxw`
    InstanceId,
    "ins-",
    "an instance id"
);
id!(
    /// `fleet-qp3g3caa-iectl8nb`
    FleetId,
    "fleet-",
    "a fleet id"
);

/// The short names that the configuration gives to fleets (`fleet_aliases`).
#[derive(Debug, Clone, Default)]
pub struct FleetAliases(BTreeMap<String, FleetId>);

impl FleetAliases {
    /// An alias is a host name label (RFC 952): it is the second part of `ins-gi2lxw.prod`.
    pub fn insert(&mut self, alias: &str, fleet: FleetId) -> Result<(), Invalid> {
        let is_label = !alias.is_empty()
            && alias.len() <= 63
            && !alias.starts_with('-')
            && alias.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !is_label || alias.starts_with("fleet-") || alias.starts_with("ins-") {
            return Err(Invalid(format!(
                "{alias:?} is not a fleet alias: 1 to 63 of a-z, 0-9 and '-', not beginning with '-', 'fleet-' or 'ins-'"
            )));
        }
        self.0.insert(alias.to_owned(), fleet);
        Ok(())
    }

    pub fn get(&self, alias: &str) -> Option<&FleetId> {
        self.0.get(alias)
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &FleetId)> {
        self.0.iter().map(|(alias, fleet)| (alias.as_str(), fleet))
    }
}

/// What an operator typed for a target: an instance, perhaps with its fleet. It need not exist.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TargetName {
    pub instance: InstanceId,
    pub fleet: Option<FleetId>,
    /// The text as the operator's client knows the host: in lower case.
    pub typed: Arc<str>,
}

impl TargetName {
    /// The longest text looked at: two ids and a dot.
    pub const MAX_LEN: usize = 64 + 1 + 64;

    /// Reads the host string of a direct-tcpip open, which is attacker-controlled text (RFC 4254, 7.2): `ins-…`, `ins-….fleet-…` or
    /// `ins-….<alias>`, case-insensitively. Nothing else gets further.
    pub fn parse(text: &str, aliases: &FleetAliases) -> Result<Self, Invalid> {
        let refused = || Invalid("not a target name: it must be ins-…, ins-….fleet-… or ins-….<fleet alias of this broker>".to_owned());
        if text.len() > Self::MAX_LEN || !text.is_ascii() {
            return Err(refused());
        }
        let typed = text.to_ascii_lowercase();
        let (instance, fleet) = match typed.split_once('.') {
            None => (typed.as_str(), None),
            Some((instance, fleet)) => (instance, Some(fleet)),
        };
        let instance = InstanceId::parse(instance).map_err(|_| refused())?;
        let fleet = match fleet {
            None => None,
            Some(text) => Some(match aliases.get(text) {
                Some(fleet) => fleet.clone(),
                None => FleetId::parse(text).map_err(|_| refused())?,
            }),
        };
        Ok(Self { instance, fleet, typed: typed.into() })
    }
}

impl fmt::Display for TargetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.typed)
    }
}

/// An instance in its fleet, as the cloud API knows it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    pub fleet: FleetId,
    pub instance: InstanceId,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.fleet, self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aliases() -> FleetAliases {
        let mut aliases = FleetAliases::default();
        aliases.insert("prod", FleetId::parse("fleet-qp3g3caa-iectl8nb").unwrap()).unwrap();
        aliases
    }

    #[test]
    fn the_three_forms_are_read_in_any_case() {
        let name = TargetName::parse("INS-gi2lxw", &aliases()).unwrap();
        assert_eq!((name.instance.as_str(), name.fleet.as_ref()), ("ins-gi2lxw", None));
        let dotted = TargetName::parse("ins-gi2lxw.fleet-qp3g3caa-iectl8nb", &aliases()).unwrap();
        let alias = TargetName::parse("ins-gi2lxw.Prod", &aliases()).unwrap();
        assert_eq!(dotted.fleet, alias.fleet);
        assert_eq!(alias.to_string(), "ins-gi2lxw.prod");
    }

    #[test]
    fn nothing_else_gets_further() {
        let long = format!("ins-{}", "a".repeat(70));
        let huge = "ins-".repeat(20_000);
        for hostile in [
            "",
            "ins-",
            "ins",
            "127.0.0.1",
            "::1",
            "localhost",
            "metadata.tencentyun.com",
            "169.254.0.23",
            "ins-a b",
            "ins-a\n",
            "ins-a\0",
            "ins-a.",
            "ins-a..prod",
            "ins-a.prod.",
            "ins-a.prod.x",
            "ins-a.fleet-",
            "ins-a.other",
            ".ins-a",
            "ins-ä",
            "іns-a",
            "ins-a/../b",
            "ins-a%00",
            "ins-a@host",
            "-oProxyCommand=x",
            "ins-a_b",
            &long,
            &huge,
        ] {
            assert!(TargetName::parse(hostile, &aliases()).is_err(), "{hostile:?}");
        }
    }

    #[test]
    fn an_alias_cannot_pass_for_an_id() {
        let fleet = FleetId::parse("fleet-a").unwrap();
        for bad in ["", "fleet-x", "ins-x", "-a", "A", "a.b", "a b"] {
            assert!(FleetAliases::default().insert(bad, fleet.clone()).is_err(), "{bad:?}");
        }
    }
}
