//! The PROXY protocol, version 2 (haproxy.org, proxy-protocol.txt, 2.2): a load balancer's word on where a connection really comes from.
//!
//! **Invariant**: read from the networks of `listen.proxy_protocol_from` alone, and there it must be the first thing said. From anybody else
//! its signature is merely no SSH version line.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::io::{AsyncRead, AsyncReadExt};

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Addresses are 36 bytes at the most; the rest is for what a balancer adds, which is read past.
const MAX_REST: usize = 2048;

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// The client whose connection the balancer passes on.
    Client(SocketAddr),
    /// The balancer itself: a health check.
    Balancer,
}

/// Reads a header, and not a byte behind it. The caller bounds the time.
pub(super) async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Origin> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).await?;
    let rest = rest_len(&head)?;
    let mut rest_bytes = vec![0; rest];
    stream.read_exact(&mut rest_bytes).await?;
    parse(&head, &rest_bytes)
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// How much follows the fixed part.
fn rest_len(head: &[u8; 16]) -> io::Result<usize> {
    let [signature @ .., _, _, high, low] = head;
    if signature != SIGNATURE {
        return Err(bad("the balancer sent no PROXY protocol header of version 2"));
    }
    let len = usize::from(u16::from_be_bytes([*high, *low]));
    if len > MAX_REST { Err(bad("the PROXY protocol header is too long")) } else { Ok(len) }
}

pub(super) fn parse(head: &[u8; 16], rest: &[u8]) -> io::Result<Origin> {
    let [.., version_and_command, family, _, _] = *head;
    match version_and_command {
        0x20 => return Ok(Origin::Balancer),
        0x21 => {}
        _ => return Err(bad("the PROXY protocol header is of another version or an unknown command")),
    }
    let source = match family {
        0x11 => v4(rest),
        0x21 => v6(rest),
        _ => return Err(bad("the PROXY protocol header speaks of no TCP connection")),
    };
    source.map(Origin::Client).ok_or_else(|| bad("the PROXY protocol header is too short for its addresses"))
}

/// Source, destination, source port, destination port.
fn v4(rest: &[u8]) -> Option<SocketAddr> {
    let (source, rest) = rest.split_first_chunk::<4>()?;
    let (_destination, rest) = rest.split_first_chunk::<4>()?;
    Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(*source)), port(rest)?))
}

fn v6(rest: &[u8]) -> Option<SocketAddr> {
    let (source, rest) = rest.split_first_chunk::<16>()?;
    let (_destination, rest) = rest.split_first_chunk::<16>()?;
    Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*source)).to_canonical(), port(rest)?))
}

/// The source's, of the two ports.
fn port(rest: &[u8]) -> Option<u16> {
    let (ports, _) = rest.split_first_chunk::<4>()?;
    let [high, low, _, _] = *ports;
    Some(u16::from_be_bytes([high, low]))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::door) fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap();
        [SIGNATURE.as_slice(), &[command, family], &len.to_be_bytes(), rest].concat()
    }

    async fn read(bytes: &[u8]) -> io::Result<(Origin, Vec<u8>)> {
        let mut stream = bytes;
        let origin = read_header(&mut stream).await?;
        Ok((origin, stream.to_vec()))
    }

    #[tokio::test]
    async fn the_client_is_who_the_balancer_says_and_nothing_behind_is_eaten() {
        let v4 = [&[192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 22][..], b"TLVs"].concat();
        let bytes = [&header(0x21, 0x11, &v4)[..], b"SSH-2.0-x\r\n"].concat();
        let (origin, behind) = read(&bytes).await.unwrap();
        assert_eq!((origin, behind.as_slice()), (Origin::Client("192.0.2.7:4660".parse().unwrap()), &b"SSH-2.0-x\r\n"[..]));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 1, 0xd, 0xb8]);
        v6[33] = 99;
        assert_eq!(read(&header(0x21, 0x21, &v6)).await.unwrap().0, Origin::Client("[2001:db8::]:99".parse().unwrap()));
        v6[..16].copy_from_slice(&Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().octets());
        assert_eq!(read(&header(0x21, 0x21, &v6)).await.unwrap().0, Origin::Client("192.0.2.7:99".parse().unwrap()));
        assert_eq!(read(&header(0x20, 0, b"")).await.unwrap().0, Origin::Balancer);
    }

    #[tokio::test]
    async fn what_is_not_such_a_header_is_refused() {
        let v4 = [192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 22];
        for bytes in [
            b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.7 10.0.0.1 1 22\r\n".to_vec(),
            header(0x11, 0x11, &v4),
            header(0x22, 0x11, &v4),
            header(0x21, 0x00, &v4),
            header(0x21, 0x12, &v4),
            header(0x21, 0x31, &[0; 216]),
            header(0x21, 0x11, &v4[..11]),
            header(0x21, 0x21, &v4),
            header(0x21, 0x11, &[0; MAX_REST + 1]),
            header(0x21, 0x11, &v4)[..20].to_vec(),
            Vec::new(),
        ] {
            assert!(read(&bytes).await.is_err(), "{bytes:?}");
        }
    }
}
