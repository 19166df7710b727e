pub mod busy;
pub mod idle;
pub mod rate;
pub mod soak;

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ssh_broker::access::Secret;
use ssh_broker::demo::{ApiKey, Endpoint, EndpointConfig, InstanceRecord, Inventory, Mode, ed25519};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::arguments::Arguments;
use crate::broker::{Broker, Cloud};
use crate::instance::Instances;
use crate::operator::{INSTANCES, Operators, Session};
use crate::process::{self, Look};
use crate::tally::Tally;

const KEY_ID: &str = "AKIDload";
const KEY: &str = "load-secret-key";
/// How long the broker has to return to what it was.
const RETURN: Duration = Duration::from_secs(45);
/// Sessions opened at once when only their number counts.
const AT_ONCE: usize = 50;

/// Everything that is needed to load a broker.
pub struct Lab {
    pub broker: Broker,
    pub endpoint: Endpoint,
    pub instances: Instances,
    pub operators: Operators,
    /// The broker after its first logins: what it is to return to.
    pub base: Look,
}

impl Lab {
    pub async fn start(arguments: &Arguments) -> io::Result<Self> {
        let instances = Instances::start().await?;
        let endpoint = Endpoint::start(EndpointConfig {
            key: ApiKey { id: KEY_ID.to_owned(), key: Secret::new(KEY.as_bytes().to_vec()), token: None },
            region: "ap-shanghai".to_owned(),
            requests_per_second: 20,
            inventory: inventory(),
            mode: Mode::AllActions,
        })
        .await?;
        let key = ed25519("load")?;
        let public = key.public_key().to_openssh().map_err(io::Error::other)?;
        let url = endpoint.url();
        let cloud = Cloud { endpoint: &url, ssh_port: instances.address.port(), key_id: KEY_ID, key: KEY };
        let broker = Broker::start(&arguments.broker, &cloud, &public).await?;
        let operators = Operators::new(broker.address, key);
        // What is made once and kept is there before the first look: pins, leases, threads.
        for _ in 0..2 * INSTANCES {
            let first = match operators.log_in("true").await {
                Ok(session) => session.end().await,
                Err(missed) => Err(missed),
            };
            first.map_err(|missed| io::Error::other(format!("the first logins: {missed:?}: {}", broker.log())))?;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let base = process::look(broker.pid(), broker.metrics).await?;
        println!("base: {} KiB resident, {} descriptors, {} tasks", base.rss_kib, base.descriptors, base.tasks);
        Ok(Self { broker, endpoint, instances, operators, base })
    }

    pub async fn look(&self) -> io::Result<Look> {
        process::look(self.broker.pid(), self.broker.metrics).await
    }

    /// One login that runs `true`.
    pub async fn visit(&self, tally: &Tally) {
        let begin = Instant::now();
        let became = match self.operators.log_in("true").await {
            Ok(session) => session.end().await,
            Err(missed) => Err(missed),
        };
        tally.count(begin.elapsed(), became);
    }

    /// Many sessions, a few being opened at a time.
    pub async fn open(self: &Arc<Self>, count: usize, command: &'static str, tally: &Arc<Tally>) -> Vec<Session> {
        let permits = Arc::new(Semaphore::new(AT_ONCE));
        let mut opening = JoinSet::new();
        for _ in 0..count {
            let (lab, tally, permits) = (self.clone(), tally.clone(), permits.clone());
            opening.spawn(async move {
                let _permit = permits.acquire().await;
                let begin = Instant::now();
                match lab.operators.log_in(command).await {
                    Ok(session) => {
                        tally.count(begin.elapsed(), Ok(()));
                        Some(session)
                    }
                    Err(missed) => {
                        tally.count(begin.elapsed(), Err(missed));
                        None
                    }
                }
            });
        }
        opening.join_all().await.into_iter().flatten().collect()
    }

    /// Whether descriptors and tasks are what they were, soon enough; says so.
    pub async fn returns_to_base(&self) -> io::Result<bool> {
        let begin = Instant::now();
        loop {
            let now = self.look().await?;
            // Kept connections to the cloud, and the one that asks for the metrics.
            let is_back = now.connections == 0 && now.descriptors <= self.base.descriptors + 8 && now.tasks <= self.base.tasks + 16;
            if is_back || begin.elapsed() > RETURN {
                let verdict = if is_back { "returned" } else { "DID NOT RETURN" };
                println!(
                    "  {verdict} to base after {:.0} s: {} connections, {} descriptors ({}), {} tasks ({}), {} KiB resident ({})",
                    begin.elapsed().as_secs_f64(),
                    now.connections,
                    now.descriptors,
                    self.base.descriptors,
                    now.tasks,
                    self.base.tasks,
                    now.rss_kib,
                    self.base.rss_kib
                );
                return Ok(is_back);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    /// CPU seconds since: the broker's, and those of everything else here.
    pub fn cpu_since(&self, before: Cpu) -> io::Result<Cpu> {
        let now = self.cpu()?;
        Ok(Cpu { broker: now.broker - before.broker, load: now.load - before.load })
    }

    pub fn cpu(&self) -> io::Result<Cpu> {
        Ok(Cpu { broker: process::cpu_seconds(self.broker.pid())?, load: process::cpu_seconds(std::process::id())? })
    }

    /// What the broker warned of, the last of it: it may explain what was refused.
    pub fn tell_warnings(&self) {
        let log = self.broker.log();
        if !log.is_empty() {
            println!("  the broker warned {} times; last: {}", log.lines().count(), log.lines().last().unwrap_or_default());
        }
    }
}

#[derive(Clone, Copy)]
pub struct Cpu {
    pub broker: f64,
    pub load: f64,
}

/// Instances with one address, one login and one password.
fn inventory() -> Inventory {
    let mut inventory = Inventory::default();
    for number in 0..INSTANCES {
        inventory.insert(InstanceRecord {
            fleet: "fleet-load-1".to_owned(),
            instance: format!("ins-load{number}"),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            login: "root".to_owned(),
            secret: Secret::new(b"load-password".to_vec()).into(),
            operating_system: "Ubuntu Server 22.04".to_owned(),
            status: "Active".to_owned(),
        });
    }
    inventory
}
