use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// RFC 4253, 4.2: the identification line, its CR LF with it.
const LINE_MAX: usize = 255;
/// What is read at once: the line and what the client may have sent behind it.
const READ_MAX: usize = 1024;

/// What this side calls itself. It names neither the library nor a version.
pub(super) const IDENTIFICATION: &str = "SSH-2.0-ssh-broker";

/// What a client sent first: its identification, read before the SSH library starts so that the algorithms can be chosen by it.
#[derive(Debug)]
pub(super) struct Prelude {
    /// `SSH-2.0-OpenSSH_9.2p1 …`, without its line end.
    pub(super) client_version: String,
    /// Every byte that was taken from the stream, for whoever reads it from the beginning.
    pub(super) taken: Vec<u8>,
}

impl Prelude {
    /// Identifies this side, then reads the client's line. Ours goes first because some clients wait for it. The caller bounds the time.
    pub(super) async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) -> io::Result<Self> {
        stream.write_all(format!("{IDENTIFICATION}\r\n").as_bytes()).await?;
        let mut taken = Vec::with_capacity(READ_MAX);
        loop {
            if let Some(client_version) = identification(&taken)? {
                return Ok(Self { client_version, taken });
            }
            if stream.read_buf(&mut taken).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// The first line once it is whole. A client sends nothing before it, so a wrong beginning is wrong at once.
fn identification(taken: &[u8]) -> io::Result<Option<String>> {
    let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidData, what));
    let beginning = |prefix: &[u8]| taken.iter().zip(prefix).all(|(a, b)| a == b);
    if !beginning(b"SSH-2.0-") && !beginning(b"SSH-1.99-") {
        return wrong("not an SSH 2 client");
    }
    let Some(end) = taken.iter().take(LINE_MAX).position(|byte| *byte == b'\n') else {
        return if taken.len() < LINE_MAX { Ok(None) } else { wrong("an identification line longer than 255 bytes") };
    };
    let line = taken.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if !line.iter().all(|byte| matches!(byte, b' '..=b'~')) {
        return wrong("an identification line that is not printable ASCII");
    }
    Ok(Some(String::from_utf8_lossy(line).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_whole_or_awaited_or_wrong() {
        assert_eq!(identification(b"SSH-2.0-Open").unwrap(), None);
        assert_eq!(identification(b"").unwrap(), None);
        assert_eq!(identification(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\n\0\0\x05").unwrap().unwrap(), "SSH-2.0-OpenSSH_9.2p1 Debian");
        assert_eq!(identification(b"SSH-1.99-x\n").unwrap().unwrap(), "SSH-1.99-x");
        for wrong in
            [&b"GET / HTTP/1.1\r\n"[..], b"SSH-1.5-x\r\n", b"SSH-2.0-\x1b[2J\r\n", b"\n", &[b"SSH-2.0-".as_slice(), &[b'x'; 250]].concat()]
        {
            assert!(identification(wrong).is_err(), "{wrong:?}");
        }
    }
}
