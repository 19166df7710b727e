//! A panic ends what it is in, and nothing else. No peer can make the broker panic, so parts of it are replaced here by ones that do: the
//! rest, door, sessions, cloud client, audit, is the broker's own, in this process, between real OpenSSH programs.

use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use ssh_broker::access::{Failure, FleetId, Grant, InstanceId, Lease, Target};
use ssh_broker::audit::Audit;
use ssh_broker::broker::{Asker, BoxFuture, Broker, Leased, Leases};
use ssh_broker::cache::Cache;
use ssh_broker::door::{CommandLine, Commands, Door, Said};
use ssh_broker::gse::Client as Cloud;
use ssh_broker::keys::Keys;
use ssh_broker::recording::Recorder;
use ssh_broker::session::{self, HostCertificates, Runner, SessionRunner};
use ssh_broker::settings::{Purpose, Settings};
use ssh_broker::upstream::Dialer;
use ssh_key::{Certificate, PrivateKey};
use tokio::runtime::Runtime;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use super::super::client::{Client, Message, runtime, stranger};
use super::super::echo::Echo;
use super::super::peer::Peer;
use super::super::{good_login, plan, whole_audit};
use crate::lab::{Lab, Plan, Sshd, terminate, text, until};

/// What a panic says must not get into the audit.
const SAID: &str = "hunter2";

/// The cloud, but for one instance, whose secret it panics over.
struct Leasing(Cache<Cloud>);

impl Leases for Leasing {
    fn locate<'a>(
        &'a self,
        instance: &'a InstanceId,
        candidates: &'a [FleetId],
        asker: &'a Asker,
    ) -> BoxFuture<'a, Result<Target, Failure>> {
        self.0.locate(instance, candidates, asker)
    }

    fn lease<'a>(&'a self, grant: &'a Grant, asker: &'a Asker) -> BoxFuture<'a, Result<Leased, Failure>> {
        assert!(grant.target().instance.as_str() != "ins-b", "{SAID}");
        self.0.lease(grant, asker)
    }

    fn renew<'a>(&'a self, grant: &'a Grant, stale: &'a Arc<Lease>, asker: &'a Asker) -> BoxFuture<'a, Result<Arc<Lease>, Failure>> {
        self.0.renew(grant, stale, asker)
    }
}

/// A clock that only sessions with hours look at, as soon as they stand.
fn clock() -> SystemTime {
    assert!(!CLOCK_PANICS.swap(false, Ordering::SeqCst), "{SAID}");
    SystemTime::now()
}

static CLOCK_PANICS: AtomicBool = AtomicBool::new(false);

/// A log that panics over whoever is refused from one address, in the middle of the door's work for that connection.
struct Log;

/// Where that is.
const CURSED: &str = "127.0.0.77";

impl<S: tracing::Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut fields = String::new();
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| fields += &format!("{field}={value:?} "));
        let is_cursed = fields.contains("message=authentication refused") && fields.contains(&format!("source={CURSED}:"));
        assert!(!is_cursed, "{SAID}");
    }
}

struct NoCommands;

impl Commands for NoCommands {
    fn run(&self, _: CommandLine) -> BoxFuture<'static, Said> {
        Box::pin(async { Said::default() })
    }
}

struct Certificates(Keys);

impl HostCertificates for Certificates {
    fn session_key(&self) -> Arc<PrivateKey> {
        Arc::new(self.0.session.clone())
    }

    fn certify(&self, names: &[&str]) -> Result<Certificate, String> {
        self.0.host_certificate(names, Duration::from_secs(3600)).map_err(|error| error.to_string())
    }
}

/// A lab whose broker runs in this process.
struct House {
    lab: Lab,
    runner: Arc<SessionRunner>,
    door: Arc<Door>,
    _runtime: Runtime,
}

impl House {
    fn build() -> Self {
        let instances = vec![Sshd::new("ins-a", "127.0.0.1"), Sshd::new("ins-b", "127.0.0.2")];
        let always = "hours = \"mon-sun 00:00-24:00 UTC\"";
        let grant =
            |who: &str, more: &str| format!("[[grants]]\noperators = [\"{who}\"]\ntargets = [\"ins-*\"]\nallow = [\"exec\"]\n{more}\n");
        let extra = grant("alice", "") + &grant("bob", always);
        let mut lab = Lab::with(Plan { instances, extra, ..plan() });
        // Its keys, its configuration and its address are taken over.
        lab.broker = None;
        let (settings, _) = Settings::load(&lab.path("broker.toml"), [], Purpose::Check).map_err(|_| "wrong settings").unwrap();
        let keys = Keys::load_or_create(&settings.state_dir).unwrap();
        let host_key = keys.host.clone();
        let (audit, _writer) = Audit::start(&settings.audit, Box::new(|_| {})).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let cloud = runtime.block_on(Cloud::new(settings.gse.clone())).unwrap();
        let leases = Arc::new(Leasing(Cache::new(cloud, settings.cache)));
        let broker = Arc::new(Broker::new(settings.policy, settings.gse.fleets, leases, Dialer::new(settings.upstream).unwrap()));
        let (recorder, _writer) = Recorder::start(settings.recording).unwrap();
        let config = session::Config { clock, ..session::Config::default() };
        let runner = SessionRunner::new(broker, audit.clone(), recorder, Arc::new(Certificates(keys)), config);
        let sessions = Arc::new(Runner(runner.clone()));
        let door = Door::new(settings.door, settings.aliases, host_key, audit, sessions, Arc::new(NoCommands)).unwrap();
        let door = Arc::new(door);
        let listener = runtime.block_on(tokio::net::TcpListener::bind(lab.address)).unwrap();
        let running = door.clone();
        runtime.spawn(async move { running.run(vec![listener]).await });
        Self { lab, runner, door, _runtime: runtime }
    }

    /// A connection to the broker for all that goes through it.
    fn connection(&self, user: &str) -> Connection<'_> {
        let (socket, lab) = (self.lab.path(&format!("{user}.outer")), &self.lab);
        let control = format!("ControlPath={}", socket.display());
        let master = lab.ssh(&["-M", "-N", "-o", &control, "-l", user, "broker"]).spawn().unwrap();
        let connection = Connection { lab, control, master };
        until(&format!("{user}'s login"), || socket.exists());
        connection
    }

    /// All that was opened has ended.
    fn await_quiet(&self) {
        until("the end of all that was opened", || self.runner.live().list().is_empty() && self.door.connections().proven == 0);
    }
}

struct Connection<'a> {
    lab: &'a Lab,
    control: String,
    master: Child,
}

impl Connection<'_> {
    fn ssh(&self, target: &str, command: &str) -> Command {
        let config = self.lab.path("ssh_config");
        let proxy = format!("ProxyCommand=ssh -F {} -o {} -W %h:%p broker", config.display(), self.control);
        self.lab.ssh(&["-o", "ProxyJump=none", "-o", &proxy, target, command])
    }
}

impl Drop for Connection<'_> {
    fn drop(&mut self) {
        terminate(&mut self.master);
    }
}

#[test]
fn a_panic_in_a_session_ends_that_session_alone_and_is_in_the_audit() {
    let house = House::build();
    let lab = &house.lab;
    let (alices, bobs) = (house.connection("alice"), house.connection("bob"));
    let (mut beside, mut of_bob) = (Echo::start(alices.ssh("ins-a", "cat")), Echo::start(bobs.ssh("ins-a", "cat")));
    // While it is being opened, beside another session of the same connection.
    let out = alices.ssh("ins-b", "echo not-reached").output().unwrap();
    assert!(!out.status.success() && out.stdout.is_empty(), "{}", text(&out.stderr));
    // When both legs stand.
    CLOCK_PANICS.store(true, Ordering::SeqCst);
    let out = bobs.ssh("ins-a", "sleep 30; echo not-reached").output().unwrap();
    assert!(!out.status.success() && out.stdout.is_empty() && !CLOCK_PANICS.load(Ordering::SeqCst), "{}", text(&out.stderr));
    beside.assert_alive();
    of_bob.assert_alive();
    assert_eq!(text(&alices.ssh("ins-a", "echo next").output().unwrap().stdout), "next\n");
    assert_eq!(text(&bobs.ssh("ins-a", "echo next").output().unwrap().stdout), "next\n");
    beside.ends_well();
    of_bob.ends_well();
    drop((alices, bobs));
    house.await_quiet();
    // Each crash stands under its session's reference, behind what that session had come to; nothing else ended otherwise than it should.
    until("the ends of four sessions", || lab.audit().iter().filter(|event| event["event"] == "session.closed").count() >= 4);
    let events = lab.audit();
    let crashed: Vec<_> = events.iter().filter(|event| event["event"] == "session.crashed").collect();
    let told = |crashed: &serde_json::Value| -> Vec<&str> {
        let of_session = events.iter().filter(|event| event["ref"] == crashed["ref"]);
        of_session.filter_map(|event| event["event"].as_str()).filter(|event| event.starts_with("session.")).collect()
    };
    assert_eq!(crashed.len(), 2, "{events:#?}");
    assert_eq!((&crashed[0]["operator"], &crashed[1]["operator"]), (&"alice".into(), &"bob".into()));
    assert_eq!(told(crashed[0]), ["session.started", "session.crashed"]);
    assert_eq!(told(crashed[1]), ["session.started", "session.opened", "session.crashed"]);
    assert!(events.iter().all(|event| event["event"] != "connection.crashed"));
    assert!(!std::fs::read_to_string(lab.path("audit.jsonl")).unwrap().contains(SAID));
    whole_audit(lab);
}

#[test]
fn a_panic_before_the_login_ends_that_connection_and_its_source_is_refused() {
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Log)).unwrap();
    let house = House::build();
    let lab = &house.lab;
    let alices = house.connection("alice");
    let beside = Echo::start(alices.ssh("ins-a", "cat"));
    let key = PrivateKey::read_openssh_file(lab.path("operator")).unwrap();
    let refused = |client: &Client| client.signed("alice", "ssh-ed25519", &stranger(7));
    runtime().block_on(async {
        // From there, from before it: one that was let in, and one that waits to be.
        let mut inside = Client::operator(CURSED, lab.address, "alice", &key).await.unwrap();
        let mut waiting = Client::connect(CURSED, lab.address).await.unwrap();
        let mut crashes = Client::connect(CURSED, lab.address).await.unwrap();
        let request = refused(&crashes);
        crashes.say(&request).await.unwrap();
        assert!(crashes.until_ended().await.0.is_empty());
        // Both live.
        inside.say(&Message::jump(0, "ins-a", 22)).await.unwrap();
        assert_eq!(inside.hear().await.unwrap()[0], 91);
        let request = waiting.signed("alice", "ssh-ed25519", &key);
        waiting.say(&request).await.unwrap();
        assert_eq!(waiting.hear().await.unwrap(), [52]);
        // Elsewhere a refusal is a refusal.
        let mut other = Client::connect("127.0.0.78", lab.address).await.unwrap();
        let request = refused(&other);
        other.say(&request).await.unwrap();
        assert_eq!(other.hear().await.unwrap()[0], 51);
    });
    let event = lab.await_event(|event| event["event"] == "source.penalized");
    assert!(event["offence"] == "crash" && event["source"].as_str().unwrap().starts_with(CURSED), "{event}");
    assert!(event["refused_s"].as_f64().unwrap() > 60.0, "{event}");
    let crashed = lab.await_event(|event| event["event"] == "connection.crashed");
    assert_eq!(crashed["source"], event["source"]);
    assert_eq!(Peer::from(CURSED, lab.address).line(), "Not allowed at this time");
    assert_eq!(Peer::from("127.0.0.78", lab.address).line(), "SSH-2.0-ssh-broker");
    beside.ends_well();
    good_login(lab);
    drop(alices);
    house.await_quiet();
    let events = lab.audit();
    assert_eq!(events.iter().filter(|event| event["event"] == "connection.crashed").count(), 1);
    assert!(!std::fs::read_to_string(lab.path("audit.jsonl")).unwrap().contains(SAID));
    whole_audit(lab);
}
