use super::Invalid;

/// Whether a session is recorded; the later of two is the stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum RecordMode {
    #[default]
    Off,
    /// A session that cannot be recorded goes on all the same.
    BestEffort,
    /// No recorder, no session.
    Required,
}

impl RecordMode {
    pub const ALL: [Self; 3] = [Self::Required, Self::BestEffort, Self::Off];

    pub fn name(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::BestEffort => "best-effort",
            Self::Off => "off",
        }
    }

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        Self::ALL.into_iter().find(|mode| mode.name() == text).ok_or_else(|| {
            let shown: String = text.chars().take(80).collect();
            Invalid(format!("{shown:?} is no way to record: write \"required\", \"best-effort\" or \"off\""))
        })
    }
}

/// What a grant asks of the recorder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Recording {
    pub mode: RecordMode,
    /// Whether what the operator types is recorded too.
    pub input: bool,
}

impl Recording {
    /// What satisfies both.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        Self { mode: self.mode.max(other.mode), input: self.input || other.input }
    }

    /// Whether a session that began with this may go on where `demanded` is asked for: what must be recorded has to have been from its
    /// beginning, and in a way that ends the session when it fails.
    pub fn meets(self, demanded: Self) -> bool {
        demanded.mode != RecordMode::Required || (self.mode == RecordMode::Required && (self.input || !demanded.input))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strictest_of_two_wins() {
        for mode in RecordMode::ALL {
            assert_eq!(RecordMode::parse(mode.name()), Ok(mode));
        }
        assert!(RecordMode::parse("on").unwrap_err().to_string().contains("best-effort"));
        let typed = Recording { mode: RecordMode::BestEffort, input: true };
        let required = Recording { mode: RecordMode::Required, input: false };
        assert_eq!(typed.strictest(required), Recording { mode: RecordMode::Required, input: true });
        assert_eq!(Recording::default().strictest(typed), typed);
        let both = typed.strictest(required);
        assert!(both.meets(required) && both.meets(both) && required.meets(typed) && Recording::default().meets(typed));
        assert!(!typed.meets(required) && !required.meets(both) && !Recording::default().meets(required));
    }
}
