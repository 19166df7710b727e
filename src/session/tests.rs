mod forwards;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::Ipv4Addr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::access::samples::{self, operator};
use crate::access::{FleetAliases, FleetId, Grant, GrantRule, InstanceId, Lease, Policy, Ports, Recording, Secret, Target, TargetName};
use crate::broker::{Asker, Leased, Leases};
use crate::keys::Keys;
use crate::recording;
use crate::transport::wire::put_string;
use crate::transport::{Connection, Leg, Preferences, TransportError, msg};
use crate::upstream::{self, HostKeys, LegacyAlgorithms};

struct Certificates(Keys);

impl HostCertificates for Certificates {
    fn session_key(&self) -> Arc<PrivateKey> {
        Arc::new(self.0.session.clone())
    }

    fn certify(&self, names: &[&str]) -> Result<Certificate, String> {
        self.0.host_certificate(names, Duration::from_secs(60)).map_err(|error| error.to_string())
    }
}

/// A cloud before which the start of the session must be in the audit already, and which then panics or refuses, or leases an instance at
/// 127.0.0.1.
struct Cloud {
    panics: bool,
    leases: bool,
    at_lease: AtLease,
    kept_before: Arc<AtomicBool>,
    lines: Lines,
}

type AtLease = Arc<Mutex<Option<Box<dyn FnOnce() + Send>>>>;

impl Cloud {
    fn ask(&self) -> Failure {
        let started = self.lines.events().iter().any(|event| event == "session.started");
        self.kept_before.store(started, Ordering::SeqCst);
        assert!(!self.panics, "hunter2");
        Failure::target_refused()
    }
}

impl Leases for Cloud {
    fn locate<'a>(&'a self, instance: &'a InstanceId, _: &'a [FleetId], _: &'a Asker) -> BoxFuture<'a, Result<Target, Failure>> {
        let target = Target { fleet: FleetId::parse("fleet-a").unwrap(), instance: instance.clone() };
        Box::pin(async move { if self.leases { Ok(target) } else { Err(self.ask()) } })
    }

    fn lease<'a>(&'a self, grant: &'a Grant, _: &'a Asker) -> BoxFuture<'a, Result<Leased, Failure>> {
        if let Some(at_lease) = self.at_lease.lock().unwrap().take() {
            at_lease();
        }
        let lease = Lease {
            target: grant.target().clone(),
            login: "root".to_owned(),
            secret: Secret::new(b"x".to_vec()),
            address: Ipv4Addr::LOCALHOST.into(),
            operating_system: None,
            request_id: "req-1".to_owned(),
            quota_wait: Duration::ZERO,
            api_time: Duration::ZERO,
        };
        Box::pin(async move { if self.leases { Ok(Leased { lease: Arc::new(lease), cached: false }) } else { Err(self.ask()) } })
    }

    fn renew<'a>(&'a self, _: &'a Grant, _: &'a Arc<Lease>, _: &'a Asker) -> BoxFuture<'a, Result<Arc<Lease>, Failure>> {
        Box::pin(async { Err(self.ask()) })
    }
}

/// What the audit has written; while it is blocked it takes nothing.
#[derive(Clone, Default)]
struct Lines {
    bytes: Arc<Mutex<Vec<u8>>>,
    fails: Arc<AtomicBool>,
    blocks: Arc<AtomicBool>,
}

impl Lines {
    fn events(&self) -> Vec<String> {
        let text = String::from_utf8(self.bytes.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        lines.map(|line| line["event"].as_str().unwrap().to_owned()).collect()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        while self.blocks.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.fails.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.bytes.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct House {
    runner: Runner,
    lines: Lines,
    kept_before: Arc<AtomicBool>,
    audit: Audit,
    at_lease: AtLease,
    _dir: tempfile::TempDir,
}

fn house(panics: bool) -> House {
    build(panics, false, Recording::default(), Config::default())
}

fn build(panics: bool, leases: bool, recording: Recording, config: Config) -> House {
    let (lines, kept_before) = (Lines::default(), Arc::new(AtomicBool::new(false)));
    let rule = GrantRule { ports: Ports::parse("1-65535").unwrap(), recording, ..samples::rule() };
    let dialer = Dialer::new(upstream::Config {
        connect_timeout: Duration::from_secs(1),
        handshake_timeout: Duration::from_secs(1),
        host_keys: HostKeys::AcceptNew,
        known_hosts: "/nonexistent/known_hosts".into(),
        allowed_networks: vec!["127.0.0.0/8".parse().unwrap()],
        legacy_algorithms: LegacyAlgorithms::Never,
        ssh_port: 22,
        ssh_ports: BTreeMap::new(),
    });
    let at_lease = AtLease::default();
    let cloud = Cloud { panics, leases, at_lease: at_lease.clone(), kept_before: kept_before.clone(), lines: lines.clone() };
    let broker = Broker::new(Policy::new(Default::default(), vec![rule]).unwrap(), Vec::new(), Arc::new(cloud), dialer.unwrap());
    let (audit, _writer) = Audit::with_sink(Box::new(lines.clone()), 100);
    let dir = tempfile::tempdir().unwrap();
    let certificates = Arc::new(Certificates(Keys::load_or_create(dir.path()).unwrap()));
    let (recorder, _writer) = Recorder::start(recording::Config { dir: dir.path().join("recordings"), queue: 1 << 20 }).unwrap();
    let runner = Runner(SessionRunner::new(Arc::new(broker), audit.clone(), recorder, certificates, config));
    House { runner, lines, kept_before, audit, at_lease, _dir: dir }
}

fn jump() -> (Jump, tokio::io::DuplexStream) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = TargetName::parse("ins-a", &FleetAliases::default()).map_err(|_| unreachable!());
    (
        Jump {
            operator: operator("alice"),
            client_version: "SSH-2.0-x".to_owned(),
            typed: "ins-a".to_owned(),
            name,
            stream: Box::new(near),
        },
        far,
    )
}

/// What an operator's client is told when it is not let in.
async fn refused(stream: tokio::io::DuplexStream) -> TransportError {
    let mut client = Connection::new(Leg::client(Preferences::modern(), "SSH-2.0-x").unwrap(), stream);
    let refused = async {
        client.establish().await?;
        for (number, fields) in [(msg::SERVICE_REQUEST, &["ssh-userauth"][..]), (msg::USERAUTH_REQUEST, &["x", "ssh-connection", "none"])] {
            let mut message = vec![number];
            fields.iter().for_each(|field| put_string(&mut message, field.as_bytes()));
            client.leg.send(&message)?;
        }
        loop {
            client.next().await?;
        }
    };
    let refused: Result<(), TransportError> = refused.await;
    refused.unwrap_err()
}

#[tokio::test]
async fn a_panic_ends_its_session_alone_and_is_in_the_audit() {
    let house = house(true);
    let (crashes, mut far) = jump();
    house.runner.run(crashes).await;
    // Its stream is closed, and the next session runs like any other.
    far.write_all(b"x").await.unwrap_err();
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).await.unwrap();
    let (next, _far) = jump();
    house.runner.run(next).await;
    assert!(house.runner.0.live().list().is_empty());
    while house.lines.events().len() < 4 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(house.lines.events(), ["session.started", "session.crashed", "session.started", "session.crashed"]);
    let text = String::from_utf8(house.lines.bytes.lock().unwrap().clone()).unwrap();
    assert!(!text.contains("hunter2"));
}

#[tokio::test]
async fn the_start_is_kept_before_the_cloud_is_asked() {
    let house = house(false);
    let (jump, far) = jump();
    let (_, told) = tokio::join!(house.runner.run(jump), refused(far));
    assert!(told.to_string().contains("target-refused"), "{told}");
    assert!(house.kept_before.load(Ordering::SeqCst));
    while house.lines.events().len() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(house.lines.events(), ["session.started", "target.failed"]);
}

#[tokio::test]
async fn while_the_audit_fails_nobody_is_let_in_and_the_cloud_is_not_asked() {
    let house = house(true);
    house.lines.fails.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        let (jump, far) = jump();
        let (_, told) = tokio::join!(house.runner.run(jump), refused(far));
        assert!(told.to_string().contains("its audit cannot be written [broker-busy, ref "), "{told}");
    }
    house.lines.fails.store(false, Ordering::SeqCst);
    while house.audit.health().is_failing || house.lines.events().len() < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // The first found the failure out; for the others it was known.
    assert_eq!(house.lines.events(), ["session.started", "target.failed", "target.failed", "target.failed"]);
}

#[tokio::test]
async fn a_client_that_leaves_is_told_of_as_that() {
    let house = house(false);
    let (jump, far) = jump();
    drop(far);
    house.runner.run(jump).await;
    while house.lines.events().last().is_none_or(|event| event != "session.abandoned") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Whether the start was kept before the leaving was seen is chance; nothing else happened.
    assert!(house.lines.events().iter().rev().skip(1).all(|event| event == "session.started"));
    assert!(house.lines.events().len() <= 2);
}
