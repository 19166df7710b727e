//! Text that a terminal shows and does not obey.

use std::fmt::Write;

/// Whether a character steers a terminal, or hides or reorders what stands beside it.
fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
        || matches!(c, '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

fn escaped(text: &str, keep: impl Fn(char) -> bool) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        match steers(c) && !keep(c) {
            true => plain.extend(c.escape_unicode()),
            false => plain.push(c),
        }
    }
    plain
}

/// Somebody else's text, in one line.
pub(super) fn plain(text: &str) -> String {
    escaped(text, |_| false)
}

/// A page of ours; line ends stay.
pub(super) fn page(text: &str) -> String {
    escaped(text, |c| c == '\n')
}

/// JSON in ASCII: what is beyond stands in strings alone, where it can be escaped (RFC 8259, 7).
pub(super) fn ascii_json(json: &str) -> String {
    let mut ascii = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            ' '..='~' => ascii.push(c),
            _ => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    // Writing to a String does not fail.
                    let _ = write!(ascii, "\\u{unit:04x}");
                }
            }
        }
    }
    ascii
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        let hostile = "a\x1b[2J\r\nb\u{9b}31m\u{202e}c\u{7f}é";
        assert_eq!(plain(hostile), "a\\u{1b}[2J\\u{d}\\u{a}b\\u{9b}31m\\u{202e}c\\u{7f}é");
        assert_eq!(page("x\ny\tz\u{200b}"), "x\ny\\u{9}z\\u{200b}");
        let json = ascii_json(&serde_json::to_string(&format!("{hostile}😀\"")).unwrap());
        assert!(json.bytes().all(|b| (b' '..=b'~').contains(&b)), "{json}");
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), format!("{hostile}😀\""));
    }
}
