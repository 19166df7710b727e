//! A small endpoint on loopback for the tests: it verifies every signature and answers as it is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::sign::Signing;
use crate::access::Secret;

/// What is answered to one request.
#[derive(Debug, Clone)]
pub(super) enum Answer {
    /// Status, further header lines, body.
    Http(u16, String, String),
    Hang,
    Reset,
    /// Less of a body than its header says.
    Half,
    /// This many megabytes.
    Huge(usize),
}

impl Answer {
    pub(super) fn json(body: impl Into<String>) -> Self {
        Self::Http(200, String::new(), body.into())
    }

    pub(super) fn error(code: &str) -> Self {
        Self::json(format!(r#"{{"Response":{{"Error":{{"Code":"{code}","Message":"10.1.2.3 said hunter2"}},"RequestId":"req-1"}}}}"#))
    }

    pub(super) fn access(fleet: &str, instance: &str) -> Self {
        Self::json(format!(
            r#"{{"Response":{{"InstanceAccess":{{"Credentials":{{"UserName":"root","Secret":"a\nb"}},"FleetId":"{fleet}",
               "InstanceId":"{instance}","IpAddress":"192.0.2.7","OperatingSystem":"centos6.7"}},"RequestId":"req-1"}}}}"#
        ))
    }

    pub(super) fn instances(found: &[(&str, &str)]) -> Self {
        let found: Vec<_> = found.iter().map(|(fleet, id)| format!(r#"{{"FleetId":"{fleet}","InstanceId":"{id}"}}"#)).collect();
        Self::json(format!(r#"{{"Response":{{"Instances":[{}],"TotalCount":null,"RequestId":"req-1"}}}}"#, found.join(",")))
    }
}

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub path: String,
    pub action: String,
    pub headers: BTreeMap<String, String>,
    pub body: String,
    pub at: Instant,
    /// Whether `Authorization` is the signature with this id's key.
    pub signed: bool,
}

type Script = dyn Fn(&Request, usize) -> Answer + Send + Sync;

/// Ends with its last connection when dropped.
pub(super) struct Simulated {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The secret key of an id, for the one who signs and the one who verifies.
pub(super) fn key_of(id: &str) -> Secret {
    Secret::new(format!("key-of-{id}").into_bytes())
}

impl Simulated {
    /// Answers with `script`, which gets the request and how many came before it.
    pub(super) async fn start(script: impl Fn(&Request, usize) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let script: Arc<Script> = Arc::new(script);
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                let mut connections = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    connections.spawn(serve(stream, seen.clone(), script.clone()));
                }
            }
        });
        Self { address, seen, task }
    }

    pub(super) fn seen(&self) -> Vec<Request> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn actions(&self) -> Vec<String> {
        self.seen().into_iter().map(|request| request.action).collect()
    }
}

async fn serve(stream: TcpStream, seen: Arc<Mutex<Vec<Request>>>, script: Arc<Script>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let before = {
            let mut seen = seen.lock().unwrap();
            seen.push(request.clone());
            seen.len() - 1
        };
        let answered = match script(&request, before) {
            Answer::Http(status, headers, body) => {
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await
            }
            Answer::Hang => {
                tokio::time::sleep(Duration::from_secs(60)).await;
                return;
            }
            Answer::Reset => {
                let _ = stream.get_ref().set_zero_linger();
                return;
            }
            Answer::Half => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{\"Response\":{").await;
                return;
            }
            Answer::Huge(megabytes) => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
                let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
                for _ in 0..megabytes {
                    if stream.write_all(chunk.as_bytes()).await.is_err() {
                        return;
                    }
                }
                return;
            }
        };
        if answered.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
    let mut body = vec![0; header("content-length").parse().unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    let authorization = header("authorization");
    let id = authorization.split_once("Credential=").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(id, _)| id);
    let signing = Signing {
        host: &header("host"),
        service: "gse",
        content_type: &header("content-type"),
        timestamp: header("x-tc-timestamp").parse().unwrap_or(0),
        body: &body,
    };
    let signed = signing.authorization(id, &key_of(id)).unwrap() == authorization;
    let body = String::from_utf8(body).ok()?;
    Some(Request { path, action: header("x-tc-action"), headers, body, at: Instant::now(), signed })
}
