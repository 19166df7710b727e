//! A peer that speaks as much SSH as an attack needs, in plain text: no library would send such things.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

pub const VERSION: &[u8] = b"SSH-2.0-OpenSSH_9.2p1\r\n";
/// What the broker is given to answer or to close.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Peer(pub TcpStream);

impl Peer {
    /// From an address of its own: on loopback every 127.x.y.z is there.
    pub fn from(source: &str, to: SocketAddr) -> Self {
        Self::try_from(source, to).unwrap()
    }

    pub fn try_from(source: &str, to: SocketAddr) -> std::io::Result<Self> {
        let source: IpAddr = source.parse().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::new(source, 0).into())?;
        socket.connect_timeout(&to.into(), PATIENCE)?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    pub fn say(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.0.write_all(bytes)
    }

    /// Everything until the broker closes; `None` when it does not.
    pub fn until_closed(&mut self) -> Option<Vec<u8>> {
        let (mut all, mut buffer) = (Vec::new(), [0; 16 * 1024]);
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return Some(all),
                Ok(n) => all.extend_from_slice(&buffer[..n]),
                Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => return None,
                Err(_) => return Some(all),
            }
        }
    }

    /// The first line that comes, as far as one does.
    pub fn line(&mut self) -> String {
        let (mut line, mut byte) = (Vec::new(), [0]);
        while self.0.read(&mut byte).is_ok_and(|n| n == 1) && byte != *b"\n" && line.len() < 512 {
            line.push(byte[0]);
        }
        String::from_utf8_lossy(&line).trim_end().to_owned()
    }
}

/// A packet in plain text (RFC 4253, 6).
pub fn packet(payload: &[u8]) -> Vec<u8> {
    let padding = 8 - (payload.len() + 5) % 8 + if (payload.len() + 5) % 8 > 4 { 8 } else { 0 };
    let len = u32::try_from(1 + payload.len() + padding).unwrap();
    [&len.to_be_bytes()[..], &[u8::try_from(padding).unwrap()], payload, &vec![0; padding]].concat()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// KEXINIT with these lists of key exchanges and host keys.
pub fn kexinit(kex: &str, host_key: &str) -> Vec<u8> {
    let mut message = vec![20];
    message.extend([7; 16]);
    for list in
        [kex, host_key, "aes128-gcm@openssh.com", "aes128-gcm@openssh.com", "hmac-sha2-256", "hmac-sha2-256", "none", "none", "", ""]
    {
        message.extend(string(list.as_bytes()));
    }
    message.extend([0; 5]);
    message
}

/// KEX_ECDH_INIT with this public key.
pub fn ecdh_init(key: &[u8]) -> Vec<u8> {
    [&[30][..], &string(key)].concat()
}
