use std::fmt;

use super::Invalid;

/// TCP ports, as ranges.
///
/// **Invariant**: in order, and no two of the ranges touch; so each set of ports is written in one way.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ports(Vec<(u16, u16)>);

impl Ports {
    /// `8000-8100`, or one port. Port 0 is none.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let wrong = || {
            let shown: String = text.chars().take(80).collect();
            Invalid(format!("{shown:?} is not a port or a range of ports: write \"3389\" or \"8000-8100\", from 1 to 65535"))
        };
        let port = |text: &str| {
            let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
            plain.then(|| text.parse::<u16>().ok()).flatten().ok_or_else(wrong)
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (port(first)?, port(last)?);
        if first > last {
            return Err(wrong());
        }
        Ok(Self(vec![(first, last)]))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&port))
    }

    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut ranges: Vec<_> = self.0.iter().chain(&other.0).copied().collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(before) if u32::from(first) <= u32::from(before.1) + 1 => before.1 = before.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    pub fn includes(&self, other: &Self) -> bool {
        self.union(other) == *self
    }
}

/// `3389 8000-8100`
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            match first == last {
                true => write!(f, "{space}{first}")?,
                false => write!(f, "{space}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

impl FromIterator<Self> for Ports {
    fn from_iter<I: IntoIterator<Item = Self>>(iter: I) -> Self {
        iter.into_iter().fold(Self::default(), |all, more| all.union(&more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_written_in_one_way() {
        let set = |texts: &[&str]| texts.iter().map(|text| Ports::parse(text).unwrap()).collect::<Ports>();
        assert_eq!(set(&["8000-8100", "3389", "8050-8200", "8201", "65535"]), set(&["3389", "65535", "8000-8201"]));
        let some = set(&["3389", "8000-8100"]);
        assert!(some.contains(3389) && some.contains(8000) && some.contains(8100) && !some.contains(8101) && !some.contains(0));
        assert!(some.includes(&set(&["8050-8060"])) && !some.includes(&set(&["8050-8101"])) && some.includes(&Ports::default()));
        for bad in ["", "0", "65536", "-1", "1-", "2-1", "+1", "01", "a", "1 - 2", "1-2-3"] {
            assert!(Ports::parse(bad).is_err(), "{bad:?}");
        }
    }
}
