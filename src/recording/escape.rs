//! The inside of JSON strings, at the speed of a terminal's output.

/// Appends text as the inside of a JSON string, no more than `room` bytes of it; gives how many bytes of the text that was.
pub(super) fn push_escaped(out: &mut Vec<u8>, text: &str, room: usize) -> usize {
    let end = out.len() + room;
    out.reserve(room.min(text.len() + 6));
    let mut rest = text;
    loop {
        // No more than there is room for is looked at, so that the copy needs no other bound.
        let fits = rest.get(..rest.floor_char_boundary(end.saturating_sub(out.len()))).unwrap_or_default();
        let run = push_plain(out, fits.as_bytes());
        rest = rest.get(run..).unwrap_or_default();
        let Some(special) = fits.as_bytes().get(run) else { break };
        let escape = Escape::of(*special);
        if out.len() + escape.as_bytes().len() > end {
            break;
        }
        out.extend_from_slice(escape.as_bytes());
        // What has an escape is one byte of ASCII.
        rest = rest.get(1..).unwrap_or_default();
    }
    text.len() - rest.len()
}

struct Escape([u8; 6], usize);

impl Escape {
    fn of(byte: u8) -> Self {
        let short = |letter| Self([b'\\', letter, 0, 0, 0, 0], 2);
        match byte {
            b'\n' => short(b'n'),
            b'\r' => short(b'r'),
            b'\t' => short(b't'),
            0x08 => short(b'b'),
            0x0c => short(b'f'),
            b'"' | b'\\' => short(byte),
            other => {
                let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
                Self([b'\\', b'u', b'0', b'0', digit(other >> 4), digit(other & 15)], 6)
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        self.0.get(..self.1).unwrap_or_default()
    }
}

fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// Appends what comes before the first byte that needs an escape, eight bytes in one go; gives its length. Runs are short in what
/// terminals show, so a search first and a copy behind it would cost more than this.
fn push_plain(out: &mut Vec<u8>, bytes: &[u8]) -> usize {
    let before = out.len();
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        out.extend_from_slice(word);
        let specials = specials(u64::from_le_bytes(*word));
        if specials != 0 {
            out.truncate(out.len() - 8 + specials.trailing_zeros() as usize / 8);
            return out.len() - before;
        }
    }
    let plain = rest.iter().position(|byte| is_special(*byte)).unwrap_or(rest.len());
    out.extend_from_slice(rest.get(..plain).unwrap_or(rest));
    out.len() - before
}

/// The highest bit of each byte that needs an escape. Right for the lowest of them; above it a borrow may set more.
fn specials(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    (below_space | zeros(word ^ (ONES * b'"' as u64)) | zeros(word ^ (ONES * b'\\' as u64))) & (ONES * 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn string(text: &str) -> Vec<u8> {
        let mut out = vec![b'"'];
        assert_eq!(push_escaped(&mut out, text, 10_000), text.len());
        out.push(b'"');
        out
    }

    #[test]
    fn every_character_reads_back_at_every_place_in_a_word() {
        for code in (0..0x300).chain([0x2028, 0x4e2d, 0xfffd, 0x1f600]) {
            let c = char::from_u32(code).unwrap();
            for before in 0..17 {
                let text = format!("{}{c}{c}{}", "é".repeat(before / 3) + &"x".repeat(before % 3), "z".repeat(9));
                let json = string(&text);
                assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
                assert_eq!(push_plain(&mut Vec::new(), text.as_bytes()), text.bytes().position(is_special).unwrap_or(text.len()));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_left_whole() {
        let text = "a\u{1b}[é\"中\\文\u{1}…";
        for room in 0..60 {
            let mut out = Vec::new();
            let taken = push_escaped(&mut out, text, room);
            assert!(out.len() <= room && text.is_char_boundary(taken));
            let inside = format!("\"{}\"", String::from_utf8(out).unwrap());
            assert_eq!(serde_json::from_str::<String>(&inside).unwrap(), text[..taken]);
            assert!(room < 40 || taken == text.len());
        }
    }
}
