//! The door with a real OpenSSH client before it.

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

use super::{Config, Door, Jump, Limits, Sessions};
use crate::access::{FleetAliases, Reference};
use crate::audit::Audit;
use crate::broker::BoxFuture;

pub(super) const LIMITS: Limits = Limits {
    connections: 100,
    startups: 50,
    startups_per_source: 40,
    startups_per_netblock: 40,
    attempts: 6,
    sessions: 100,
    sessions_per_operator: 50,
    sessions_per_connection: 10,
    pipe: 1 << 20,
};

/// Echoes what `ins-echo` is sent, says the sentence of what failed, and lets `ins-stall` wait until the test has ended.
#[derive(Default)]
struct Echo {
    open: Arc<AtomicUsize>,
    restrictions: Arc<Mutex<Vec<crate::access::Restrictions>>>,
}

impl Sessions for Echo {
    fn run(&self, jump: Jump) -> BoxFuture<'static, ()> {
        let open = self.open.clone();
        self.restrictions.lock().unwrap().push(jump.operator.restrictions);
        Box::pin(async move {
            open.fetch_add(1, Ordering::SeqCst);
            let mut stream = jump.stream;
            match jump.name {
                Ok(name) if name.instance.as_str() == "ins-stall" => std::future::pending().await,
                Ok(_) => {
                    let (mut read, mut write) = tokio::io::split(stream);
                    if tokio::io::copy(&mut read, &mut write).await.is_ok() {
                        let _ = write.shutdown().await;
                    }
                }
                Err(failure) => {
                    let sentence = failure.sentence(&jump.typed, Reference::from_random(1));
                    let _ = stream.write_all(sentence.as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            }
            open.fetch_sub(1, Ordering::SeqCst);
        })
    }
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct World {
    dir: tempfile::TempDir,
    config: Config,
    at: SocketAddr,
    door: Door,
    audit: Lines,
    echo: Arc<Echo>,
    shutdown: CancellationToken,
}

impl World {
    async fn new(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let operators = dir.path().join("operators");
        std::fs::create_dir(&operators).unwrap();
        keygen(dir.path(), "alice", &["-t", "ed25519"]);
        keygen(dir.path(), "host", &["-t", "ed25519"]);
        keygen(dir.path(), "ca", &["-t", "ed25519"]);
        let mut config = Config {
            addresses: Vec::new(),
            login_grace: Duration::from_secs(10),
            authorized_keys_dir: operators,
            trusted_user_ca: None,
            revoked_keys: None,
            fleet_aliases: FleetAliases::default(),
            limits: LIMITS,
        };
        change(&mut config);
        if let Some(path) = &mut config.trusted_user_ca {
            *path = dir.path().join("ca.pub");
        }
        if let Some(path) = &mut config.revoked_keys {
            *path = dir.path().join("revoked");
            std::fs::write(path, "").unwrap();
        }
        let audit = Lines::default();
        let (handle, _) = Audit::with_sink(Box::new(audit.clone()), 64);
        let echo = Arc::new(Echo::default());
        let host_key = ssh_key::PrivateKey::read_openssh_file(dir.path().join("host")).unwrap();
        let door = Door::new(&config, &host_key, handle, echo.clone()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        tokio::spawn({
            let (door, shutdown) = (door.clone(), shutdown.clone());
            async move { door.run(vec![listener], shutdown).await }
        });
        let world = Self { dir, config, at, door, audit, echo, shutdown };
        world.authorize("alice", "", "alice");
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn authorize(&self, operator: &str, options: &str, key: &str) {
        let key = std::fs::read_to_string(self.path(&format!("{key}.pub"))).unwrap();
        let path = self.config.authorized_keys_dir.join(operator);
        std::fs::write(&path, format!("{options} {key}")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    }

    fn ssh(&self, user: &str, key: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
        command
            .args(["-o", "IdentitiesOnly=yes", "-o", "LogLevel=VERBOSE", "-i"])
            .arg(self.path(key))
            .args(["-p", &self.at.port().to_string()]);
        command.args(arguments).arg(format!("{user}@127.0.0.1"));
        command.env_remove("SSH_AUTH_SOCK").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        command
    }

    /// Sends a line through `ins-echo`; what came back, and what the client said.
    async fn echo(&self, user: &str, key: &str, arguments: &[&str]) -> (String, String) {
        let mut command = self.ssh(user, key, &[arguments, &["-W", "ins-echo:22"]].concat());
        let output = run(&mut command, b"hello\n".to_vec()).await;
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    }

    async fn works(&self, user: &str, key: &str) -> bool {
        let (out, error) = self.echo(user, key, &[]).await;
        assert!(out == "hello\n" || error.contains("Permission denied (publickey)"), "{out} {error}");
        out == "hello\n"
    }

    /// The audit's lines once there are so many.
    async fn audited(&self, count: usize) -> Vec<serde_json::Value> {
        for _ in 0..200 {
            let text = String::from_utf8(self.audit.0.lock().unwrap().clone()).unwrap();
            if text.lines().count() >= count {
                return text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("fewer than {count} audit events");
    }
}

async fn run(command: &mut Command, input: Vec<u8>) -> Output {
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let write = tokio::spawn(async move {
        let _ = stdin.write_all(&input).await;
    });
    let output = tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await.expect("ssh takes too long").unwrap();
    write.await.unwrap();
    output
}

fn keygen(dir: &Path, name: &str, arguments: &[&str]) {
    let made =
        std::process::Command::new("ssh-keygen").args(["-q", "-N", "", "-C", "a test", "-f"]).arg(dir.join(name)).args(arguments).output();
    assert!(made.as_ref().unwrap().status.success(), "{made:?}");
}

/// Signs `key` into `name`, a copy of it with its certificate beside.
fn certify(world: &World, name: &str, ca: &str, arguments: &[&str]) {
    for (from, to) in [("alice", name.to_owned()), ("alice.pub", format!("{name}.pub"))] {
        std::fs::copy(world.path(from), world.path(&to)).unwrap();
    }
    let signed = std::process::Command::new("ssh-keygen")
        .args(["-q", "-s"])
        .arg(world.path(ca))
        .args(["-I", "alice \"laptop\""])
        .args(arguments)
        .arg(world.path(&format!("{name}.pub")))
        .output();
    assert!(signed.as_ref().unwrap().status.success(), "{signed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_key_is_let_in_over_aes_gcm_and_everybody_else_is_told_the_same() {
    let world = World::new(|_| {}).await;
    keygen(world.dir.path(), "mallory", &["-t", "ed25519"]);
    let started = Instant::now();
    let (out, log) = world.echo("alice", "alice", &["-v"]).await;
    println!("ssh -W in {:?}", started.elapsed());
    assert_eq!(out, "hello\n", "{log}");
    assert!(log.contains("cipher: aes128-gcm@openssh.com") && log.contains("remote software version ssh-broker"), "{log}");
    println!("{}", log.lines().filter(|line| line.contains("kex: ")).collect::<Vec<_>>().join("\n"));
    let answer =
        |log: String| log.lines().filter(|line| line.contains("denied")).map(|line| line.replace("nobody", "alice")).collect::<Vec<_>>();
    let (_, unknown_key) = world.echo("alice", "mallory", &[]).await;
    let (_, unknown_operator) = world.echo("nobody", "mallory", &[]).await;
    assert_eq!(answer(unknown_key), answer(unknown_operator.clone()));
    assert!(unknown_operator.contains("Permission denied (publickey)"), "{unknown_operator}");
    let (_, no_name) = world.echo("../alice", "alice", &[]).await;
    assert!(no_name.contains("Permission denied (publickey)"), "{no_name}");
    let events = world.audited(4).await;
    assert_eq!(events[0]["event"], "operator.authenticated");
    assert_eq!(events[0]["operator"], "alice");
    assert!(
        events[0]["key"].as_str().unwrap().starts_with("SHA256:") && events[0]["client"].as_str().unwrap().starts_with("SSH-2.0-OpenSSH")
    );
    for (event, claimed) in events[1..].iter().zip(["alice", "nobody", "../alice"]) {
        assert_eq!((&event["event"], &event["claimed"]), (&"operator.refused".into(), &claimed.into()), "{event}");
        assert!(event["reason"] == "no such key" && event.get("operator").is_none(), "{event}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_each_kind_and_the_options_before_them_count() {
    let world = World::new(|config| config.revoked_keys = Some(PathBuf::new())).await;
    for (name, kind) in [
        ("rsa", &["-t", "rsa", "-b", "2048"][..]),
        ("p256", &["-t", "ecdsa"]),
        ("p521", &["-t", "ecdsa", "-b", "521"]),
        ("weak", &["-t", "rsa", "-b", "1024"]),
    ] {
        keygen(world.dir.path(), name, kind);
        world.authorize(name, "", name);
        assert_eq!(world.works(name, name).await, name != "weak", "{name}");
    }
    let sha1 = ["-o", "PubkeyAcceptedAlgorithms=ssh-rsa"];
    assert_eq!(world.echo("rsa", "rsa", &sha1).await.0, "");
    for (options, works) in [
        ("from=\"127.0.0.0/8\"", true),
        ("from=\"192.0.2.*\"", false),
        ("expiry-time=\"20990101Z\"", true),
        ("expiry-time=\"20200101\"", false),
        ("command=\"true\"", false),
        ("restrict,pty", true),
    ] {
        world.authorize("alice", options, "alice");
        assert_eq!(world.works("alice", "alice").await, works, "{options}");
    }
    assert!(world.echo.restrictions.lock().unwrap().last().unwrap().no_agent_forwarding);
    std::fs::copy(world.path("alice.pub"), world.path("revoked")).unwrap();
    assert!(!world.works("alice", "alice").await);
    std::fs::write(world.path("revoked"), "").unwrap();
    std::fs::set_permissions(world.config.authorized_keys_dir.join("alice"), PermissionsExt::from_mode(0o666)).unwrap();
    assert!(!world.works("alice", "alice").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_counts_when_everything_in_it_does() {
    let world = World::new(|config| {
        config.trusted_user_ca = Some(PathBuf::new());
        config.revoked_keys = Some(PathBuf::new());
    })
    .await;
    std::fs::remove_file(world.config.authorized_keys_dir.join("alice")).unwrap();
    keygen(world.dir.path(), "other", &["-t", "ed25519"]);
    for (name, ca, arguments, works) in [
        ("good", "ca", &["-n", "bob,alice", "-V", "+1h", "-z", "7", "-O", "no-pty"][..], true),
        ("plain", "other", &["-n", "alice"], false),
        ("expired", "ca", &["-n", "alice", "-V", "-2h:-1h"], false),
        ("early", "ca", &["-n", "alice", "-V", "+1h:+2h"], false),
        ("bob", "ca", &["-n", "bob"], false),
        ("anyone", "ca", &[], false),
        ("host-cert", "ca", &["-h", "-n", "alice"], false),
        ("here", "ca", &["-n", "alice", "-O", "source-address=127.0.0.0/8"], true),
        ("there", "ca", &["-n", "alice", "-O", "source-address=192.0.2.0/24"], false),
        ("forced", "ca", &["-n", "alice", "-O", "force-command=true"], false),
        ("critical", "ca", &["-n", "alice", "-O", "critical:frobnicate=1"], false),
    ] {
        certify(&world, name, ca, arguments);
        assert_eq!(world.works("alice", name).await, works, "{name}");
    }
    let restrictions = world.echo.restrictions.lock().unwrap()[0];
    assert!(restrictions.no_pty && !restrictions.no_agent_forwarding);
    let events = world.audited(11).await;
    let key = events[0]["key"].as_str().unwrap();
    assert!(key.contains(" (cert \"alice ?laptop?\", serial 7, CA SHA256:"), "{key}");
    let reasons: Vec<_> = events.iter().filter_map(|event| event["reason"].as_str()).collect();
    for told in ["authority is not trusted", "wrong principals", "no principal", "source-address", "force-command", "frobnicate"] {
        assert!(reasons.iter().any(|reason| reason.contains(told)), "{told}: {reasons:#?}");
    }
    // A cert-authority line trusts another authority for one operator, by the principals that it names.
    world.authorize("carol", "cert-authority,principals=\"alice\"", "other");
    assert!(world.works("carol", "plain").await);
    assert!(!world.works("alice", "plain").await);
    std::fs::copy(world.path("ca.pub"), world.path("revoked")).unwrap();
    assert!(!world.works("alice", "good").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_full_of_other_keys_gets_in_with_its_last() {
    let world = World::new(|_| {}).await;
    let mut arguments = Vec::new();
    for name in ["k1", "k2", "k3", "k4", "k5"] {
        keygen(world.dir.path(), name, &["-t", "ed25519"]);
        arguments.extend(["-i".to_owned(), world.path(name).display().to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command =
        world.ssh("alice", "k1", &[&arguments[2..], &["-i", world.path("alice").to_str().unwrap(), "-W", "ins-echo:22"]].concat());
    let output = run(&mut command, b"hello\n".to_vec()).await;
    assert_eq!(output.stdout, b"hello\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_on_the_way_to_a_slow_reader_and_back() {
    let world = World::new(|_| {}).await;
    let sent: Vec<u8> = (0..20_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut child = world.ssh("alice", "alice", &["-W", "ins-echo:22"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let write = tokio::spawn({
        let sent = sent.clone();
        async move {
            stdin.write_all(&sent).await.unwrap();
        }
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut stdout = child.stdout.take().unwrap();
    let mut read = Vec::new();
    let started = Instant::now();
    tokio::time::timeout(Duration::from_secs(60), stdout.read_to_end(&mut read)).await.unwrap().unwrap();
    println!("20 MiB there and back in {:?}", started.elapsed());
    assert!(read == sent, "{} of {} bytes came back", read.len(), sent.len());
    write.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stalled_target_leaves_the_others_of_its_connection_alone() {
    let world = World::new(|config| config.limits.sessions_per_connection = 2).await;
    let control = world.path("control");
    let control = format!("ControlPath={}", control.display());
    let mut master = world.ssh("alice", "alice", &["-N", "-M", "-o", &control]).spawn().unwrap();
    for _ in 0..300 {
        if world.path("control").exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut stalled = world.ssh("alice", "alice", &["-o", &control, "-W", "ins-stall:22"]).spawn().unwrap();
    let mut into_the_stalled = stalled.stdin.take().unwrap();
    // Less than a pipe: the client is not held back.
    into_the_stalled.write_all(&vec![b'x'; 400 << 10]).await.unwrap();
    let mut command = world.ssh("alice", "alice", &["-o", &control, "-W", "ins-echo:22"]);
    let output = run(&mut command, vec![b'y'; 4 << 20]).await;
    assert_eq!(output.stdout.len(), 4 << 20, "{}", String::from_utf8_lossy(&output.stderr));
    // The place of the session that has ended is free, and the third at once is told that there is none.
    let second = world.ssh("alice", "alice", &["-o", &control, "-W", "ins-stall:22"]).spawn().unwrap();
    while world.echo.open.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let output = run(&mut world.ssh("alice", "alice", &["-o", &control, "-W", "ins-echo:22"]), Vec::new()).await;
    let sentence = String::from_utf8_lossy(&output.stdout);
    assert!(
        sentence.starts_with("ssh-broker: ins-echo: this connection has 2 sessions") && sentence.contains("[broker-busy,"),
        "{sentence}"
    );
    drop(second);
    master.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_targets_are_reached_and_what_is_no_target_is_told_so() {
    let world = World::new(|_| {}).await;
    let said = async |arguments: &[&str]| {
        let output = run(&mut world.ssh("alice", "alice", arguments), Vec::new()).await;
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (out, _) = said(&["-W", "www.example.com:22"]).await;
    assert!(out.starts_with("ssh-broker: www.example.com: not a target name") && out.contains("[target-name,"), "{out}");
    for refused in [&["-W", "ins-echo:2222"][..], &["-W", "127.0.0.1:80"], &["-T"], &["-s", "-T"]] {
        let (out, error) = said(refused).await;
        assert!(out.is_empty() && (error.contains("administratively prohibited") || error.contains("usage:")), "{refused:?}: {error}");
    }
    let (_, error) = said(&["-N", "-R", "0:127.0.0.1:22", "-o", "ExitOnForwardFailure=yes"]).await;
    assert!(error.contains("remote port forwarding failed"), "{error}");
    world.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), world.door.ended()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(TcpStream::connect(world.at).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_refuses_new_sessions_and_disconnecting_ends_them_all() {
    let world = World::new(|_| {}).await;
    let control = format!("ControlPath={}", world.path("control").display());
    let master = world.ssh("alice", "alice", &["-N", "-M", "-o", &control]).spawn().unwrap();
    while !world.path("control").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let output = run(&mut world.ssh("alice", "alice", &["-o", &control, "-W", "ins-echo:22"]), Vec::new()).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("[broker-draining,"), "{output:?}");
    world.door.disconnect();
    tokio::time::timeout(Duration::from_secs(20), world.door.ended()).await.unwrap();
    let output = tokio::time::timeout(Duration::from_secs(5), master.wait_with_output()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("the broker is going down"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_proves_nothing_is_gone_after_the_grace_whatever_it_sends() {
    let grace = Duration::from_millis(1200);
    let world = World::new(|config| {
        config.login_grace = grace;
        config.limits.startups_per_source = 3;
    })
    .await;
    let started = Instant::now();
    let mut silent = TcpStream::connect(world.at).await.unwrap();
    let mut identified = TcpStream::connect(world.at).await.unwrap();
    identified.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await.unwrap();
    let (mut flooder, mut flood) = TcpStream::connect(world.at).await.unwrap().into_split();
    // SSH_MSG_IGNORE before any key exchange, twenty a second.
    let ignore = [0, 0, 0, 12, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    tokio::spawn(async move {
        let _ = flood.write_all(b"SSH-2.0-dropbear_2022.83\r\n").await;
        while flood.write_all(&ignore).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    // A fourth from the same source finds no place.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut fourth = TcpStream::connect(world.at).await.unwrap();
    assert_eq!(fourth.read(&mut [0; 64]).await.unwrap_or(0), 0);
    let mut sink = Vec::new();
    let _ = silent.read_to_end(&mut sink).await;
    let _ = identified.read_to_end(&mut sink).await;
    let _ = flooder.read_to_end(&mut sink).await;
    let took = started.elapsed();
    assert!(took >= grace && took < grace + Duration::from_millis(800), "{took:?}");
    // None of them said a name, so none of them is an event; and the places are free again.
    assert!(world.works("alice", "alice").await);
    assert_eq!(world.audited(1).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_error_of_accept_ends_the_loop() {
    use std::task::{Context, Poll};
    struct Starved(Arc<AtomicUsize>);
    impl super::listener::Accept for Starved {
        fn poll_accept(&self, _: &mut Context<'_>) -> Poll<std::io::Result<(TcpStream, SocketAddr)>> {
            // EMFILE, ENFILE, ENOMEM, ECONNABORTED in turn.
            let turn = self.0.fetch_add(1, Ordering::SeqCst);
            Poll::Ready(Err(std::io::Error::from_raw_os_error([24, 23, 12, 103][turn % 4])))
        }
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let (admission, shutdown) = (super::admission::Admission::new(LIMITS), CancellationToken::new());
    let running = super::listener::run(vec![Starved(calls.clone())], &admission, &shutdown, |_| {});
    let stop = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        shutdown.cancel();
    };
    tokio::join!(running, stop);
    let calls = calls.load(Ordering::SeqCst);
    assert!((60..120).contains(&calls), "{calls} calls of accept in a minute");
}
