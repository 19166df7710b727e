use serde::Serialize;

use super::lines::LONGEST_LINE;

/// Why a stream of file operations can be followed no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unparsed(pub(super) &'static str);

/// Which of a channel's two streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Operator,
    Instance,
}

/// One thing done to files, as the session's log has it. Never content.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Operation {
    pub(super) op: &'static str,
    /// `up` to the instance, `down` from it, `both`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) direction: Option<&'static str>,
    pub(super) path: String,
    /// What came with it: the new name of a rename, the file below the path in a copy of many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_up: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_down: Option<u64>,
    pub(super) result: String,
}

/// A line of the session's log: an operation, or the beginning or end of a channel, with when and in which channel.
#[derive(Serialize)]
pub(super) struct Entry<'a, T> {
    /// Seconds since the session began.
    pub(super) t: f64,
    pub(super) channel: u32,
    #[serde(flatten)]
    pub(super) what: &'a T,
}

/// Texts in an entry, which can be cut.
pub(super) trait Cut {
    fn cut(&mut self, most: usize);
}

impl Cut for Operation {
    fn cut(&mut self, most: usize) {
        [Some(&mut self.path), self.name.as_mut(), Some(&mut self.result)].into_iter().flatten().for_each(|text| cut(text, most));
    }
}

pub(super) fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
        text.push('…');
    }
}

/// An entry as JSON of at most [`LONGEST_LINE`] bytes.
pub(super) fn entry_line<T: Serialize + Cut>(t: f64, channel: u32, mut what: T) -> Vec<u8> {
    // The second length fits whatever has to be escaped.
    for most in [1200, 150] {
        what.cut(most);
        let line = serde_json::to_vec(&Entry { t: (t * 1e3).round() / 1e3, channel, what: &what }).unwrap_or_default();
        if line.len() <= LONGEST_LINE {
            return line;
        }
    }
    Vec::new()
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_fits_into_a_page_whatever_its_texts_hold() {
        for filler in ["x", "\u{1}", "中", "\""] {
            let path = filler.repeat(5000);
            let operation = Operation { op: "rename", name: Some(path.clone()), result: path.clone(), path, ..Operation::default() };
            let line = entry_line(1.5, 7, operation);
            assert!(line.len() > 300 && line.len() <= LONGEST_LINE);
            let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
            assert_eq!((&value["op"], &value["channel"], &value["t"]), (&"rename".into(), &7.into(), &1.5.into()));
            assert!(value["path"].as_str().unwrap().ends_with('…'));
        }
    }
}
