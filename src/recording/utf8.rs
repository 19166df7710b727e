/// Text out of a stream of bytes that is cut anywhere: a character's beginning waits for its end, and what is no UTF-8 becomes U+FFFD.
#[derive(Default)]
pub(super) struct Utf8 {
    begun: [u8; 4],
    len: usize,
}

const REPLACEMENT: &str = "\u{fffd}";

impl Utf8 {
    pub(super) fn push(&mut self, mut bytes: &[u8], mut put: impl FnMut(&str)) {
        while self.len > 0
            && let Some((first, rest)) = bytes.split_first()
        {
            let Some(slot) = self.begun.get_mut(self.len) else { break };
            *slot = *first;
            let character = self.begun.get(..=self.len).unwrap_or_default();
            match std::str::from_utf8(character) {
                Ok(text) => put(text),
                Err(error) if error.error_len().is_none() => {
                    self.len += 1;
                    bytes = rest;
                    continue;
                }
                // The byte that does not continue the character may begin another.
                Err(_) => {
                    put(REPLACEMENT);
                    self.len = 0;
                    break;
                }
            }
            self.len = 0;
            bytes = rest;
        }
        let mut is_text = true;
        while !bytes.is_empty() {
            let (valid_up_to, wrong) = match check(bytes, is_text) {
                Ok(text) => return put(text),
                Err(error) => error,
            };
            let (valid, rest) = bytes.split_at_checked(valid_up_to).unwrap_or((bytes, &[]));
            if let Ok(text) = check(valid, is_text)
                && !text.is_empty()
            {
                put(text);
            }
            is_text = false;
            match wrong {
                Some(wrong) => {
                    put(REPLACEMENT);
                    bytes = rest.get(wrong..).unwrap_or_default();
                }
                None => {
                    self.len = rest.len().min(self.begun.len());
                    self.begun.iter_mut().zip(rest).for_each(|(slot, byte)| *slot = *byte);
                    return;
                }
            }
        }
    }

    /// The stream has ended: a character that was begun never comes.
    pub(super) fn end(&mut self, put: impl FnOnce(&str)) {
        if std::mem::take(&mut self.len) > 0 {
            put(REPLACEMENT);
        }
    }
}

/// The text, or how far it is one and how much behind it is not. Where much is not, the plain way is the faster one.
fn check(bytes: &[u8], is_text: bool) -> Result<&str, (usize, Option<usize>)> {
    match is_text {
        true => simdutf8::compat::from_utf8(bytes).map_err(|error| (error.valid_up_to(), error.error_len())),
        false => std::str::from_utf8(bytes).map_err(|error| (error.valid_up_to(), error.error_len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pieces: &[&[u8]]) -> String {
        let (mut utf8, mut text) = (Utf8::default(), String::new());
        pieces.iter().for_each(|piece| utf8.push(piece, |part| text.push_str(part)));
        utf8.end(|part| text.push_str(part));
        text
    }

    #[test]
    fn a_cut_anywhere_changes_nothing() {
        let samples: [&[u8]; 9] = [
            "plain, naïve, 中文, 😀".as_bytes(),
            b"\xff\xfe",
            b"a\xe4\xb8z",
            b"\xe4\xb8\xe4\xb8\xad",
            b"\xf0\x9f\x98",
            b"\xf0\x9f\x41\x80",
            b"\xc3\xc3\xa9",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80 end",
        ];
        for bytes in samples {
            let whole = String::from_utf8_lossy(bytes);
            for first in 0..=bytes.len() {
                for second in first..=bytes.len() {
                    assert_eq!(read(&[&bytes[..first], &bytes[first..second], &bytes[second..]]), whole, "{bytes:x?} at {first}, {second}");
                }
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&single), whole);
        }
    }
}
