//! A broker as it is deployed, between real OpenSSH programs: the binary under test as a process of its own, `sshd` as the instances, a
//! GSE endpoint that checks signatures and keeps the quota, and a home for the operator's `ssh`. All on loopback, on free ports.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use ssh_broker::access::Secret;
use ssh_broker::demo::{ApiKey, Endpoint, EndpointConfig, InstanceRecord, Inventory, Mode};
use tempfile::TempDir;

pub const FLEET: &str = "fleet-lab-1";
/// What marks the instances' password and the API key in anything that they leak into.
pub const API_KEY: &str = "labSecretKey0123456789MARKER";

const SSHD: &str = "/usr/sbin/sshd";

/// Ends its process when dropped.
pub struct Process(Child);

impl From<Child> for Process {
    fn from(child: Child) -> Self {
        Self(child)
    }
}

impl Process {
    pub fn id(&self) -> u32 {
        self.0.id()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        if let Some(pid) = rustix::process::Pid::from_raw(self.0.id() as i32) {
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Resident memory in KiB.
    pub fn rss(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// The exit code, when it ends in time.
    pub fn wait(&mut self, limit: Duration) -> Option<i32> {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        None
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// How an instance lets the login in.
#[derive(Clone)]
pub enum Login {
    /// `root`, by a key made for the lab; `kind` is what follows `ssh-keygen -t`, such as `ecdsa -b 384`.
    Key { kind: &'static str },
    /// A user of the machine and its password.
    Password { user: String, password: String },
}

#[derive(Clone)]
pub struct Sshd {
    pub name: &'static str,
    pub address: &'static str,
    pub login: Login,
    pub options: Vec<String>,
    /// The server's own path, for it starts itself anew.
    pub program: PathBuf,
}

impl Sshd {
    pub fn new(name: &'static str, address: &'static str) -> Self {
        Self { name, address, login: Login::Key { kind: "ed25519" }, options: Vec::new(), program: PathBuf::from(SSHD) }
    }

    pub fn run_by(mut self, program: PathBuf) -> Self {
        self.program = program;
        self
    }

    pub fn option(mut self, line: &str) -> Self {
        self.options.push(line.to_owned());
        self
    }

    pub fn login(mut self, login: Login) -> Self {
        self.login = login;
        self
    }
}

/// What a lab is made with; `Default` has one instance, `ins-a`, and a grant that allows everything.
pub struct Plan {
    pub instances: Vec<Sshd>,
    pub allow: &'static str,
    pub mode: Mode,
    pub extra: String,
    /// More lines of `[listen]`.
    pub listen: String,
    /// Open files that the broker may have.
    pub descriptors: Option<u64>,
    pub log_level: &'static str,
    /// What leaves the broker is searched for the lab's secrets when the lab ends. Its metrics are served for that.
    pub searched: bool,
    /// The audit goes to standard output, a pipe that only [`Lab::audit_pipe`] reads.
    pub audit_to_pipe: bool,
    pub port: u16,
    /// Variables of the broker's.
    pub environment: Vec<(&'static str, String)>,
    /// Where the operator's `ssh` and `scp` are, if not the system's own are meant.
    pub client: Option<PathBuf>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            instances: vec![Sshd::new("ins-a", "127.0.0.1")],
            allow: r#""shell", "exec", "sftp", "forward-local", "forward-remote", "agent", "x11", "nested-ssh""#,
            mode: Mode::AllActions,
            extra: String::new(),
            listen: String::new(),
            descriptors: None,
            log_level: "info",
            searched: false,
            audit_to_pipe: false,
            port: 0,
            environment: Vec::new(),
            client: None,
        }
    }
}

pub struct Lab {
    pub broker: Option<Process>,
    pub endpoint: Endpoint,
    pub sshds: Vec<Process>,
    pub address: SocketAddr,
    /// The port that all instances of the lab listen on.
    pub ssh_port: u16,
    dir: TempDir,
    log_level: &'static str,
    environment: Vec<(&'static str, String)>,
    descriptors: Option<u64>,
    audit_to_pipe: bool,
    client: Option<PathBuf>,
    searched: bool,
    /// Where the broker's metrics are, when the lab has them served.
    pub metrics: Option<SocketAddr>,
    heard: Mutex<Vec<u8>>,
    _runtime: tokio::runtime::Runtime,
}

impl Lab {
    pub fn start() -> Self {
        Self::with(Plan::default())
    }

    /// With the broker's log at this level.
    pub fn with(plan: Plan) -> Self {
        let dir = tempfile::Builder::new().prefix("lab.").permissions(fs::Permissions::from_mode(0o700)).tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let ssh_port = if plan.port == 0 { free_port(&plan.instances) } else { plan.port };
        let mut inventory = Inventory::default();
        let mut sshds = Vec::new();
        for spec in &plan.instances {
            let (login, secret) = prepare_login(dir.path(), spec);
            sshds.push(start_sshd(dir.path(), spec, ssh_port));
            inventory.insert(InstanceRecord {
                fleet: FLEET.to_owned(),
                instance: spec.name.to_owned(),
                address: spec.address.parse().unwrap(),
                login,
                secret: Secret::new(secret).into(),
                operating_system: "Ubuntu Server 22.04".to_owned(),
                status: "Active".to_owned(),
            });
        }
        let key = ApiKey { id: "AKIDlab".to_owned(), key: Secret::new(API_KEY.as_bytes().to_vec()), token: None };
        let config = EndpointConfig { key, region: "ap-shanghai".to_owned(), requests_per_second: 20, inventory, mode: plan.mode };
        let endpoint = runtime.block_on(Endpoint::start(config)).unwrap();
        keygen(&dir.path().join("operator"), &["-t", "ed25519"]);
        let broker_port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), broker_port);
        let (log_level, descriptors, audit_to_pipe) = (plan.log_level, plan.descriptors, plan.audit_to_pipe);
        let environment = plan.environment.clone();
        let mut lab = Self {
            broker: None,
            endpoint,
            sshds,
            address,
            ssh_port,
            dir,
            log_level,
            environment,
            descriptors,
            audit_to_pipe,
            client: plan.client.clone(),
            searched: plan.searched,
            // At an address where no other port is being looked for.
            metrics: plan.searched.then(|| TcpListener::bind("127.0.7.1:0").unwrap().local_addr().unwrap()),
            heard: Mutex::default(),
            _runtime: runtime,
        };
        lab.configure(&plan);
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_ssh-broker"), lab.program_path()).unwrap();
        lab.start_broker();
        lab
    }

    /// Ends the first instance's sshd and starts what `start` makes in its place, with the port and the files of its configuration:
    /// host key, authorized keys.
    pub fn replace_first(&mut self, start: impl FnOnce(&Self) -> Process) {
        drop(self.sshds.remove(0));
        let process = start(self);
        wait_for(SocketAddr::new(IpAddr::from([127, 0, 0, 1]), self.ssh_port), || "no other instance in the place of the first".to_owned());
        self.sshds.insert(0, process);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A link to the broker's binary, through which the lab starts it; another program can be put there.
    pub fn program_path(&self) -> PathBuf {
        self.path("ssh-broker")
    }

    /// Changes the configuration's text.
    pub fn edit(&self, change: impl FnOnce(String) -> String) {
        let text = fs::read_to_string(self.path("broker.toml")).unwrap();
        private(&self.path("broker.toml"), change(text).as_bytes());
    }

    fn configure(&self, plan: &Plan) {
        for name in ["state", "operators"] {
            fs::create_dir(self.path(name)).unwrap();
        }
        let operator = fs::read(self.path("operator.pub")).unwrap();
        for name in ["alice", "bob"] {
            private(&self.path("operators").join(name), &operator);
        }
        private(&self.path("secret_id"), b"AKIDlab\n");
        private(&self.path("secret_key"), API_KEY.as_bytes());
        let dir = self.dir.path().display();
        let grants = match plan.extra.contains("[[grants]]") {
            true => String::new(),
            false => format!("[[grants]]\noperators = [\"alice\"]\ntargets = [\"ins-*\"]\nallow = [{}]\n", plan.allow),
        };
        let text = format!(
            "state_dir = \"{dir}/state\"\n\n[listen]\naddresses = [\"{address}\"]\n{listen}\n[operators]\nauthorized_keys_dir = \"{dir}/operators\"\n\n\
             {grants}\n[gse]\nendpoint = \"{endpoint}\"\nregion = \"ap-shanghai\"\nsecret_id_file = \"{dir}/secret_id\"\n\
             secret_key_file = \"{dir}/secret_key\"\nfleet_aliases = {{ prod = \"{FLEET}\" }}\nssh_port = {port}\n\n\
             [audit]\npath = \"{audit}\"\n\n{metrics}[upstream]\nallowed_networks = [\"127.0.0.0/8\"]\n{extra}\n",
            address = self.address,
            endpoint = self.endpoint.url(),
            port = self.ssh_port,
            extra = plan.extra,
            listen = plan.listen,
            metrics = self.metrics.map(|address| format!("[metrics]\naddress = \"{address}\"\n\n")).unwrap_or_default(),
            audit = if plan.audit_to_pipe { "stdout".to_owned() } else { format!("{dir}/audit.jsonl") },
        );
        private(&self.path("broker.toml"), text.as_bytes());
    }

    pub fn start_broker(&mut self) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("broker.log")).unwrap();
        let program = self.program_path();
        let mut command = match self.descriptors {
            None => Command::new(program),
            Some(descriptors) => {
                let mut limited = Command::new("prlimit");
                limited.arg(format!("--nofile={descriptors}:{descriptors}")).arg(program);
                limited
            }
        };
        let child = command
            .args(["serve", "--config"])
            .arg(self.path("broker.toml"))
            .env("RUST_LOG", self.log_level)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdout(if self.audit_to_pipe { Stdio::piped() } else { Stdio::null() })
            .stderr(log)
            .spawn()
            .unwrap();
        self.broker = Some(Process(child));
        wait_for(self.address, || fs::read_to_string(self.path("broker.log")).unwrap_or_default());
        self.write_ssh_config();
    }

    /// What `ssh-broker client-config` tells operators to paste, with this lab's files.
    fn write_ssh_config(&self) {
        let printed = Command::new(env!("CARGO_BIN_EXE_ssh-broker"))
            .args(["client-config", "--host", "127.0.0.1", "--config"])
            .arg(self.path("broker.toml"))
            .output()
            .unwrap();
        assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
        let printed = String::from_utf8(printed.stdout).unwrap();
        let is_known_host = |line: &&str| line.contains(" ssh-ed25519 ") && !line.trim_start().starts_with('#');
        let mut known: Vec<String> = printed.lines().filter(is_known_host).map(|line| line.trim_start().to_owned()).collect();
        if let Ok(key) = fs::read_to_string(self.path("ins-a.host_ed25519.pub")) {
            known.push(format!("direct {}", key.trim_end()));
        }
        fs::write(self.path("known_hosts"), known.join("\n") + "\n").unwrap();
        let dir = self.dir.path().display();
        let config = format!(
            "Host broker\n  HostName {}\n  Port {}\n  User alice\n\nHost direct\n  HostName 127.0.0.1\n  Port {}\n  User root\n  \
             HostKeyAlias direct\n  IdentityFile {dir}/ins-a.login\n\nHost * !direct\n  IdentityFile {dir}/operator\n\nHost *\n  \
             IdentitiesOnly yes\n  IdentityAgent none\n  UserKnownHostsFile {dir}/known_hosts\n  GlobalKnownHostsFile /dev/null\n  \
             StrictHostKeyChecking yes\n  UpdateHostKeys no\n  BatchMode yes\n  LogLevel INFO\n\nHost ins-*\n  ProxyJump broker\n",
            self.address.ip(),
            self.address.port(),
            self.ssh_port,
        );
        fs::write(self.path("ssh_config"), config).unwrap();
    }

    /// A program of the lab's, ended after `seconds`: a hang is a failure.
    pub fn program(&self, seconds: u32, name: &str) -> Command {
        let mut command = Command::new("timeout");
        command.args(["-k", "1", &seconds.to_string(), name]).stdin(Stdio::null()).env_remove("SSH_AUTH_SOCK").env("HOME", self.dir.path());
        if let Some(client) = &self.client {
            let others = std::env::var("PATH").unwrap_or_default();
            command.env("PATH", format!("{}:{others}", client.display()));
        }
        command
    }

    /// `ssh -F … ARGS`
    pub fn ssh(&self, arguments: &[&str]) -> Command {
        let mut command = self.program(60, "ssh");
        command.arg("-F").arg(self.path("ssh_config")).args(arguments);
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        let out = self.ssh(arguments).output().unwrap();
        self.hear(&out.stdout);
        self.hear(&out.stderr);
        out
    }

    /// Keeps what an operator has read, for the search at the lab's end.
    pub fn hear(&self, bytes: &[u8]) {
        if self.searched {
            self.heard.lock().unwrap().extend_from_slice(bytes);
        }
    }

    pub fn heard(&self) -> MutexGuard<'_, Vec<u8>> {
        self.heard.lock().unwrap()
    }

    /// The audit's events, in order.
    pub fn audit(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.path("audit.jsonl")).unwrap_or_default();
        // The last line may be about to be written.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
    }

    /// Waits until the audit holds an event that `is` wanted.
    pub fn await_event(&self, is: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(event) = self.audit().into_iter().find(&is) {
                return event;
            }
            assert!(Instant::now() < deadline, "no such event in {:#?}", self.audit());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The pipe that the audit goes into.
    pub fn audit_pipe(&mut self) -> std::process::ChildStdout {
        self.broker.as_mut().unwrap().0.stdout.take().unwrap()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path("broker.log")).unwrap_or_default()
    }

    pub fn broker(&self) -> &Process {
        self.broker.as_ref().unwrap()
    }

    /// Starts the broker anew, with what its files hold by now.
    pub fn restart_broker(&mut self) {
        self.broker = None;
        self.start_broker();
    }

    /// Puts another machine with the same login into an instance's place.
    pub fn rebuild(&mut self, position: usize, spec: &Sshd) {
        drop(self.sshds.remove(position));
        fs::remove_file(self.path(&format!("{}.host_ed25519", spec.name))).unwrap();
        self.sshds.insert(position, start_sshd(self.dir.path(), spec, self.ssh_port));
    }

    /// Ends an instance and starts it with the same keys at another address, which the cloud then names.
    pub fn move_to(&mut self, position: usize, instance: &'static str, address: &str) {
        drop(self.sshds.remove(position));
        let config = self.path(&format!("{instance}.config"));
        let lines = fs::read_to_string(&config).unwrap();
        let moved = lines.lines().map(|line| match line.starts_with("ListenAddress ") {
            true => format!("ListenAddress {address}:{}\n", self.ssh_port),
            false => format!("{line}\n"),
        });
        fs::write(&config, moved.collect::<String>()).unwrap();
        let address: IpAddr = address.parse().unwrap();
        self.sshds.insert(position, run_sshd(self.dir.path(), &Sshd::new(instance, ""), SocketAddr::new(address, self.ssh_port)));
        self.endpoint.change(|inventory| inventory.instance_mut(instance).unwrap().address = address);
    }

    /// Gives an instance another login key, at the instance and in the cloud.
    pub fn rotate(&self, instance: &'static str) {
        let login = self.path(&format!("{instance}.login"));
        fs::remove_file(&login).unwrap();
        let (_, secret) = prepare_login(self.dir.path(), &Sshd::new(instance, "127.0.0.1"));
        self.endpoint.change(|inventory| inventory.instance_mut(instance).unwrap().secret = Secret::new(secret).into());
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.searched && !std::thread::panicking() {
            crate::leaks::assert_none(self);
        }
    }
}

pub fn private(path: &Path, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).unwrap();
    file.write_all(bytes).unwrap();
}

pub fn keygen(path: &Path, arguments: &[&str]) {
    let made = Command::new("ssh-keygen").args(["-q", "-N", "", "-f"]).arg(path).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// The login's name and secret, and what sshd needs to let it in.
fn prepare_login(dir: &Path, spec: &Sshd) -> (String, Vec<u8>) {
    let authorized = dir.join(format!("{}.authorized", spec.name));
    match &spec.login {
        Login::Key { kind } => {
            let key = dir.join(format!("{}.login", spec.name));
            let arguments: Vec<&str> = std::iter::once("-t").chain(kind.split(' ')).collect();
            keygen(&key, &arguments);
            fs::copy(key.with_extension("login.pub"), &authorized).unwrap();
            ("root".to_owned(), fs::read(key).unwrap())
        }
        Login::Password { user, password } => {
            private(&authorized, b"");
            (user.clone(), password.clone().into_bytes())
        }
    }
}

fn start_sshd(dir: &Path, spec: &Sshd, port: u16) -> Process {
    let name = spec.name;
    let at = |suffix: &str| dir.join(format!("{name}.{suffix}"));
    keygen(&at("host_ed25519"), &["-t", "ed25519"]);
    let mut lines = spec.options.clone();
    if !lines.iter().any(|line| line.starts_with("HostKey ")) {
        lines.push(format!("HostKey {}", at("host_ed25519").display()));
    }
    for line in [
        format!("AuthorizedKeysFile {}", at("authorized").display()),
        format!("PidFile {}", at("pid").display()),
        "StrictModes no".to_owned(),
        "UsePAM no".to_owned(),
        "PermitRootLogin yes".to_owned(),
        "Subsystem sftp internal-sftp".to_owned(),
        "X11Forwarding yes".to_owned(),
        "MaxSessions 300".to_owned(),
        "MaxStartups 300".to_owned(),
        "AcceptEnv LANG LC_* LAB_*".to_owned(),
        format!("ListenAddress {}:{port}", spec.address),
    ] {
        lines.push(line);
    }
    fs::write(at("config"), lines.join("\n") + "\n").unwrap();
    run_sshd(dir, spec, SocketAddr::new(spec.address.parse().unwrap(), port))
}

/// Runs the sshd whose configuration is written, and waits until it listens there.
fn run_sshd(dir: &Path, spec: &Sshd, address: SocketAddr) -> Process {
    let at = |suffix: &str| dir.join(format!("{}.{suffix}", spec.name));
    fs::create_dir_all("/run/sshd").unwrap();
    let child = Command::new(&spec.program).arg("-D").arg("-f").arg(at("config")).arg("-E").arg(at("log")).spawn().unwrap();
    let process = Process(child);
    wait_for(address, || fs::read_to_string(at("log")).unwrap_or_default());
    process
}

fn free_port(instances: &[Sshd]) -> u16 {
    for _ in 0..50 {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if instances.iter().all(|spec| TcpListener::bind((spec.address, port)).is_ok()) {
            return port;
        }
    }
    panic!("no port is free on every instance's address");
}

fn wait_for(address: SocketAddr, log: impl Fn() -> String) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(address).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {address}: {}", log());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Bytes that do not repeat within any window of SSH.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

/// Runs a command that reads `input`, all of it written beside the reading of the output.
pub fn exchange(command: &mut Command, input: &[u8]) -> Output {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A program that ends before it has read everything shows in its output.
        scope.spawn(move || drop(stdin.write_all(input)));
        child.wait_with_output().unwrap()
    })
}

/// Waits until `is` says so.
#[track_caller]
pub fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Ends a program of the lab's: `timeout`, which it runs under, passes TERM on.
pub fn terminate(child: &mut Child) {
    let _ = rustix::process::kill_process(rustix::process::Pid::from_child(child), rustix::process::Signal::TERM);
    let _ = child.wait();
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The oldest OpenSSH that runs here, in a directory that `tests/run` makes.
pub fn oldest_openssh() -> PathBuf {
    let dir = std::env::var_os("LAB_OLD_OPENSSH").map_or_else(|| PathBuf::from("/var/lib/ssh-broker-tests/openssh-7.5"), PathBuf::from);
    assert!(
        dir.join("sshd").is_file(),
        "{} has no sshd: run the tests with tests/run, which builds it (LAB_OLD_OPENSSH says where)",
        dir.display()
    );
    dir
}

/// The path of a program that the machine must have.
pub fn installed(program: &str) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file());
    let found = found.unwrap_or_else(|| panic!("{program} is not installed: run the tests with tests/run, which installs it"));
    found.display().to_string()
}

pub fn succeeded(out: &Output) -> String {
    assert!(out.status.success(), "{:?}: {}{}", out.status, text(&out.stdout), text(&out.stderr));
    text(&out.stdout)
}

/// `SHA256:…` of a public key's file.
pub fn fingerprint(key: &Path) -> String {
    succeeded(&Command::new("ssh-keygen").arg("-lf").arg(key).output().unwrap()).split(' ').nth(1).unwrap().to_owned()
}
