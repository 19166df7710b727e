//! Diffie-Hellman over a group that the server chooses (RFC 4419), in client role: one round trip more than the others.

use super::TransportError;
use super::dh::{DhSecret, Group, MAX_BITS, MIN_BITS};
use super::msg;
use super::wire::{Reader, put_mpint, put_u32};

/// What is asked for: as strong as AES-128. A server with nothing of the size gives the nearest.
const PREFERRED_BITS: u32 = 3072;

/// The sizes as the request and the exchange hash carry them.
fn put_sizes(out: &mut Vec<u8>) {
    [MIN_BITS, PREFERRED_BITS, MAX_BITS].into_iter().for_each(|bits| put_u32(out, bits));
}

/// SSH_MSG_KEY_DH_GEX_REQUEST.
pub(super) fn request() -> Vec<u8> {
    let mut message = vec![msg::GEX_REQUEST];
    put_sizes(&mut message);
    message
}

/// SSH_MSG_KEX_DH_GEX_GROUP → our half over it.
pub(super) fn take_group(message: &[u8]) -> Result<DhSecret, TransportError> {
    let mut reader = Reader::new(message);
    reader.u8()?;
    let (prime, generator) = (reader.mpint()?, reader.mpint()?);
    DhSecret::generate(Group::chosen(prime, generator)?)
}

/// What the exchange hash holds between the host key and the public values (RFC 4419, 3).
pub(super) fn put_group(out: &mut Vec<u8>, group: &Group) {
    put_sizes(out);
    put_mpint(out, &group.prime());
    put_mpint(out, &group.generator());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(prime: &[u8], generator: &[u8]) -> Vec<u8> {
        let mut message = vec![msg::KEX_REPLY];
        put_mpint(&mut message, prime);
        put_mpint(&mut message, generator);
        message
    }

    #[test]
    fn the_messages_are_those_of_rfc_4419() {
        assert_eq!(request(), [34, 0, 0, 8, 0, 0, 0, 12, 0, 0, 0, 32, 0]);
        let prime = Group::fourteen().unwrap().prime();
        let ours = take_group(&group(&prime, &[2])).unwrap();
        let mut hashed = Vec::new();
        put_group(&mut hashed, &ours.group);
        assert_eq!(hashed[..12], request()[1..]);
        assert_eq!(hashed[12..17], [0, 0, 1, 1, 0]);
        assert_eq!((&hashed[17..17 + 256], &hashed[17 + 256..]), (&prime[..], &[0, 0, 0, 1, 2][..]));
    }

    #[test]
    fn hostile_groups_are_refused() {
        let prime = Group::fourteen().unwrap().prime();
        let mut negative = group(&prime, &[2]);
        // The prime without the zero that keeps it positive.
        negative.splice(1..6, [0, 0, 1, 0]);
        let mut cut = group(&prime, &[2]);
        cut.pop();
        for bad in [negative, cut, group(&[5], &[2]), group(&prime, &[1]), group(&prime, &prime), group(&[0xff; 30_000], &[2]), vec![31]] {
            assert!(take_group(&bad).is_err());
        }
    }
}
