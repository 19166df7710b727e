use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

/// How the broker names itself: no product version for attackers to look up.
pub(super) const VERSION: &str = "SSH-2.0-ssh-broker";
/// RFC 4253, 4.2: the line end included.
const MAX_LINE: usize = 255;

/// A stream whose version exchange has been done ahead, so that algorithms can be chosen by what the client calls itself. The library
/// behind gets the client's line as if nothing had happened, and its own line is not sent again.
pub(super) struct Prelude<S> {
    stream: S,
    /// What was read to find the client's line, until it is read again.
    replay: Vec<u8>,
    replayed: usize,
    /// Bytes of the library's own version line that are still to be swallowed.
    swallow: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Prelude<S> {
    /// Says our version, reads the client's. The caller bounds the time.
    pub(super) async fn exchange(mut stream: S) -> io::Result<(String, Self)> {
        let ours = format!("{VERSION}\r\n");
        stream.write_all(ours.as_bytes()).await?;
        // What came behind the line is replayed with it.
        let mut replay = Vec::with_capacity(MAX_LINE);
        let end = loop {
            match replay.iter().position(|byte| *byte == b'\n') {
                Some(end) => break end,
                None if replay.len() >= MAX_LINE => {
                    return Err(io::Error::new(io::ErrorKind::InvalidData, "the client's version line is too long"));
                }
                None if (&mut stream).take((MAX_LINE - replay.len()) as u64).read_buf(&mut replay).await? == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                None => {}
            }
        };
        let line = replay.get(..end).unwrap_or_default();
        let text = std::str::from_utf8(line).ok().map(str::trim_end).filter(|text| text.starts_with("SSH-2.0-"));
        let version = text.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the client does not speak SSH 2"))?.to_owned();
        Ok((version, Self { stream, replay, replayed: 0, swallow: ours.len() }))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prelude<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(rest) = this.replay.get(this.replayed..)
            && !rest.is_empty()
        {
            let taken = rest.len().min(buf.remaining());
            buf.put_slice(rest.get(..taken).unwrap_or_default());
            this.replayed += taken;
            if this.replayed == this.replay.len() {
                (this.replay, this.replayed) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prelude<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let swallowed = self.swallow.min(buf.len());
        let rest = buf.get(swallowed..).unwrap_or_default();
        if rest.is_empty() {
            self.swallow -= swallowed;
            return Poll::Ready(Ok(swallowed));
        }
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
        self.swallow -= swallowed;
        Poll::Ready(Ok(swallowed + written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Whether a client of this name has AES-GCM for certain. OpenSSH since 6.2; asyncssh in every 2.x.
pub(super) fn has_aes_gcm(version: &str) -> bool {
    let Some(software) = version.strip_prefix("SSH-2.0-") else { return false };
    if let Some(release) = software.strip_prefix("OpenSSH_") {
        let number = |text: &str| {
            text.bytes().take_while(u8::is_ascii_digit).fold(0u32, |n, digit| n.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
        };
        let (major, minor) = release.split_once('.').unwrap_or((release, ""));
        return (number(major), number(minor)) >= (6, 2);
    }
    software.starts_with("AsyncSSH_2.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_library_sees_the_clients_line_and_its_own_is_sent_once() {
        let (near, mut far) = tokio::io::duplex(1024);
        far.write_all(b"SSH-2.0-OpenSSH_9.2p1 Debian\r\nrest").await.unwrap();
        let (version, mut prelude) = Prelude::exchange(near).await.unwrap();
        assert_eq!(version, "SSH-2.0-OpenSSH_9.2p1 Debian");
        prelude.write_all(b"SSH-2.0-ssh-broker\r\nkexinit").await.unwrap();
        let mut seen = [0; 34];
        prelude.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"SSH-2.0-OpenSSH_9.2p1 Debian\r\nrest");
        drop(prelude);
        let mut sent = Vec::new();
        far.read_to_end(&mut sent).await.unwrap();
        assert_eq!(sent, b"SSH-2.0-ssh-broker\r\nkexinit");
    }

    #[tokio::test]
    async fn what_is_no_version_line_is_refused() {
        for bad in [&b"GET / HTTP/1.1\r\n"[..], b"SSH-1.5-old\r\n", &[b'a'; 300], b"SSH-2.0-\xff\xff\r\n"] {
            let (near, mut far) = tokio::io::duplex(1024);
            far.write_all(bad).await.unwrap();
            assert!(Prelude::exchange(near).await.is_err());
        }
    }

    #[test]
    fn only_clients_known_to_have_it_are_offered_gcm_alone() {
        for (version, expected) in [
            ("SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u6", true),
            ("SSH-2.0-OpenSSH_10.0", true),
            ("SSH-2.0-OpenSSH_for_Windows_9.5", false),
            ("SSH-2.0-OpenSSH_6.2", true),
            ("SSH-2.0-OpenSSH_6.1p1", false),
            ("SSH-2.0-OpenSSH_5.3", false),
            ("SSH-2.0-AsyncSSH_2.21.0", true),
            ("SSH-2.0-dropbear_2022.83", false),
            ("SSH-2.0-paramiko_3.4.0", false),
            ("SSH-2.0-PuTTY_Release_0.78", false),
            ("", false),
        ] {
            assert_eq!(has_aes_gcm(version), expected, "{version}");
        }
    }
}
