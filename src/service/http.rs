//! Metrics and health over HTTP/1.1: one request a connection, `GET` only, for a few askers at a time.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::Service;
use super::metrics::Metrics;

/// Bytes of a request that are read; what comes behind the request line is of no interest.
const MAX_REQUEST: usize = 8 * 1024;
const MAX_ASKERS: usize = 16;
const DEADLINE: Duration = Duration::from_secs(5);
/// After an accept that failed for want of something that others hold.
const BACKOFF: Duration = Duration::from_millis(100);

pub(super) async fn serve(listener: TcpListener, service: Arc<Service>, metrics: Arc<Metrics>, alive: Arc<AtomicBool>) {
    let desk = Arc::new(Desk { service, metrics, alive });
    let askers = Arc::new(Semaphore::new(MAX_ASKERS));
    while let Ok(asker) = askers.clone().acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                let desk = desk.clone();
                tokio::spawn(async move {
                    let _ = timeout(DEADLINE, desk.answer(stream)).await;
                    drop(asker);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection for metrics");
                sleep(BACKOFF).await;
            }
        }
    }
}

struct Desk {
    service: Arc<Service>,
    metrics: Arc<Metrics>,
    alive: Arc<AtomicBool>,
}

#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Metrics,
    Health,
    Readiness,
    Unknown,
    NotGet,
    NotHttp,
}

fn asked(request: &[u8]) -> Asked {
    let line = request.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let Ok(line) = std::str::from_utf8(line) else { return Asked::NotHttp };
    let mut words = line.trim_end().split(' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some("GET"), Some(path), Some(version), None) if version.starts_with("HTTP/1.") => match path.split('?').next() {
            Some("/metrics") => Asked::Metrics,
            Some("/healthz") => Asked::Health,
            Some("/readyz") => Asked::Readiness,
            _ => Asked::Unknown,
        },
        (Some(_), Some(_), Some(version), None) if version.starts_with("HTTP/1.") => Asked::NotGet,
        _ => Asked::NotHttp,
    }
}

impl Desk {
    async fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut request = Vec::with_capacity(1024);
        while !request.windows(4).any(|end| end == b"\r\n\r\n") && request.len() < MAX_REQUEST {
            if (&mut stream).take((MAX_REQUEST - request.len()) as u64).read_buf(&mut request).await? == 0 {
                break;
            }
        }
        let (status, body) = match asked(&request) {
            Asked::Metrics => ("200 OK", self.metrics.render(&self.service)),
            Asked::Health if self.alive.load(Ordering::Relaxed) => ("200 OK", "ok\n".to_owned()),
            Asked::Health => ("503 Service Unavailable", "the accept loops or all sessions do not answer\n".to_owned()),
            Asked::Readiness => self.readiness(),
            Asked::Unknown => ("404 Not Found", "/metrics, /healthz, /readyz\n".to_owned()),
            Asked::NotGet => ("405 Method Not Allowed", String::new()),
            Asked::NotHttp => ("400 Bad Request", String::new()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        stream.shutdown().await
    }

    /// Whether it can serve, by the things that it needs for it.
    fn readiness(&self) -> (&'static str, String) {
        let mut body = String::new();
        let mut ready = true;
        for (what, state) in self.service.needs() {
            ready &= state.is_ok();
            let _ = writeln!(body, "{what}: {}", state.err().unwrap_or_else(|| "ok".to_owned()));
        }
        (if ready { "200 OK" } else { "503 Service Unavailable" }, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_get_requests_for_what_there_is() {
        for (request, expected) in [
            (&b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n"[..], Asked::Metrics),
            (b"GET /metrics?name[]=a HTTP/1.0\r\n\r\n", Asked::Metrics),
            (b"GET /healthz HTTP/1.1\r\n\r\n", Asked::Health),
            (b"GET /readyz HTTP/1.1\r\n\r\n", Asked::Readiness),
            (b"GET / HTTP/1.1\r\n\r\n", Asked::Unknown),
            (b"POST /metrics HTTP/1.1\r\n\r\n", Asked::NotGet),
            (b"GET /metrics\r\n\r\n", Asked::NotHttp),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Asked::NotHttp),
            (b"\xff\xfe", Asked::NotHttp),
            (b"", Asked::NotHttp),
        ] {
            assert_eq!(asked(request), expected, "{}", String::from_utf8_lossy(request));
        }
    }
}
