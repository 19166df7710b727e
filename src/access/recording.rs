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
    }
}
