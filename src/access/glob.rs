use super::Invalid;

/// A glob over an id: `*` stands for any run of characters, `?` for one; everything else for itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    pub const ANY: &'static str = "*";

    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let is_glob = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'*' | b'?');
        if text.is_empty() || text.len() > 128 || !text.bytes().all(is_glob) {
            return Err(Invalid(format!("{text:?} is not a glob over ids: 1 to 128 of a-z, 0-9, '-', '*' and '?'")));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn matches(&self, text: &str) -> bool {
        wildcard_matches(self.0.as_bytes(), text.as_bytes())
    }
}

/// `*` any run, `?` one byte, of the whole text. Linear in memory and at most quadratic in time: it goes back only to the last `*`.
pub fn wildcard_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(b'?') => (p, t) = (p + 1, t + 1),
            Some(literal) if literal == byte => (p, t) = (p + 1, t + 1),
            _ => match star {
                Some((star_p, star_t)) => {
                    (p, t) = (star_p + 1, star_t + 1);
                    star = Some((star_p, star_t + 1));
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).is_some_and(|rest| rest.iter().all(|byte| *byte == b'*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_ids() {
        for (glob, text, expected) in [
            ("*", "", true),
            ("ins-*", "ins-a", true),
            ("ins-*", "xins-a", false),
            ("*-a?c-*", "fleet-abc-1", true),
            ("*-a?c-*", "fleet-ac-1", false),
            ("ins-a", "ins-ab", false),
            ("*a*b*c", "xxaxxbxxc", true),
            ("*a*b*c", "xxaxxcxxb", false),
            ("**", "abc", true),
        ] {
            assert_eq!(Glob::parse(glob).unwrap().matches(text), expected, "{glob} on {text}");
        }
        for bad in ["", "INS-*", "a b", "[a]", "é"] {
            assert!(Glob::parse(bad).is_err(), "{bad:?}");
        }
    }
}
