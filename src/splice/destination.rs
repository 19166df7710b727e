use crate::audit::Text;
use crate::transport::msg;
use crate::transport::wire::Reader;

/// Bytes of a host name (at most 253) or a socket's path (at most 108) that a channel keeps: the tables hold one for each.
const MAX_DESTINATION: usize = 256;

/// Where a CHANNEL_OPEN goes (RFC 4254, 7.2; OpenSSH's PROTOCOL, 2.4). The first letter of its type does not count: the gate overwrites it in
/// what it refuses.
pub(super) fn destination(message: &[u8]) -> Option<Text> {
    let mut reader = Reader::new(message);
    if reader.u8().ok()? != msg::CHANNEL_OPEN {
        return None;
    }
    let kind = reader.string().ok()?.get(1..)?;
    // The sender's number, its window, its largest packet.
    reader.bytes::<12>().ok()?;
    match kind {
        b"irect-tcpip" | b"orwarded-tcpip" => {
            let (host, port) = (reader.string().ok()?, reader.u32().ok()?);
            let host = String::from_utf8_lossy(host.get(..MAX_DESTINATION).unwrap_or(host));
            Some(Text::new(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }.as_bytes()))
        }
        b"irect-streamlocal@openssh.com" | b"orwarded-streamlocal@openssh.com" => {
            reader.string().ok().map(|path| Text::new(path.get(..MAX_DESTINATION).unwrap_or(path)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::wire::{put_string, put_u32};

    fn open(kind: &str, rest: &[u8]) -> Vec<u8> {
        let mut message = vec![msg::CHANNEL_OPEN];
        put_string(&mut message, kind.as_bytes());
        [0, 1 << 21, 1 << 15].into_iter().for_each(|field| put_u32(&mut message, field));
        message.extend_from_slice(rest);
        message
    }

    #[test]
    fn it_is_told_whether_or_not_the_gate_has_refused_it() {
        let told = |kind: &str, rest: &[u8]| destination(&open(kind, rest)).map(|text| text.as_str().to_owned());
        let mut host = Vec::new();
        put_string(&mut host, b"fd00::1");
        put_u32(&mut host, 22);
        let mut path = Vec::new();
        put_string(&mut path, b"/run/x");
        for first in ["d", "!"] {
            assert_eq!(told(&format!("{first}irect-tcpip"), &host).as_deref(), Some("[fd00::1]:22"));
            assert_eq!(told(&format!("{first}irect-streamlocal@openssh.com"), &path).as_deref(), Some("/run/x"));
        }
        assert_eq!(told("forwarded-tcpip", &host).as_deref(), Some("[fd00::1]:22"));
        for (kind, rest) in [("session", &host[..]), ("", &host), ("direct-tcpip", &host[..8])] {
            assert_eq!(told(kind, rest), None);
        }
        assert!(destination(&[]).is_none());
    }
}
