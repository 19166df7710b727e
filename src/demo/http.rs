use std::io;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One request as it arrived. Header names are in lower case, values trimmed.
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn wants_close(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// The server's end of one HTTP/1.1 connection: keep-alive, one request at a time, bodies with a Content-Length.
pub(super) struct HttpConnection {
    pub(super) stream: TcpStream,
    buffer: BytesMut,
    last: bool,
}

/// Why there is no next request.
pub(super) enum NoRequest {
    /// The client closed, or was silent too long.
    Gone,
    /// The request cannot be read: the status and text of the answer.
    Malformed(u16, &'static str),
}

impl From<io::Error> for NoRequest {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

impl HttpConnection {
    const MAX_HEAD: usize = 16 * 1024;
    const MAX_BODY: usize = 256 * 1024;
    const MAX_HEADERS: usize = 64;
    /// From one request to the next.
    const IDLE: Duration = Duration::from_secs(60);
    /// From a request's first byte to its last.
    const ARRIVAL: Duration = Duration::from_secs(10);
    /// One answer, however slowly the client reads it.
    const DEPARTURE: Duration = Duration::from_secs(30);

    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, buffer: BytesMut::new(), last: false }
    }

    pub(super) async fn next(&mut self) -> Result<Request, NoRequest> {
        if self.last {
            return Err(NoRequest::Gone);
        }
        if self.buffer.is_empty() && timeout(Self::IDLE, self.stream.read_buf(&mut self.buffer)).await.map_err(io::Error::from)?? == 0 {
            return Err(NoRequest::Gone);
        }
        let request = timeout(Self::ARRIVAL, self.read()).await.map_err(io::Error::from)??;
        self.last = request.wants_close();
        Ok(request)
    }

    async fn read(&mut self) -> Result<Request, NoRequest> {
        let head_length = loop {
            if let Some(at) = self.buffer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                break at;
            }
            if self.buffer.len() > Self::MAX_HEAD {
                return Err(NoRequest::Malformed(431, "Request Header Fields Too Large"));
            }
            self.more().await?;
        };
        let head = self.buffer.split_to(head_length + 4);
        let mut request = parse_head(head.get(..head_length).unwrap_or_default())?;
        if request.header("transfer-encoding").is_some() {
            return Err(NoRequest::Malformed(411, "Length Required"));
        }
        let length = match request.header("content-length") {
            None => 0,
            Some(text) => text.parse::<usize>().map_err(|_| NoRequest::Malformed(400, "Bad Request"))?,
        };
        if length > Self::MAX_BODY {
            return Err(NoRequest::Malformed(413, "Content Too Large"));
        }
        while self.buffer.len() < length {
            self.more().await?;
        }
        request.body = self.buffer.split_to(length).to_vec();
        Ok(request)
    }

    async fn more(&mut self) -> Result<(), NoRequest> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(NoRequest::Gone),
            _ => Ok(()),
        }
    }

    /// Sends an answer; `headers` are whole lines.
    pub(super) async fn answer(&mut self, status: &str, headers: &str, body: &[u8]) -> io::Result<()> {
        let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
        self.send(head.as_bytes()).await?;
        self.send(body).await
    }

    /// Bytes as they are.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(Self::DEPARTURE, self.stream.write_all(bytes)).await.map_err(io::Error::from)?
    }
}

fn parse_head(head: &[u8]) -> Result<Request, NoRequest> {
    let bad = || NoRequest::Malformed(400, "Bad Request");
    let head = std::str::from_utf8(head).map_err(|_| bad())?;
    let mut lines = head.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next()) else {
        return Err(bad());
    };
    if version != "HTTP/1.1" || !target.starts_with('/') {
        return Err(bad());
    }
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(bad)?;
        if name.is_empty() || name.contains([' ', '\t']) || headers.len() == HttpConnection::MAX_HEADERS {
            return Err(bad());
        }
        headers.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    Ok(Request { method: method.to_owned(), target: target.to_owned(), headers, body: Vec::new() })
}
