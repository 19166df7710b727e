//! The simulated instance as the real OpenSSH client sees it.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ssh_key::LineEnding;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;

use crate::access::Secret;
use crate::demo::{Credential, Instance, InstanceConfig, SecretKind, World, WorldConfig, ed25519};

/// An instance that takes one key, and the directory with that key.
struct Bench {
    instance: Instance,
    dir: tempfile::TempDir,
}

impl Bench {
    async fn start() -> Self {
        let key = ed25519("test").unwrap();
        let dir = tempfile::tempdir().unwrap();
        key.write_openssh_file(dir.path().join("key"), LineEnding::LF).unwrap();
        let instance = instance(Credential::Key(key.public_key().clone()), 1 << 20).await;
        Self { instance, dir }
    }

    /// `options` come before the host, the command after it.
    fn ssh(&self, options: &[&str], command: &[&str]) -> Command {
        let mut ssh = client("ssh", &self.instance, self.dir.path());
        ssh.arg("-p").arg(self.instance.address().port().to_string()).args(options).args(["-o", "LogLevel=ERROR"]);
        ssh.arg(format!("{}@{}", self.instance.login(), self.instance.address().ip())).args(command);
        ssh
    }

    async fn run(&self, options: &[&str], command: &[&str], stdin: &[u8]) -> Output {
        finish(self.ssh(options, command), stdin).await
    }
}

async fn instance(credential: Credential, rekey_after: usize) -> Instance {
    let config = InstanceConfig {
        name: "ins-test".into(),
        address: SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), 0)),
        login: "someone".into(),
        credential,
        host_key: ed25519("host").unwrap(),
        rekey_after: Some(rekey_after),
    };
    Instance::start(config).await.unwrap()
}

fn client(program: &str, instance: &Instance, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["-F", "none", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]);
    command.args(["-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-i"]).arg(dir.join("key"));
    command.env("DEMO_TEST", instance.name()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn finish(mut command: Command, stdin: &[u8]) -> Output {
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let write = async move {
        let _ = input.write_all(stdin).await;
        let _ = input.shutdown().await;
        drop(input);
    };
    let both = async { tokio::join!(write, child.wait_with_output()).1 };
    timeout(Duration::from_secs(40), both).await.expect("the client must end").unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap().trim_end()
}

#[tokio::test]
async fn commands_run_and_say_how_they_ended() {
    let bench = Bench::start().await;
    for status in [0, 7, 255] {
        let output = bench.run(&[], &[&format!("exit {status}")], b"").await;
        assert_eq!(output.status.code(), Some(status));
    }
    // OpenSSH answers 255 to an exit-signal and says which with -v.
    let killed = bench.run(&["-o", "LogLevel=DEBUG1"], &["kill -TERM $$"], b"").await;
    assert_eq!(killed.status.code(), Some(255));
    assert!(text(&killed.stderr).contains("exit-signal"), "{}", text(&killed.stderr));
    let apart = bench.run(&[], &["echo out; echo err >&2; echo $SSH_BROKER_DEMO_INSTANCE; echo $DEMO_TEST"], b"").await;
    assert_eq!((text(&apart.stdout), text(&apart.stderr)), ("out\nins-test", "err"));
    let missing = bench.run(&[], &["/nonexistent/program"], b"").await;
    assert_eq!(missing.status.code(), Some(127));
    let shell = bench.run(&["-T"], &[], b"echo from the shell\nexit 5\n").await;
    assert_eq!((shell.status.code(), text(&shell.stdout)), (Some(5), "from the shell"));
    let mut sent = bench.ssh(&["-o", "SendEnv=LC_DEMO PATHX"], &["echo $LC_DEMO-$PATHX"]);
    sent.env("LC_DEMO", "kept").env("PATHX", "dropped");
    assert_eq!(text(&finish(sent, b"").await.stdout), "kept-");
    assert_eq!(bench.instance.failed_attempts(), 0);
    bench.instance.shutdown().await;
}

/// Rekeys every MiB on the instance's side meanwhile.
#[tokio::test]
async fn much_data_arrives_unchanged_and_eof_ends_it() {
    let bench = Bench::start().await;
    let data: Vec<u8> = (0..20_u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    for cipher in ["aes128-gcm@openssh.com", "chacha20-poly1305@openssh.com"] {
        let output = bench.run(&["-c", cipher], &["cat; echo done >&2"], &data).await;
        assert_eq!((output.status.code(), text(&output.stderr)), (Some(0), "done"));
        assert!(Sha256::digest(&output.stdout) == Sha256::digest(&data), "{} bytes", output.stdout.len());
    }
    // A command that does not read its input does not keep it from ending.
    let deaf = bench.run(&[], &["exec <&-; sleep 0.2; exit 3"], &data).await;
    assert_eq!(deaf.status.code(), Some(3));
}

/// The case that a russh server hangs in when it is used as its documentation shows.
#[tokio::test]
async fn a_slow_reader_and_a_full_input_do_not_deadlock() {
    let bench = Bench::start().await;
    let mut child = bench.ssh(&[], &["cat"]).spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    const TOTAL: usize = 24 << 20;
    let write = async move {
        input.write_all(&vec![0; TOTAL]).await.unwrap();
        drop(input);
    };
    let read = async move {
        // Until everything on the way is full.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mut all = Vec::new();
        output.read_to_end(&mut all).await.unwrap();
        all.len()
    };
    let (_, count) = timeout(Duration::from_secs(40), async { tokio::join!(write, read) }).await.expect("no deadlock");
    assert_eq!(count, TOTAL);
    assert!(child.wait().await.unwrap().success());
}

#[tokio::test]
async fn terminals_are_terminals() {
    let bench = Bench::start().await;
    let output = bench.run(&["-tt"], &["stty size; test -t 0 && test -t 1 && test -t 2 && echo yes; echo $TERM; exit 4"], b"").await;
    let lines: Vec<&str> = text(&output.stdout).lines().map(str::trim_end).collect();
    assert_eq!((output.status.code(), lines.get(1)), (Some(4), Some(&"yes")), "{lines:?}");
    // A shell that reads its input from the terminal, ^D included.
    let typed = bench.run(&["-tt"], &["cat"], b"typed\n\x04").await;
    assert!(typed.status.success() && text(&typed.stdout).matches("typed").count() >= 1);
}

#[tokio::test]
async fn a_password_logs_in_and_a_wrong_one_or_name_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let instance = instance(Credential::Password(Secret::new(b"pass word".to_vec())), 1 << 30).await;
    let askpass = dir.path().join("askpass");
    std::fs::write(&askpass, "#!/bin/sh\nprintf '%s\\n' \"$DEMO_PASSWORD\"\n").unwrap();
    std::fs::set_permissions(&askpass, std::fs::Permissions::from_mode(0o700)).unwrap();
    let login = async |user: &str, password: &str| {
        let mut ssh = client("ssh", &instance, dir.path());
        ssh.args(["-o", "NumberOfPasswordPrompts=1", "-o", "PubkeyAuthentication=no", "-p"]).arg(instance.address().port().to_string());
        ssh.args(["-o", "LogLevel=ERROR"]).arg(format!("{user}@{}", instance.address().ip())).arg("echo in");
        ssh.env("SSH_ASKPASS", &askpass).env("SSH_ASKPASS_REQUIRE", "force").env("DEMO_PASSWORD", password);
        finish(ssh, b"").await
    };
    assert_eq!(text(&login("someone", "pass word").await.stdout), "in");
    assert_eq!((instance.logins(), instance.failed_attempts()), (1, 0));
    for (user, password) in [("someone", "pass wore"), ("someone", "pass"), ("someone", "pass word "), ("root", "pass word")] {
        assert_eq!(login(user, password).await.status.code(), Some(255));
    }
    assert_eq!((instance.logins(), instance.failed_attempts()), (1, 4));
    instance.set_credential(Credential::Key(ed25519("x").unwrap().public_key().clone()));
    assert_eq!(login("someone", "pass word").await.status.code(), Some(255));
}

#[tokio::test]
async fn nothing_is_left_of_a_channel_or_an_instance() {
    let bench = Bench::start().await;
    let gone = async |pid: &str| {
        for _ in 0..200 {
            let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            if state.is_empty() || state.contains(") Z ") {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    };
    // The client is killed in the middle of a command, with and without a terminal.
    for option in ["-T", "-tt"] {
        let mut child = bench.ssh(&[option], &["trap '' HUP; sleep 300 & echo $!; wait"]).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let pid = timeout(Duration::from_secs(20), lines.next_line()).await.unwrap().unwrap().unwrap();
        child.kill().await.unwrap();
        assert!(gone(pid.trim()).await, "{option}: process {pid} is still there");
    }
    // A daemon leaves its process group and outlives its channel, but not the instance.
    let command = "setsid sh -c 'echo $$; exec >&- 2>&-; sleep 300' & sleep 0.3";
    let output = bench.run(&[], &[command], b"").await;
    let pid = text(&output.stdout).to_owned();
    assert!(Path::new(&format!("/proc/{pid}")).exists());
    let address = bench.instance.address();
    timeout(Duration::from_secs(5), bench.instance.shutdown()).await.unwrap();
    assert!(gone(&pid).await);
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn sftp_and_forwarding_to_loopback_work() {
    let bench = Bench::start().await;
    if Path::new("/usr/lib/openssh/sftp-server").exists() {
        let file = bench.dir.path().join("file");
        std::fs::write(&file, vec![7; 300_000]).unwrap();
        let mut sftp = client("sftp", &bench.instance, bench.dir.path());
        sftp.args(["-b", "-", "-P"]).arg(bench.instance.address().port().to_string());
        sftp.arg(format!("someone@{}", bench.instance.address().ip()));
        let batch = format!("put {0} {0}.up\nget {0}.up {0}.down\n", file.display());
        let output = finish(sftp, batch.as_bytes()).await;
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert_eq!(std::fs::read(bench.dir.path().join("file.down")).unwrap(), vec![7; 300_000]);
    }
    let unknown = bench.run(&["-s"], &["nonesuch"], b"").await;
    assert!(text(&unknown.stderr).contains("subsystem request failed"));

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let echo = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut all = Vec::new();
        socket.read_to_end(&mut all).await.unwrap();
        all.reverse();
        socket.write_all(&all).await.unwrap();
    });
    let forwarded = bench.run(&["-W", &format!("127.0.0.1:{port}")], &[], b"abc").await;
    assert_eq!(text(&forwarded.stdout), "cba", "{}", text(&forwarded.stderr));
    timeout(Duration::from_secs(5), echo).await.unwrap().unwrap();
    let outside = bench.run(&["-o", "LogLevel=INFO", "-W", "192.0.2.1:80"], &[], b"").await;
    assert!(!outside.status.success() && text(&outside.stderr).contains("prohibited"), "{}", text(&outside.stderr));
}

#[tokio::test]
async fn a_world_s_cloud_knows_what_its_instances_take() {
    let world = World::start(WorldConfig::default()).await.unwrap();
    let pem = world.endpoint().change(|inventory| inventory.instance_mut("ins-demo1").unwrap().secret.clone());
    let dir = tempfile::tempdir().unwrap();
    ssh_key::PrivateKey::from_openssh(pem.expose()).unwrap().write_openssh_file(dir.path().join("key"), LineEnding::LF).unwrap();
    let instance = world.instance("ins-demo1").unwrap();
    assert_eq!(world.ssh_ports()["fleet-demo-keys"], instance.address().port());
    let mut ssh = client("ssh", instance, dir.path());
    ssh.arg("-p").arg(instance.address().port().to_string()).args(["root@127.0.0.1", "echo hello"]);
    assert_eq!(text(&finish(ssh, b"").await.stdout), "hello");
    assert!(world.rotate("ins-demo1", SecretKind::Password).unwrap() && !world.rotate("ins-x", SecretKind::Key).unwrap());
    let rotated = world.endpoint().change(|inventory| inventory.instance_mut("ins-demo1").unwrap().secret.clone());
    assert_eq!(rotated.expose().len(), 74);
    timeout(Duration::from_secs(5), world.shutdown()).await.unwrap();
}
