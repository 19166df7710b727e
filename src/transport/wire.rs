//! Data types of RFC 4251, section 5, read from a peer's bytes without a copy and written to a vector.

use super::TransportError;

/// Reads fields one after the other. Every method fails, never panics, when the bytes are not there.
#[derive(Clone, Copy)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8], TransportError> {
        let (taken, rest) = self.0.split_at_checked(n).ok_or(TransportError::Misbehaved("a message is shorter than its fields"))?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn bytes<const N: usize>(&mut self) -> Result<[u8; N], TransportError> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| TransportError::Misbehaved("a message is shorter than its fields"))
    }

    pub fn u8(&mut self) -> Result<u8, TransportError> {
        self.bytes::<1>().map(|[byte]| byte)
    }

    pub fn bool(&mut self) -> Result<bool, TransportError> {
        self.u8().map(|byte| byte != 0)
    }

    pub fn u32(&mut self) -> Result<u32, TransportError> {
        self.bytes().map(u32::from_be_bytes)
    }

    pub fn string(&mut self) -> Result<&'a [u8], TransportError> {
        let len = self.u32()?;
        self.take(usize::try_from(len).unwrap_or(usize::MAX))
    }

    /// The magnitude of an mpint, which must not be negative.
    pub fn mpint(&mut self) -> Result<&'a [u8], TransportError> {
        let bytes = self.string()?;
        match bytes.first() {
            Some(first) if first & 0x80 != 0 => Err(TransportError::Misbehaved("a number is negative")),
            _ => Ok(bytes),
        }
    }

    /// A string that must be UTF-8 (names, user names).
    pub fn text(&mut self) -> Result<&'a str, TransportError> {
        std::str::from_utf8(self.string()?).map_err(|_| TransportError::Misbehaved("a name is not UTF-8"))
    }

    /// A name-list: its names in order. An empty list has none.
    pub fn names(&mut self) -> Result<impl Iterator<Item = &'a str> + Clone + use<'a>, TransportError> {
        Ok(self.text()?.split(',').filter(|name| !name.is_empty()))
    }

    pub fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

pub fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// A string. Ours are short of 4 GiB by construction; a longer one would be cut to that.
pub fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    put_u32(out, len);
    out.extend_from_slice(bytes.get(..len as usize).unwrap_or(bytes));
}

/// A non-negative mpint from big-endian bytes: no leading zeros but the one that keeps it positive.
pub fn put_mpint(out: &mut Vec<u8>, big_endian: &[u8]) {
    let first = big_endian.iter().position(|byte| *byte != 0).unwrap_or(big_endian.len());
    let digits = big_endian.get(first..).unwrap_or_default();
    let sign = usize::from(digits.first().is_some_and(|byte| byte & 0x80 != 0));
    put_u32(out, u32::try_from(digits.len() + sign).unwrap_or(u32::MAX));
    out.extend(std::iter::repeat_n(0, sign));
    out.extend_from_slice(digits);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mpints_are_those_of_rfc_4251() {
        for (value, expected) in [
            (&[0u8, 0][..], &[0u8, 0, 0, 0][..]),
            (&[0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7], &[0, 0, 0, 8, 0x09, 0xa3, 0x78, 0xf9, 0xb2, 0xe3, 0x32, 0xa7]),
            (&[0x80], &[0, 0, 0, 2, 0, 0x80]),
            (&[0, 0, 0x7f], &[0, 0, 0, 1, 0x7f]),
        ] {
            let mut out = Vec::new();
            put_mpint(&mut out, value);
            assert_eq!(out, expected);
        }
    }

    #[test]
    fn a_length_beyond_the_message_is_an_error() {
        let mut reader = Reader::new(&[0xff, 0xff, 0xff, 0xff, 1, 2]);
        assert!(reader.string().is_err());
        assert!(Reader::new(&[0, 0, 0]).u32().is_err());
        assert_eq!(Reader::new(&[0, 0, 0, 3, b'a', b',', b'b']).names().unwrap().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(Reader::new(&[0, 0, 0, 0]).names().unwrap().count(), 0);
    }
}
