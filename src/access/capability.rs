use super::Invalid;

/// What a grant can allow inside a session, named as in the `allow` list of the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    Shell,
    Exec,
    Sftp,
    ForwardLocal,
    ForwardRemote,
    Agent,
    X11,
    /// An SSH connection inside of a local forward.
    NestedSsh,
    /// Channel types that the broker does not know.
    Any,
}

impl Capability {
    pub const ALL: [Self; 9] =
        [Self::Shell, Self::Exec, Self::Sftp, Self::ForwardLocal, Self::ForwardRemote, Self::Agent, Self::X11, Self::NestedSsh, Self::Any];

    pub fn name(self) -> &'static str {
        match self {
            Self::Shell => "shell",
            Self::Exec => "exec",
            Self::Sftp => "sftp",
            Self::ForwardLocal => "forward-local",
            Self::ForwardRemote => "forward-remote",
            Self::Agent => "agent",
            Self::X11 => "x11",
            Self::NestedSsh => "nested-ssh",
            Self::Any => "any",
        }
    }

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|capability| capability.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            Invalid(format!("unknown capability {text:?}: it must be one of {known}"))
        })
    }
}

/// A set of [`Capability`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Capabilities(u16);

impl Capabilities {
    pub const NONE: Self = Self(0);

    /// What a grant without an `allow` list allows.
    pub fn default_allow() -> Self {
        [Capability::Shell, Capability::Exec, Capability::Sftp].into_iter().collect()
    }

    pub fn contains(self, capability: Capability) -> bool {
        self.0 & (1 << capability as u8) != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Capability> {
        Capability::ALL.into_iter().filter(move |capability| self.contains(*capability))
    }

    /// As the configuration names them.
    pub fn names(self) -> Vec<&'static str> {
        self.iter().map(Capability::name).collect()
    }

    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    #[must_use]
    pub fn without(self, capability: Capability) -> Self {
        Self(self.0 & !(1 << capability as u8))
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<I: IntoIterator<Item = Capability>>(iter: I) -> Self {
        Self(iter.into_iter().fold(0, |set, capability| set | 1 << capability as u8))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_parses_to_itself_and_others_are_named() {
        for capability in Capability::ALL {
            assert_eq!(Capability::parse(capability.name()), Ok(capability));
        }
        let error = Capability::parse("sfpt").unwrap_err().to_string();
        assert!(error.contains("\"sfpt\"") && error.contains("forward-local"), "{error}");
    }

    #[test]
    fn a_set_holds_what_was_put_in_and_nothing_else() {
        let set: Capabilities = [Capability::Exec, Capability::X11].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [Capability::Exec, Capability::X11]);
        assert_eq!(set.names(), ["exec", "x11"]);
        assert!(!set.without(Capability::X11).contains(Capability::X11));
        assert!(set.union(Capabilities::default_allow()).contains(Capability::Shell));
    }
}
