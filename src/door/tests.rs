//! The door with a real OpenSSH client before it.

mod identity;
mod limits;
mod streams;

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
    startups_per_source: 50,
    startups_per_netblock: 50,
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
