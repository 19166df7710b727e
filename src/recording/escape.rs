//! The inside of JSON strings, at the speed of a terminal's output.

use wide::u8x16;

/// Bytes looked at and copied in one go.
const BLOCK: usize = 16;
/// Bytes that an escape is written with; the longest has six.
const WORD: usize = 8;
const LONGEST: usize = 6;

/// Appends text as the inside of a JSON string, no more than `room` bytes of it; gives how many bytes of the text that was.
///
/// What terminals show has something to escape every few words, so nothing is searched for first: each block is written as it is, and what
/// follows it goes over what should not have been.
pub(super) fn push_escaped(out: &mut Vec<u8>, text: &str, room: usize) -> usize {
    let (bytes, start) = (text.as_bytes(), out.len());
    let end = start + room.min(bytes.len().saturating_mul(LONGEST));
    // A word more than there may be.
    out.resize(end + WORD, 0);
    let (mut from, mut to) = (0, start);
    while let Some(block) = bytes.get(from..).and_then(|rest| rest.first_chunk::<BLOCK>()) {
        let Some(slot) = out.get_mut(to..end).and_then(|out| out.first_chunk_mut::<BLOCK>()) else { break };
        *slot = *block;
        let specials = specials(u8x16::new(*block));
        if specials == 0 {
            (from, to) = (from + BLOCK, to + BLOCK);
            continue;
        }
        let plain = specials.trailing_zeros() as usize;
        (from, to) = (from + plain, to + plain);
        if !push_byte(out, bytes, &mut from, &mut to, end) {
            break;
        }
    }
    // The end of the text, or of the room.
    while push_byte(out, bytes, &mut from, &mut to, end) {}
    let taken = text.floor_char_boundary(from);
    out.truncate(to - (from - taken));
    taken
}

/// Writes one byte or its escape; `false` when there is none, or no room for it.
#[inline(always)]
fn push_byte(out: &mut [u8], bytes: &[u8], from: &mut usize, to: &mut usize, end: usize) -> bool {
    let Some(byte) = bytes.get(*from) else { return false };
    let Escape { bytes, len } = match ESCAPES.get(usize::from(*byte)) {
        Some(escape) if escape.len > 0 => escape,
        _ => &Escape { bytes: [*byte, 0, 0, 0, 0, 0, 0, 0], len: 1 },
    };
    let Some(slot) = out.get_mut(*to..).and_then(|out| out.first_chunk_mut::<WORD>()) else { return false };
    if *to + len > end {
        return false;
    }
    *slot = *bytes;
    (*from, *to) = (*from + 1, *to + len);
    true
}

/// A bit for each byte that needs an escape.
fn specials(block: u8x16) -> u32 {
    let is_control = block.min(u8x16::splat(0x1f)).simd_eq(block);
    (is_control | block.simd_eq(u8x16::splat(b'"')) | block.simd_eq(u8x16::splat(b'\\'))).to_bitmask()
}

#[derive(Clone, Copy)]
struct Escape {
    bytes: [u8; WORD],
    /// 0: needs none.
    len: usize,
}

/// By byte; all that need one are ASCII.
static ESCAPES: [Escape; 128] = escapes();

#[expect(clippy::indexing_slicing, reason = "it runs when the program is built")]
const fn escapes() -> [Escape; 128] {
    const DIGITS: [u8; 16] = *b"0123456789abcdef";
    const SHORT: [(u8, u8); 7] = [(b'\n', b'n'), (b'\r', b'r'), (b'\t', b't'), (8, b'b'), (12, b'f'), (b'"', b'"'), (b'\\', b'\\')];
    let mut escapes = [Escape { bytes: [0; WORD], len: 0 }; 128];
    let mut byte = 0;
    while byte < 0x20 {
        escapes[byte] = Escape { bytes: [b'\\', b'u', b'0', b'0', DIGITS[byte >> 4], DIGITS[byte & 15], 0, 0], len: 6 };
        byte += 1;
    }
    let mut short = 0;
    while short < SHORT.len() {
        let (byte, letter) = SHORT[short];
        escapes[byte as usize] = Escape { bytes: [b'\\', letter, 0, 0, 0, 0, 0, 0], len: 2 };
        short += 1;
    }
    escapes
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
    fn every_character_reads_back_at_every_place_in_a_block() {
        for code in (0..0x300).chain([0x2028, 0x4e2d, 0xfffd, 0x1f600]) {
            let c = char::from_u32(code).unwrap();
            for before in 0..33 {
                let text = format!("{}{c}{c}{}", "é".repeat(before / 3) + &"x".repeat(before % 3), "z".repeat(17));
                let json = string(&text);
                assert_eq!(serde_json::from_slice::<String>(&json).unwrap(), text);
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
