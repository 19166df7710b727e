use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Mutex;

use super::*;
use crate::access::{
    Capabilities, Code, FleetId, Grant, GrantRule, GrantedPort, Hours, InstanceId, Lease, LocalMinute, Network, OperatorPattern, Target,
    TargetPattern, Zone, samples,
};
use crate::broker::{Connected, Leased, Leases, Listed, Listing, Phases, Scopes, Step, Unreached, Witness};
use crate::door::Commands;
use crate::keys::Keys;

/// A cloud that answers from a list: what it hangs on, and what it refuses.
#[derive(Default)]
struct Fake {
    instances: Vec<(&'static str, &'static str)>,
    scopes: Option<Scopes>,
    refuses: BTreeMap<&'static str, Code>,
    hangs: bool,
    cut: bool,
    status: &'static str,
}

fn target(fleet: &str, instance: &str) -> Target {
    Target { fleet: FleetId::parse(fleet).unwrap(), instance: InstanceId::parse(instance).unwrap() }
}

impl Leases for Fake {
    fn locate<'a>(&'a self, instance: &'a InstanceId, _: &'a [FleetId], _: &'a Asker) -> BoxFuture<'a, Result<Target, Failure>> {
        let found = self.instances.iter().find(|(_, id)| *id == instance.as_str());
        let found = found.map(|(fleet, id)| target(fleet, id)).ok_or_else(|| Failure::target_refused().because("no fleet has it"));
        Box::pin(async move {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            found
        })
    }

    fn lease<'a>(&'a self, _: &'a Grant, _: &'a Asker) -> BoxFuture<'a, Result<Leased, Failure>> {
        Box::pin(async { Err(Failure::new(Code::ApiDenied, "broker misconfigured: \x1b[31m")) })
    }

    fn renew<'a>(&'a self, _: &'a Grant, _: &'a Arc<Lease>, _: &'a Asker) -> BoxFuture<'a, Result<Arc<Lease>, Failure>> {
        Box::pin(async { Err(Failure::target_refused()) })
    }
}

impl Catalogue for Fake {
    fn scopes<'a>(&'a self, _: &'a Asker) -> BoxFuture<'a, Result<Scopes, Failure>> {
        Box::pin(async { Ok(self.scopes.clone().unwrap_or(Scopes::Whole)) })
    }

    fn list<'a>(&'a self, fleet: Option<&'a FleetId>, _: &'a Asker) -> BoxFuture<'a, Result<Arc<Listing>, Failure>> {
        Box::pin(async move {
            if self.hangs {
                std::future::pending::<()>().await;
            }
            if let Some(code) = fleet.and_then(|fleet| self.refuses.get(fleet.as_str())) {
                return Err(Failure::new(*code, "no"));
            }
            let listed = |(fleet, id): &(&str, &str)| Listed {
                target: target(fleet, id),
                status: self.status.to_owned(),
                operating_system: String::new(),
            };
            let wanted = self.instances.iter().filter(|(of, _)| fleet.is_none_or(|fleet| fleet.as_str() == *of));
            Ok(Arc::new(Listing { instances: wanted.map(listed).collect(), cut: self.cut }))
        })
    }
}

struct NoUpstream;

impl Upstream for NoUpstream {
    type Leg = ();
    type Stream = ();

    async fn reach(&self, _: GrantedPort, _: &Lease, _: std::time::Instant) -> Result<(), Unreached> {
        Ok(())
    }

    async fn connect(&self, _: &Grant, _: &Lease, _: std::time::Instant, trail: &dyn Witness) -> Result<Connected<()>, Unreached> {
        trail.passed(Step::Connect, Duration::ZERO);
        Ok(Connected { leg: (), phases: Phases::default() })
    }
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Broken;

impl Reload for Broken {
    fn reload(&self) -> BoxFuture<'static, Result<String, String>> {
        Box::pin(async { Err("broker.toml: gse.region: is missing".to_owned()) })
    }
}

/// alice, the administrator, may reach everything in fleet-a; bob what is called ins-b… in fleet-b.
struct Desk {
    console: Console<NoUpstream>,
    sink: Sink,
    writer: Option<std::thread::JoinHandle<()>>,
    _state: tempfile::TempDir,
}

impl Desk {
    fn new(fake: impl Fn() -> Fake) -> Self {
        let rule = |operator: &str, targets: &str| {
            let (operators, targets) = (OperatorPattern::parse(operator).unwrap(), TargetPattern::parse(targets).unwrap());
            GrantRule::new(vec![operators], vec![targets], Capabilities::default_allow())
        };
        Self::with(fake, vec![rule("alice", "fleet-a/*"), rule("bob", "fleet-b/ins-b*")])
    }

    fn with(fake: impl Fn() -> Fake, rules: Vec<GrantRule>) -> Self {
        let policy = Policy::new(BTreeMap::new(), rules).unwrap();
        let policy = policy.with_administrators(vec![OperatorPattern::parse("alice").unwrap()]).unwrap();
        let state = tempfile::tempdir().unwrap();
        let keys = Keys::load_or_create(state.path()).unwrap();
        let sink = Sink::default();
        let (audit, writer) = Audit::with_sink(Box::new(sink.clone()), 100);
        let console = Console::new(Parts {
            broker: Arc::new(Broker::new(policy, Vec::new(), Arc::new(fake()), NoUpstream)),
            catalogue: Arc::new(fake()),
            live: Arc::default(),
            pins: Pins::load(state.path().join("known_hosts")).unwrap(),
            keys: PublicKeys { host: keys.host.public_key().clone(), ca: keys.ca.public_key().clone() },
            reload: Arc::new(Broken),
            audit,
            deadline: Duration::from_secs(20),
        });
        Self { console, sink, writer: Some(writer), _state: state }
    }

    async fn says(&self, operator: &str, words: &str) -> Said {
        let operator = samples::operator(operator);
        let reached = "[::ffff:192.0.2.9]:2222".parse().unwrap();
        self.console.run(CommandLine { operator, words: words.as_bytes().to_vec(), reached, aliases: FleetAliases::default() }).await
    }

    fn audit(mut self) -> Vec<serde_json::Value> {
        drop(self.console);
        self.writer.take().unwrap().join().unwrap();
        let bytes = self.sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

fn cloud() -> Fake {
    Fake { instances: vec![("fleet-a", "ins-a1"), ("fleet-b", "ins-b1"), ("fleet-a", "ins-b2")], ..Fake::default() }
}

#[tokio::test]
async fn every_command_is_in_the_audit_with_its_exit_status() {
    let desk = Desk::new(cloud);
    for (operator, words, exit) in [
        ("alice", "", 0),
        ("alice", "ls", 0),
        ("bob", "ls ins-none", 1),
        ("carol", "ls", 1),
        ("bob", "whoami", 0),
        ("alice", "why ins-a1", 0),
        ("bob", "why ins-a1", 1),
        ("alice", "doctor ins-a1", 4),
        ("bob", "frobnicate\x1b[2J", 2),
        ("bob", "reload", 3),
        ("alice", "reload", 4),
        ("alice", "sessions", 0),
        ("alice", "kill 0000ff", 1),
        ("alice", "forget-host ins-a1", 1),
        ("bob", "ssh-config", 0),
    ] {
        let said = desk.says(operator, words).await;
        assert_eq!(said.exit, exit, "{words}: {said:?}");
        assert!(said.out.chars().chain(said.err.chars()).all(|c| c == '\n' || !c.is_control()), "{words}: {said:?}");
        let json = desk.says(operator, &format!("{words} --json")).await;
        assert_eq!((json.exit, json.err.as_str(), json.out.matches('\n').count()), (exit, "", 1), "{words}");
        let value: serde_json::Value = serde_json::from_str(&json.out).unwrap();
        assert_eq!(value.get("error").is_some(), said.out.is_empty() || words == "doctor ins-a1", "{words}: {value}");
    }
    let (events, started): (Vec<_>, Vec<_>) = desk.audit().into_iter().partition(|event| event["event"] == "command.run");
    assert_eq!((events.len(), started.len()), (30, 2), "{started:?}");
    assert!(started.iter().all(|event| event["event"] == "doctor.started"));
    assert!(events.iter().all(|event| event["ref"].is_string() && event["source"] == "192.0.2.1:1"));
    assert_eq!((&events[16]["words"], &events[16]["exit_status"]), (&"frobnicate\x1b[2J".into(), &2.into()));
}

#[tokio::test]
async fn a_doctor_that_policy_denies_is_in_the_audit_as_that() {
    let desk = Desk::new(cloud);
    for name in ["ins-a1", "ins-b2", "ins-b9"] {
        assert_eq!(desk.says("bob", &format!("doctor {name}")).await.exit, 1);
    }
    let lines = desk.audit().into_iter();
    let told: Vec<_> = lines.map(|line| (line["event"].clone(), line["typed"].clone(), line["fleet"].clone())).collect();
    let (none, text) = (serde_json::Value::Null, |text: &str| serde_json::Value::from(text));
    assert_eq!(
        told,
        [
            // No grant is for such a name, so nothing was asked.
            (text("target.denied"), text("ins-a1"), none.clone()),
            (text("command.run"), none.clone(), none.clone()),
            (text("doctor.started"), text("ins-b2"), none.clone()),
            (text("target.denied"), text("ins-b2"), text("fleet-a")),
            (text("command.run"), none.clone(), none.clone()),
            // It is not there: that is no denial.
            (text("doctor.started"), text("ins-b9"), none.clone()),
            (text("command.run"), none.clone(), none),
        ]
    );
}

/// Where it is never Tuesday.
#[derive(Debug)]
struct Mondays;

impl Zone for Mondays {
    fn local(&self, _: std::time::SystemTime) -> LocalMinute {
        LocalMinute { weekday: 0, minute: 600 }
    }
}

fn never() -> Hours {
    Hours::parse("tue 00:00-24:00 Nowhere", |_| Some(Arc::new(Mondays))).unwrap()
}

#[tokio::test]
async fn why_tells_the_grants_that_count_from_those_that_do_not() {
    let rule = |target: &str| {
        let targets = vec![TargetPattern::parse(target).unwrap()];
        GrantRule::new(vec![OperatorPattern::Anyone], targets, Capabilities::default_allow())
    };
    let elsewhere = GrantRule { from: vec![Network::parse("10.0.0.0/8").unwrap()], ..rule("fleet-a/ins-*") };
    let late = GrantRule { hours: vec![never()], ..rule("fleet-*/*") };
    let desk = Desk::with(cloud, vec![elsewhere.clone(), late.clone(), rule("ins-a*")]);
    let said = desk.says("bob", "why ins-a1").await;
    let could = "1 of yours could match: ins-a*; not now: fleet-a/ins-* (for other addresses), fleet-*/* (outside its hours)";
    assert!(said.exit == 0 && said.out.contains(could), "{said:?}");
    let matches = said.out.lines().find(|line| line.starts_with("matches")).unwrap();
    assert!(matches.ends_with(" ins-a*"), "{matches}");
    let said = Desk::with(cloud, vec![elsewhere]).says("bob", "why ins-a1").await;
    let none =
        "none of yours that are for such a name counts now: the cloud API is not asked; not now: fleet-a/ins-* (for other addresses)";
    assert!(said.exit == 1 && said.out.contains(none), "{said:?}");
}

#[tokio::test(start_paused = true)]
async fn what_hangs_is_given_up_in_time() {
    let desk = Desk::new(|| Fake { hangs: true, ..cloud() });
    for words in ["ls", "why ins-a1"] {
        let started = tokio::time::Instant::now();
        let said = desk.says("alice", words).await;
        assert_eq!((said.exit, started.elapsed().as_secs()), (4, 20), "{words}: {said:?}");
        assert!(format!("{}{}", said.out, said.err).contains("took too long [api-unavailable, ref "), "{said:?}");
    }
}

#[tokio::test]
async fn a_listing_says_what_is_missing() {
    let fleets = |names: &[&str]| Some(Scopes::Fleets(names.iter().map(|name| FleetId::parse(name).unwrap()).collect()));
    let partly = || Fake { scopes: fleets(&["fleet-a", "fleet-b"]), refuses: [("fleet-b", Code::ApiDenied)].into(), cut: true, ..cloud() };
    let desk = Desk::new(partly);
    let said = desk.says("alice", "ls").await;
    assert_eq!(said.exit, 0);
    assert!(said.out.contains("ins-b2") && said.out.ends_with("note: there are more; a listing has at most 10000\n"), "{}", said.out);
    // alice has no grant in fleet-b, so it is not looked into; all that bob has is there.
    assert!(!said.out.contains("fleet-b"));
    let said = desk.says("bob", "ls").await;
    assert!(said.exit == 4 && said.err.contains("[api-denied, ref "), "{said:?}");
    let broken = Desk::new(|| Fake { scopes: fleets(&["fleet-a"]), refuses: [("fleet-a", Code::ApiUnavailable)].into(), ..cloud() });
    assert_eq!(broken.says("alice", "ls").await.exit, 4);
}

#[tokio::test]
async fn nothing_of_the_clouds_text_reaches_a_terminal_as_it_is() {
    let desk = Desk::new(|| Fake { status: "\x1b]0;owned\x07\n\u{9b}2J", ..cloud() });
    let said = desk.says("alice", "ls").await;
    assert!(said.out.contains("\\u{1b}]0;owned\\u{7}\\u{a}\\u{9b}2J") && said.out.lines().count() == 3, "{}", said.out);
    let said = desk.says("alice", "doctor ins-a1").await;
    assert!(said.out.contains("api      failed") && said.out.contains("broker misconfigured: \\u{1b}[31m"), "{}", said.out);
}

#[tokio::test]
async fn only_administrators_learn_what_a_refusal_hides() {
    let desk = Desk::new(cloud);
    let masked = |said: Said| said.out.split("ref ").next().unwrap().to_owned();
    let (hidden, unknown) = (masked(desk.says("bob", "why ins-b2").await), masked(desk.says("bob", "why ins-b3").await));
    assert_eq!(hidden.replace("ins-b2", "ins-b3"), unknown);
    let told = desk.says("alice", "why ins-b1").await.out;
    assert!(told.contains("it is in fleet-b: no grant matches"), "{told}");
    assert!(desk.says("alice", "why ins-b9").await.out.contains("no fleet has it"));
}

#[tokio::test]
async fn where_the_audit_cannot_be_written_nothing_is_told() {
    let desk = Desk::new(cloud);
    struct Full;
    impl Write for Full {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            panic!("the writer ends")
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (audit, writer) = Audit::with_sink(Box::new(Full), 1);
    let parts = Arc::into_inner(desk.console.0).unwrap();
    let desk = Desk { console: Console::new(Parts { audit, ..parts }), sink: desk.sink, writer: None, _state: desk._state };
    let mut said = desk.says("alice", "sessions").await;
    let _ = writer.join();
    for _ in 0..3 {
        said = desk.says("alice", "sessions").await;
    }
    assert!(said.exit == 4 && said.out.is_empty() && said.err.contains("its audit cannot be written"), "{said:?}");
}
