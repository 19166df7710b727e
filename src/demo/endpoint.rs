use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::action::Action;
use super::cloud::{Cloud, Mode, Reply, State};
use super::fault::{Fault, Script, Times};
use super::http::{HttpConnection, NoRequest};
use super::inventory::Inventory;
use super::ledger::Ledger;
use super::signature::ApiKey;
use super::tasks::{Spawner, Tasks};

pub struct EndpointConfig {
    pub key: ApiKey,
    pub region: String,
    /// For each action, in any sliding second.
    pub requests_per_second: usize,
    pub inventory: Inventory,
    pub mode: Mode,
}

/// A simulated GSE endpoint on loopback, over plain HTTP/1.1. It checks signature, time, headers and quota as the real one does, counts
/// what it is asked, and misbehaves on request. Dropping it stops it.
pub struct Endpoint {
    address: SocketAddr,
    cloud: Arc<Cloud>,
    tasks: Tasks,
}

/// Connections served at once.
const MAX_CONNECTIONS: usize = 256;

impl Endpoint {
    pub async fn start(config: EndpointConfig) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let EndpointConfig { key, region, requests_per_second, inventory, mode } = config;
        let state = State { key, inventory, mode, script: Script::default(), ledger: Ledger::default(), clock_ahead: 0 };
        let cloud = Arc::new(Cloud::new(region, requests_per_second, state));
        let tasks = Tasks::new();
        if let Some(spawner) = tasks.spawner() {
            spawner.spawn(serve(listener, cloud.clone(), spawner.clone()));
        }
        Ok(Self { address, cloud, tasks })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn set_mode(&self, mode: Mode) {
        self.cloud.state().mode = mode;
    }

    /// Replaces the API key that is accepted.
    pub fn set_key(&self, key: ApiKey) {
        self.cloud.state().key = key;
    }

    /// Changes what the cloud knows: rotate a secret, move an instance, add or remove one.
    pub fn change<T>(&self, change: impl FnOnce(&mut Inventory) -> T) -> T {
        change(&mut self.cloud.state().inventory)
    }

    /// Sets the endpoint's clock ahead of (or, negative, behind) the true time.
    pub fn set_clock_ahead(&self, seconds: i64) {
        self.cloud.state().clock_ahead = seconds;
    }

    /// Faults of one action come in the order they are set.
    pub fn fault(&self, action: Action, fault: Fault, times: Times) {
        self.cloud.state().script.push(action, fault, times);
    }

    /// Delays every answer of this action.
    pub fn set_latency(&self, action: Action, latency: Duration) {
        self.cloud.state().script.set_latency(action, latency);
    }

    /// Forgets all faults and latencies.
    pub fn clear_faults(&self) {
        self.cloud.state().script.clear();
    }

    /// Calls that arrived, throttled and failed ones included.
    pub fn calls(&self, action: Action) -> u64 {
        self.cloud.state().ledger.calls(action)
    }

    /// When they arrived (the last 100,000).
    pub fn arrivals(&self, action: Action) -> Vec<Instant> {
        self.cloud.state().ledger.arrivals(action)
    }

    /// The most calls that arrived in any second.
    pub fn max_in_any_second(&self, action: Action) -> usize {
        self.cloud.state().ledger.max_in_any_second(action)
    }

    /// Calls refused by the quota, all actions together.
    pub fn throttled(&self) -> u64 {
        self.cloud.state().ledger.throttled()
    }

    /// Stops and waits until every connection is gone.
    pub async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn serve(listener: TcpListener, cloud: Arc<Cloud>, spawner: Spawner) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "the simulated endpoint could not accept");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let cloud = cloud.clone();
        spawner.spawn(async move {
            let served = serve_connection(stream, &cloud).await;
            tracing::trace!(?served, "a connection to the simulated endpoint ended");
            drop(permit);
        });
    }
}

async fn serve_connection(stream: TcpStream, cloud: &Cloud) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = HttpConnection::new(stream);
    loop {
        let request = match connection.next().await {
            Ok(request) => request,
            Err(NoRequest::Gone) => return Ok(()),
            Err(NoRequest::Malformed(status, reason)) => {
                return connection.answer(&format!("{status} {reason}"), "Connection: close\r\n", b"").await;
            }
        };
        let (reply, latency, date) = cloud.reply(&request, Instant::now())?;
        tokio::time::sleep(latency).await;
        let headers = format!("Content-Type: application/json\r\nDate: {date}\r\n");
        match reply {
            Reply::Body(body) => connection.answer("200 OK", &headers, &body).await?,
            Reply::Half(body) => {
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{headers}\r\n", body.len());
                connection.send(head.as_bytes()).await?;
                return connection.send(body.get(..body.len() / 2).unwrap_or_default()).await;
            }
            Reply::Status(status) => {
                let status = format!("{status} Simulated");
                connection.answer(&status, &format!("Content-Type: text/html\r\nDate: {date}\r\n"), b"<html>simulated</html>").await?;
            }
            Reply::Redirect(url) => connection.answer("302 Found", &format!("Location: {url}\r\nDate: {date}\r\n"), b"").await?,
            Reply::Huge(bytes) => send_huge(&mut connection, &headers, bytes).await?,
            Reply::Nothing => std::future::pending().await,
            Reply::Reset => {
                connection.stream.set_zero_linger()?;
                return Ok(());
            }
        }
    }
}

/// One JSON string of `bytes` bytes, in chunks.
async fn send_huge(connection: &mut HttpConnection, headers: &str, bytes: u64) -> io::Result<()> {
    const CHUNK: usize = 64 * 1024;
    let chunk = [format!("{CHUNK:x}\r\n").as_bytes(), &[b'x'; CHUNK], b"\r\n"].concat();
    let open = br#"{"Response":{"Padding":""#;
    connection.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{headers}\r\n{:x}\r\n", open.len()).as_bytes()).await?;
    connection.send(&[open.as_slice(), b"\r\n"].concat()).await?;
    for _ in 0..bytes.div_ceil(CHUNK as u64) {
        connection.send(&chunk).await?;
    }
    let close = br#"","RequestId":"huge"}}"#;
    connection.send(&[format!("{:x}\r\n", close.len()).as_bytes(), close, b"\r\n0\r\n\r\n"].concat()).await
}
