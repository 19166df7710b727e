use aws_lc_rs::rand;

use super::cipher::{LEN, Opener, Sealer};
use super::{Buffer, TransportError};

/// The largest packet taken from a peer, length field and tag apart. RFC 4253, 6.1 asks for 35,000; OpenSSH takes 256 KiB.
pub const MAX_PACKET: usize = 256 * 1024;
/// Before keys are there, nothing honest is as long (a KEXINIT of OpenSSH has 1.5 KiB).
const MAX_CLEAR_PACKET: usize = 35_000;
/// Length field and padding length: where the payload of an opened packet begins.
pub(super) const HEADER: usize = LEN + 1;
const MIN_PADDING: usize = 4;

/// What one direction has carried under its present keys.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) bytes: u64,
    pub(super) packets: u64,
}

impl Usage {
    fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.packets += 1;
    }
}

/// Bytes from the peer → packets (RFC 4253, 6).
pub(super) struct Inbound {
    pub(super) received: Buffer,
    opener: Opener,
    seq: u32,
    pub(super) usage: Usage,
    discard: Option<Discard>,
}

/// A broken packet of CBC is told only when as much has come as the longest packet has, however long it was and wherever it broke, and
/// after as long a MAC. So an attacker who puts a block of another packet in front learns nothing of its plain text from the answer
/// (CVE-2008-5161); OpenSSH's `packet_discard` does the same.
struct Discard {
    left: usize,
    /// Bytes that a MAC was made of.
    judged: usize,
}

impl Inbound {
    pub(super) fn new() -> Self {
        Self { received: Buffer::default(), opener: Opener::Clear, seq: 0, usage: Usage::default(), discard: None }
    }

    /// Whether a broken packet is being read past: the leg's end is certain, and waits for the peer.
    pub(super) fn is_discarding(&self) -> bool {
        self.discard.is_some()
    }

    fn discard(&mut self) -> Result<Option<usize>, TransportError> {
        let Some(Discard { left, judged }) = &mut self.discard else { return Ok(None) };
        let n = self.received.len().min(*left);
        self.received.sent(n);
        *left -= n;
        if *left > 0 {
            return Ok(None);
        }
        self.opener.work_in_vain((LEN + MAX_PACKET).saturating_sub(*judged));
        *judged = usize::MAX;
        Err(TransportError::Misbehaved("a packet's length or authentication tag is wrong"))
    }

    /// The sequence number of the packet that [`Inbound::open_next`] gave last.
    pub(super) fn last_seq(&self) -> u32 {
        self.seq.wrapping_sub(1)
    }

    pub(super) fn rekey(&mut self, opener: Opener, reset_seq: bool) {
        self.opener = opener;
        self.usage = Usage::default();
        if reset_seq {
            self.seq = 0;
        }
    }

    /// Whether the sequence number came round: strict KEX forbids it in the first key exchange.
    pub(super) fn wrapped(&self) -> bool {
        self.usage.packets > u64::from(u32::MAX)
    }

    /// Bytes of the longest packet.
    fn longest(&self) -> usize {
        LEN + MAX_PACKET + self.opener.tag_len()
    }

    /// Opens the next packet to the tail of `into`, as length field, padding length, payload, padding. Gives the payload's length; `None`
    /// when the packet has not all come.
    pub(super) fn open_next(&mut self, into: &mut Buffer) -> Result<Option<usize>, TransportError> {
        if self.discard.is_some() {
            return self.discard();
        }
        let Some(len) = self.opener.packet_length(self.seq, self.received.unsent()) else { return Ok(None) };
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let max = if matches!(self.opener, Opener::Clear) { MAX_CLEAR_PACKET } else { MAX_PACKET };
        let (block, with_len) = self.opener.block();
        let aligned = if with_len { len.saturating_add(LEN) } else { len };
        if len > max || len < 1 + MIN_PADDING || !aligned.is_multiple_of(block) {
            if self.opener.tells_by_time() {
                self.discard = Some(Discard { left: self.longest(), judged: 0 });
                return self.discard();
            }
            return Err(TransportError::Misbehaved("a packet's length is out of bounds"));
        }
        let whole = LEN + len + self.opener.tag_len();
        let Some(sealed) = self.received.unsent().get(..whole) else { return Ok(None) };
        let start = into.tail();
        let opened = self.opener.open(self.seq, sealed, into.grow(LEN + len));
        if opened.is_err() && self.opener.tells_by_time() {
            into.truncate(start);
            self.discard = Some(Discard { left: self.longest(), judged: LEN + len });
            return self.discard();
        }
        self.received.sent(whole);
        self.seq = self.seq.wrapping_add(1);
        self.usage.count(whole);
        let padding = into.since(start).get(LEN).copied().map_or(usize::MAX, usize::from);
        // RFC 4253, 6: at least four bytes of padding, and a payload before it.
        match (opened, len.checked_sub(padding.saturating_add(1)).filter(|_| padding >= MIN_PADDING)) {
            (Ok(()), Some(payload @ 1..)) => Ok(Some(payload)),
            (Err(error), _) => {
                into.truncate(start);
                Err(error)
            }
            (Ok(()), _) => {
                into.truncate(start);
                Err(TransportError::Misbehaved("a packet's padding is out of bounds"))
            }
        }
    }
}

/// Messages → packets to the peer.
pub(super) struct Outbound {
    pub(super) buffer: Buffer,
    sealer: Sealer,
    seq: u32,
    pub(super) usage: Usage,
}

impl Outbound {
    pub(super) fn new() -> Self {
        Self { buffer: Buffer::default(), sealer: Sealer::Clear, seq: 0, usage: Usage::default() }
    }

    pub(super) fn rekey(&mut self, sealer: Sealer, reset_seq: bool) {
        self.sealer = sealer;
        self.usage = Usage::default();
        if reset_seq {
            self.seq = 0;
        }
    }

    /// Copies one message in and seals it.
    pub(super) fn put(&mut self, payload: &[u8]) -> Result<(), TransportError> {
        let start = self.buffer.tail();
        self.buffer.grow(HEADER);
        self.buffer.put(payload);
        self.seal(start, payload.len())
    }

    /// Makes a packet of the payload that stands at `start` + [`HEADER`]: whatever followed it is replaced by our own padding, of zeros
    /// where the cipher does not mind, and the tag. Nothing of an earlier use of the memory leaves with it.
    pub(super) fn seal(&mut self, start: usize, payload: usize) -> Result<(), TransportError> {
        let sealed = self.seal_in_place(start, payload);
        if sealed.is_err() {
            // What is not sealed must not leave.
            self.buffer.truncate(start);
        }
        sealed
    }

    fn seal_in_place(&mut self, start: usize, payload: usize) -> Result<(), TransportError> {
        // A nonce comes of it. New keys are asked for long before; whoever never gives them gets no packet under a nonce that was used.
        if self.usage.packets > u64::from(u32::MAX) {
            return Err(TransportError::Crypto("a sequence number for one more packet under the same keys"));
        }
        let (block, with_len) = self.sealer.block();
        let unpadded = if with_len { HEADER + payload } else { 1 + payload };
        let mut padding = block - unpadded % block;
        if padding < MIN_PADDING {
            padding += block;
        }
        let len = 1 + payload + padding;
        let tag = self.sealer.tag_len();
        self.buffer.truncate(start + HEADER + payload);
        let filled = self.buffer.grow(padding);
        match self.sealer.wants_random_padding() {
            true => rand::fill(filled).map_err(|_| TransportError::Crypto("random numbers"))?,
            false => filled.fill(0),
        }
        self.buffer.grow(tag);
        let packet = self.buffer.since(start);
        let too_long = || TransportError::Crypto("a message longer than a packet can be");
        let [a, b, c, d] = u32::try_from(len).map_err(|_| too_long())?.to_be_bytes();
        let padding = u8::try_from(padding).map_err(|_| too_long())?;
        packet.get_mut(..HEADER).ok_or_else(too_long)?.copy_from_slice(&[a, b, c, d, padding]);
        self.sealer.seal(self.seq, packet)?;
        self.seq = self.seq.wrapping_add(1);
        self.usage.count(LEN + len + tag);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::cipher::{CipherName, Keys};
    use super::super::mac::{Mac, MacName};
    use super::*;

    fn keys<'a>(cipher: &str, mac: &str, material: &'a [u8; 64]) -> Keys<'a> {
        let cipher = CipherName::find(cipher).unwrap();
        let mac = MacName::find(mac).filter(|_| !cipher.is_aead()).map(|name| Mac::new(name, &material[..name.key_len]));
        Keys { cipher, key: &material[..cipher.key_len], iv: &material[..cipher.iv_len], mac }
    }

    const SUITES: [(&str, &str); 14] = [
        ("aes128-gcm@openssh.com", ""),
        ("aes256-gcm@openssh.com", ""),
        ("chacha20-poly1305@openssh.com", ""),
        ("aes128-ctr", "hmac-sha2-256"),
        ("aes192-ctr", "hmac-sha2-512"),
        ("aes256-ctr", "hmac-sha2-256-etm@openssh.com"),
        ("aes256-ctr", "hmac-sha2-512-etm@openssh.com"),
        ("aes128-cbc", "hmac-sha1"),
        ("aes192-cbc", "hmac-md5"),
        ("aes256-cbc", "hmac-sha1-etm@openssh.com"),
        ("3des-cbc", "hmac-sha1"),
        ("3des-cbc", "hmac-md5"),
        ("3des-cbc", "hmac-sha2-256-etm@openssh.com"),
        ("aes128-ctr", "hmac-sha1"),
    ];

    fn pair(suite: (&str, &str)) -> (Outbound, Inbound) {
        let material = std::array::from_fn(|i| i as u8);
        let (mut out, mut inbound) = (Outbound::new(), Inbound::new());
        out.rekey(Sealer::new(keys(suite.0, suite.1, &material)).unwrap(), true);
        inbound.rekey(Opener::new(keys(suite.0, suite.1, &material)).unwrap(), true);
        (out, inbound)
    }

    #[test]
    fn every_suite_opens_what_it_sealed_in_any_portions() {
        for suite in SUITES {
            let (mut out, mut inbound) = pair(suite);
            let sizes = [1, 2, 11, 12, 13, 100, 255, 1000, 32_768 + 9, 35_000, 200_000];
            for size in sizes {
                out.put(&vec![size as u8; size]).unwrap();
            }
            let mut opened = Buffer::default();
            let mut got = Vec::new();
            for portion in out.buffer.unsent().chunks(977) {
                inbound.received.put(portion);
                loop {
                    let start = opened.tail();
                    let Some(len) = inbound.open_next(&mut opened).unwrap() else { break };
                    let payload = &opened.since(start)[HEADER..HEADER + len];
                    assert!(payload.iter().all(|byte| *byte == len as u8), "{suite:?}");
                    got.push(len);
                    opened.truncate(start);
                }
            }
            assert_eq!(got, sizes, "{suite:?}");
        }
    }

    #[test]
    fn one_changed_bit_anywhere_ends_the_stream() {
        for suite in SUITES {
            for position in [4usize, 5, 20, 40] {
                let (mut out, mut inbound) = pair(suite);
                out.put(&[7; 40]).unwrap();
                let mut bytes = out.buffer.unsent().to_vec();
                let at = bytes.len() - position;
                bytes[at] ^= 1;
                inbound.received.put(&bytes);
                if inbound.opener.tells_by_time() {
                    inbound.received.put(&vec![0; inbound.longest()]);
                }
                let mut opened = Buffer::default();
                assert!(matches!(inbound.open_next(&mut opened), Err(TransportError::Misbehaved(_))), "{suite:?}");
                assert!(opened.is_empty());
            }
        }
    }

    /// How many bytes of a broken packet and what follows it have to come until it is told, and as what.
    fn told_after(suite: (&str, &str), break_at: usize) -> (usize, String) {
        let (mut out, mut inbound) = pair(suite);
        out.put(&[7; 1000]).unwrap();
        let mut bytes = out.buffer.unsent().to_vec();
        bytes[break_at] ^= 0x10;
        bytes.resize(2 * inbound.longest(), 0x42);
        let mut opened = Buffer::default();
        let mut given = 0;
        while given < bytes.len() {
            // One by one where it could be told.
            let far = (1100..LEN + MAX_PACKET - 1000).contains(&given);
            let next = given + if far { 1000 } else { 1 };
            inbound.received.put(&bytes[given..next]);
            given = next;
            match inbound.open_next(&mut opened) {
                Ok(None) => assert!(opened.is_empty() && inbound.received.len() < 2048),
                Ok(Some(_)) => panic!("it opens"),
                Err(error) => {
                    assert!(!inbound.is_discarding() || inbound.open_next(&mut opened).is_err());
                    return (given, error.to_string());
                }
            }
        }
        panic!("it is never told");
    }

    #[test]
    fn a_broken_packet_of_cbc_is_told_at_one_place_and_as_one_thing_wherever_it_broke() {
        for suite in [("aes128-cbc", "hmac-sha1"), ("3des-cbc", "hmac-md5")] {
            // Its length: much too long, a little shorter, no whole number of blocks. Its padding length, its payload, its tag.
            let told: Vec<_> = [0, 2, 3, 4, 500, 1020].map(|at| told_after(suite, at)).into();
            assert!(told.iter().all(|one| *one == told[0]), "{told:?}");
            assert_eq!(told[0].0, LEN + MAX_PACKET + MacName::find(suite.1).map(|name| Mac::new(name, &[0; 20]).len()).unwrap());
        }
        // Where the MAC judges before anything is decrypted there is nothing to hide.
        assert!(told_after(("aes128-cbc", "hmac-sha1-etm@openssh.com"), 500).0 < 1100);
        assert!(told_after(("aes128-ctr", "hmac-sha1"), 500).0 < 1100);
    }

    #[test]
    fn padding_is_random_with_cbc() {
        let sealed = |suite| {
            let (mut out, _) = pair(suite);
            out.put(&[7; 8]).unwrap();
            out.buffer.unsent().to_vec()
        };
        assert_eq!(sealed(("aes128-ctr", "hmac-sha1")), sealed(("aes128-ctr", "hmac-sha1")));
        assert_ne!(sealed(("aes128-cbc", "hmac-sha1")), sealed(("aes128-cbc", "hmac-sha1")));
    }

    #[test]
    fn lengths_are_bounded_before_anything_is_allocated() {
        for len in [0u32, 1, 4, 7, 35_004, u32::MAX] {
            let mut inbound = Inbound::new();
            inbound.received.put(&len.to_be_bytes());
            inbound.received.put(&[0; 64]);
            let result = inbound.open_next(&mut Buffer::default());
            assert!(matches!(result, Err(TransportError::Misbehaved(_))), "{len}");
        }
    }

    #[test]
    fn padding_longer_than_its_packet_or_too_short_is_refused() {
        for padding in [0, 3, 11, 255] {
            let mut inbound = Inbound::new();
            inbound.received.put(&[0, 0, 0, 12, padding, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
            assert!(inbound.open_next(&mut Buffer::default()).is_err(), "{padding}");
        }
    }
}
