//! Old and odd instances: each of the algorithms that a modern one has left behind, and every form of a secret.

mod openssh;
mod others;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ssh_broker::access::Secret;
use ssh_broker::demo::InstanceRecord;

use crate::algorithms::User;
use crate::lab::{FLEET, Lab, Login, Plan, Process, Sshd, exchange, keygen, pattern, private, text};

/// Sends three megabytes through `cat` and back.
fn echo(lab: &Lab, instance: &str) {
    let sent = pattern(3 << 20);
    let out = exchange(lab.ssh(&[instance, "cat"]).env("LC_ALL", "C"), &sent);
    assert!(out.status.success(), "{instance}: {}\n{}", text(&out.stderr), lab.log());
    assert!(out.stdout == sent, "{instance}: {} bytes came back", out.stdout.len());
}

/// The instance's algorithms and the weak ones among them, as the audit has them of the last session there.
fn upstream(lab: &Lab, instance: &str) -> (String, Vec<String>) {
    let opened = lab.audit().into_iter().rfind(|event| event["event"] == "session.opened" && event["target"] == instance).unwrap();
    let weak = opened["weak"].as_array().map(|names| names.iter().map(|name| name.as_str().unwrap().to_owned()).collect());
    (opened["upstream"].as_str().unwrap().to_owned(), weak.unwrap_or_default())
}

/// What the operator reads when there is no session.
fn refusal(lab: &Lab, instance: &str) -> String {
    let out = lab.run(&[instance, "true"]);
    assert_eq!(out.status.code(), Some(255), "{}", text(&out.stderr));
    text(&out.stderr)
}

/// Instances that `sshd` limits to some algorithms, each on its own address.
struct Limited {
    instances: Vec<Sshd>,
    keys: tempfile::TempDir,
}

const NAMES: [&str; 15] = [
    "ins-l0", "ins-l1", "ins-l2", "ins-l3", "ins-l4", "ins-l5", "ins-l6", "ins-l7", "ins-l8", "ins-l9", "ins-l10", "ins-l11", "ins-l12",
    "ins-l13", "ins-l14",
];
const ADDRESSES: [&str; 15] = [
    "127.0.1.1",
    "127.0.1.2",
    "127.0.1.3",
    "127.0.1.4",
    "127.0.1.5",
    "127.0.1.6",
    "127.0.1.7",
    "127.0.1.8",
    "127.0.1.9",
    "127.0.1.10",
    "127.0.1.11",
    "127.0.1.12",
    "127.0.1.13",
    "127.0.1.14",
    "127.0.1.15",
];

impl Limited {
    fn new() -> Self {
        Self { instances: Vec::new(), keys: tempfile::tempdir().unwrap() }
    }

    fn add(&mut self, login: &'static str, options: &[&str]) -> &'static str {
        let at = self.instances.len();
        let sshd = Sshd::new(NAMES[at], ADDRESSES[at]).login(Login::Key { kind: login });
        self.instances.push(options.iter().fold(sshd, |sshd, line| sshd.option(line)));
        NAMES[at]
    }

    fn host_key(&self, name: &str, arguments: &[&str]) -> String {
        let path = self.keys.path().join(name);
        keygen(&path, arguments);
        format!("HostKey {}", path.display())
    }

    fn lab(&mut self, extra: &str) -> Lab {
        Lab::with(Plan { instances: std::mem::take(&mut self.instances), extra: extra.to_owned(), ..Plan::default() })
    }
}

const NEWER_KEX: &str = "mlkem768x25519-sha256";

/// The beginning of what is negotiated with a modern instance: which key exchange depends on its OpenSSH.
fn with_modern_kex(all: &str) -> String {
    all.replace(NEWER_KEX, "curve25519-sha256")
}

#[test]
fn each_old_algorithm_works_alone_and_lives_through_new_keys() {
    let mut limited = Limited::new();
    let rsa = limited.host_key("rsa", &["-t", "rsa", "-b", "2048"]);
    let mut expected = Vec::new();
    for kex in [
        "diffie-hellman-group-exchange-sha256",
        "diffie-hellman-group14-sha1",
        "diffie-hellman-group-exchange-sha1",
        "diffie-hellman-group1-sha1",
    ] {
        let name = limited.add("ed25519", &[&format!("KexAlgorithms {kex}"), "RekeyLimit 1M", "LogLevel DEBUG"]);
        expected.push((name, format!("{kex} ssh-ed25519 aes128-gcm@openssh.com"), vec![kex]));
    }
    // Every cipher, and every MAC, encrypt-then-MAC too.
    for (cipher, mac, weak) in [
        ("aes128-cbc", "hmac-sha1", vec!["aes128-cbc", "hmac-sha1"]),
        ("aes192-cbc", "hmac-md5", vec!["aes192-cbc", "hmac-md5"]),
        ("aes256-cbc", "hmac-sha1-etm@openssh.com", vec!["aes256-cbc", "hmac-sha1-etm@openssh.com"]),
        ("3des-cbc", "hmac-sha2-256", vec!["3des-cbc"]),
        ("3des-cbc", "hmac-sha2-512-etm@openssh.com", vec!["3des-cbc"]),
        ("aes128-ctr", "hmac-sha1", vec!["hmac-sha1"]),
    ] {
        let options = [&format!("Ciphers {cipher}"), &format!("MACs {mac}"), "RekeyLimit 256K", "LogLevel DEBUG"];
        let name = limited.add("ed25519", &options);
        expected.push((name, format!("curve25519-sha256 ssh-ed25519 {cipher}+{mac}"), weak));
    }
    // RSA with SHA-1: the host's, the login's, and everything old at once.
    let name = limited.add("ed25519", &[&rsa, "HostKeyAlgorithms ssh-rsa", "RekeyLimit 1M", "LogLevel DEBUG"]);
    expected.push((name, "curve25519-sha256 ssh-rsa aes128-gcm@openssh.com".to_owned(), vec!["ssh-rsa"]));
    let everything = [
        &rsa,
        "HostKeyAlgorithms ssh-rsa",
        "PubkeyAcceptedAlgorithms ssh-rsa",
        "KexAlgorithms diffie-hellman-group1-sha1,diffie-hellman-group-exchange-sha1",
        "Ciphers 3des-cbc",
        "MACs hmac-md5",
        "RekeyLimit 1M",
        "LogLevel DEBUG",
    ];
    let name = limited.add("rsa -b 2048", &everything);
    let weak = vec!["diffie-hellman-group-exchange-sha1", "ssh-rsa", "3des-cbc", "hmac-md5"];
    expected.push((name, "diffie-hellman-group-exchange-sha1 ssh-rsa 3des-cbc+hmac-md5".to_owned(), weak));

    let lab = limited.lab("");
    for (name, all, weak) in expected {
        echo(&lab, name);
        let (described, named) = upstream(&lab, name);
        assert_eq!((with_modern_kex(&described), named), (all, weak.into_iter().map(str::to_owned).collect::<Vec<_>>()));
        let log = fs::read_to_string(lab.path(&format!("{name}.log"))).unwrap();
        assert!(log.matches("SSH2_MSG_NEWKEYS received").count() > 2, "{name}: {log}");
    }
}

#[test]
fn a_modern_instance_gets_nothing_old_even_where_everything_is_offered() {
    let mut limited = Limited::new();
    let all = limited.add(
        "rsa -b 2048",
        &[
            "KexAlgorithms diffie-hellman-group1-sha1,diffie-hellman-group14-sha1,curve25519-sha256",
            "Ciphers 3des-cbc,aes128-cbc,aes256-ctr",
            "MACs hmac-md5,hmac-sha1,hmac-sha2-512",
            "PubkeyAcceptedAlgorithms ssh-rsa,rsa-sha2-256",
        ],
    );
    let old = limited.add("ed25519", &["KexAlgorithms diffie-hellman-group14-sha1"]);
    for setting in ["", "legacy_algorithms = \"always\"\n"] {
        let lab = Lab::with(Plan { instances: limited.instances.clone(), extra: setting.to_owned(), ..Plan::default() });
        echo(&lab, all);
        assert_eq!(upstream(&lab, all), ("curve25519-sha256 ssh-ed25519 aes256-ctr+hmac-sha2-512".to_owned(), Vec::new()));
        echo(&lab, old);
        assert_eq!(upstream(&lab, old).1, ["diffie-hellman-group14-sha1"]);
    }
}

#[test]
fn never_tells_what_the_instance_offers() {
    let mut limited = Limited::new();
    let rsa = limited.host_key("rsa", &["-t", "rsa", "-b", "2048"]);
    let kex = limited.add("ed25519", &["KexAlgorithms diffie-hellman-group1-sha1,diffie-hellman-group14-sha1"]);
    let cipher = limited.add("ed25519", &["Ciphers aes128-cbc,3des-cbc"]);
    let mac = limited.add("ed25519", &["Ciphers aes128-ctr", "MACs hmac-sha1"]);
    let host_key = limited.add("ed25519", &[&rsa, "HostKeyAlgorithms ssh-rsa"]);
    let odd = limited.add("ed25519", &["Ciphers aes128-ctr", "MACs umac-64@openssh.com"]);
    let modern = limited.add("ed25519", &[]);
    let lab = limited.lab("legacy_algorithms = \"never\"\n");
    let forbidden = ", and upstream.legacy_algorithms does not allow the old ones among them [instance-unreachable, ref ";
    for (name, what) in [
        (kex, "no common key exchange method with the instance, which offers diffie-hellman-group1-sha1,diffie-hellman-group14-sha1"),
        (cipher, "no common cipher with the instance, which offers aes128-cbc,3des-cbc"),
        (mac, "no common MAC with the instance, which offers hmac-sha1"),
        (host_key, "no common host key algorithm with the instance, which offers ssh-rsa"),
    ] {
        let said = refusal(&lab, name);
        assert!(said.contains(what) && said.contains(forbidden), "{said}");
    }
    let said = refusal(&lab, odd);
    assert!(said.contains("no common MAC with the instance, which offers umac-64@openssh.com [instance-unreachable"), "{said}");
    echo(&lab, modern);
}

#[test]
fn the_operators_own_legs_stay_modern() {
    // A client that the door has nothing in common with is one that only looks in.
    let extra = "legacy_algorithms = \"always\"\n\n[penalties]\nexempt = [\"127.0.0.0/8\"]\n".to_owned();
    let lab = Lab::with(Plan { extra, ..Plan::default() });
    for (option, what) in [
        ("KexAlgorithms=diffie-hellman-group-exchange-sha256", "key exchange method"),
        ("KexAlgorithms=diffie-hellman-group-exchange-sha1", "key exchange method"),
        ("KexAlgorithms=diffie-hellman-group14-sha1", "key exchange method"),
        ("KexAlgorithms=diffie-hellman-group1-sha1", "key exchange method"),
        ("Ciphers=aes128-cbc,aes192-cbc,aes256-cbc,3des-cbc", "cipher"),
        ("MACs=hmac-sha1,hmac-md5,hmac-sha1-etm@openssh.com", "MAC"),
        ("HostKeyAlgorithms=ssh-rsa", "host key type"),
    ] {
        // The door's MACs are out of reach: it leaves nothing but AES-GCM to this client.
        for host in ["ins-a", "broker"].into_iter().take(if what == "MAC" { 1 } else { 2 }) {
            let ciphers = if option.starts_with("MACs") { "Ciphers=aes128-ctr" } else { "Compression=no" };
            let out = lab.run(&["-o", option, "-o", ciphers, host, "true"]);
            assert_eq!(out.status.code(), Some(255));
            let said = text(&out.stderr);
            assert!(said.contains(&format!("no matching {what} found")), "{option} {host}: {said}");
            let offer = said.split("Their offer: ").nth(1).unwrap_or_default();
            assert!(!["sha1", "md5", "cbc", "group-exchange", "ssh-rsa"].iter().any(|old| offer.contains(old)), "{offer}");
        }
    }
    echo(&lab, "ins-a");
}

/// Tells the cloud of one more instance like `ins-a`.
fn tell(lab: &Lab, name: &str, address: &str, login: &str, secret: Vec<u8>, operating_system: &str) {
    lab.endpoint.change(|inventory| {
        inventory.insert(InstanceRecord {
            fleet: FLEET.to_owned(),
            instance: name.to_owned(),
            address: address.parse().unwrap(),
            login: login.to_owned(),
            secret: Secret::new(secret).into(),
            operating_system: operating_system.to_owned(),
            status: "Active".to_owned(),
        });
    });
}

fn await_listener(address: &str, port: u16) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while std::net::TcpStream::connect((address, port)).is_err() {
        assert!(Instant::now() < deadline, "nothing listens on {address}:{port}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn dropbear_lets_in_by_password_and_by_key() {
    let password = "dropbear pass 1";
    let user = User::create(password);
    let lab = Lab::start();
    for (name, address, kind) in [("ins-drop-e", "127.0.2.1", "ecdsa"), ("ins-drop-r", "127.0.2.2", "rsa")] {
        let key = lab.path(&format!("{name}.host"));
        let made = Command::new("dropbearkey").args(["-t", kind, "-f"]).arg(&key).output().unwrap();
        assert!(made.status.success(), "{}", text(&made.stderr));
        let child = Command::new("/usr/sbin/dropbear")
            .args(["-F", "-E", "-p", &format!("{address}:{}", lab.ssh_port), "-P"])
            .arg(lab.path(&format!("{name}.pid")))
            .arg("-r")
            .arg(&key)
            .stderr(fs::File::create(lab.path(&format!("{name}.log"))).unwrap())
            .spawn()
            .unwrap();
        let _dropbear = Process::from(child);
        await_listener(address, lab.ssh_port);
        tell(&lab, name, address, &user.0, password.as_bytes().to_vec(), "centos6.7");
        echo(&lab, name);
        let (algorithms, weak) = upstream(&lab, name);
        assert!(algorithms.starts_with("curve25519-sha256 ") && weak.is_empty(), "{algorithms}");
        // RFC 8332, 3.2: its list of signature algorithms has SHA-2.
        for login in ["rsa -b 2048", "ed25519"] {
            let path = lab.path(&format!("{name}.{}", &login[..3]));
            keygen(&path, &[&["-t"][..], &login.split(' ').collect::<Vec<_>>()].concat());
            user.authorize(&fs::read(path.with_extension(format!("{}.pub", &login[..3]))).unwrap());
            let by_key = format!("{name}-{}", &login[..3]);
            tell(&lab, &by_key, address, &user.0, fs::read(&path).unwrap(), "centos6.7");
            let out = lab.run(&[&by_key, "id -un"]);
            assert_eq!(text(&out.stdout).trim(), user.0, "{}", text(&out.stderr));
            assert!(upstream(&lab, &by_key).1.is_empty());
        }
    }
}

/// A server of asyncssh that knows old algorithms only, tells of no signature algorithms, and may wait for the client's KEXINIT.
const OLD_SERVER: &str = r#"
import asyncio, sys, asyncssh, asyncssh.connection as connection
address, port, host_key, authorized, version, waits = sys.argv[1:]
connection.SSHServerConnection._send_ext_info = lambda self: None
if waits == "waits":
    offer, skipped = connection.SSHServerConnection._send_kexinit, set()
    def send_kexinit(self):
        if self not in skipped:
            skipped.add(self)
            # asyncssh notes it as sent; the client's KEXINIT brings this here again.
            asyncio.get_running_loop().call_soon(setattr, self, "_kexinit_sent", False)
        else:
            offer(self)
    connection.SSHServerConnection._send_kexinit = send_kexinit

[identity] = asyncssh.load_keypairs(host_key)
identity.sig_algorithms = identity.host_key_algorithms = (b"ssh-rsa",)

class Server(asyncssh.SSHServer):
    def begin_auth(self, username):
        return True

async def serve(process):
    while data := await process.stdin.read(65536):
        process.stdout.write(data)
        await process.stdout.drain()
    process.exit(0)

async def main():
    await asyncssh.listen(
        address, int(port), server_factory=Server, process_factory=serve, encoding=None, server_host_keys=[identity],
        authorized_client_keys=authorized, server_version=version, rekey_bytes=1 << 20,
        kex_algs=["diffie-hellman-group1-sha1", "diffie-hellman-group-exchange-sha1"],
        encryption_algs=["3des-cbc", "aes256-cbc"], mac_algs=["hmac-md5", "hmac-sha1"],
        signature_algs=["ssh-rsa"], compression_algs=None)
    await asyncio.Future()

asyncio.run(main())
"#;

struct OldServer<'a> {
    lab: &'a Lab,
    python: String,
}

impl OldServer<'_> {
    fn start(&self, name: &str, address: &str, version: &str, waits: bool) -> Process {
        let at = |suffix: &str| self.lab.path(&format!("{name}.{suffix}"));
        keygen(&at("host"), &["-t", "rsa", "-b", "2048", "-m", "PEM"]);
        keygen(&at("login"), &["-t", "rsa", "-b", "2048"]);
        private(&at("py"), OLD_SERVER.as_bytes());
        let mut command = Command::new(&self.python);
        command.arg(at("py")).args([address, &self.lab.ssh_port.to_string()]).arg(at("host")).arg(at("login.pub"));
        command.args([version, if waits { "waits" } else { "offers" }]).stdin(Stdio::null());
        let child = command.stderr(fs::File::create(at("log")).unwrap()).spawn().unwrap();
        let process = Process::from(child);
        await_listener(address, self.lab.ssh_port);
        process
    }
}

#[test]
fn a_server_of_the_time_before_sha_2_gets_sha_1_whoever_offers_first() {
    let venv = std::env::var("LAB_VENV").unwrap_or_else(|_| "/var/lib/ssh-broker-tests/venv".to_owned());
    let lab = Lab::start();
    let servers = OldServer { lab: &lab, python: format!("{venv}/bin/python3") };
    let weak = ["diffie-hellman-group-exchange-sha1", "ssh-rsa", "aes256-cbc", "hmac-sha1"];
    for (name, address, version, waits, system, comes_in) in [
        ("ins-old", "127.0.3.1", "Something_1.0", false, "", true),
        // Neither its version nor its system is known: what it offers tells enough. A silent one is judged by them.
        ("ins-old-waits", "127.0.3.2", "OpenSSH_5.3", true, "", true),
        ("ins-old-system", "127.0.3.3", "Something_1.0", true, "centos6.7", true),
        ("ins-old-unknown", "127.0.3.4", "Something_1.0", true, "Ubuntu Server 22.04", false),
    ] {
        let _server = servers.start(name, address, version, waits);
        tell(&lab, name, address, "root", fs::read(lab.path(&format!("{name}.login"))).unwrap(), system);
        if comes_in {
            echo(&lab, name);
            assert_eq!(
                upstream(&lab, name),
                ("diffie-hellman-group-exchange-sha1 ssh-rsa aes256-cbc+hmac-sha1".to_owned(), weak.map(str::to_owned).into())
            );
        } else {
            let said = refusal(&lab, name);
            assert!(said.contains("[instance-unreachable, ref "), "{said}");
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> String {
    let out = Command::new(program).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{program} {arguments:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

/// Every kind of key in every format that OpenSSH and OpenSSL write, by name, and the public keys.
fn every_key(dir: &Path) -> (Vec<(String, String)>, String) {
    let (mut every, mut authorized) = (Vec::new(), String::new());
    for (kind, bits) in [("rsa", "2048"), ("ecdsa", "256"), ("ecdsa", "384"), ("ecdsa", "521"), ("ed25519", "256")] {
        for format in ["RFC4716", "PEM", "PKCS8"] {
            if kind == "ed25519" && format != "RFC4716" {
                continue;
            }
            let path = dir.join(format!("{kind}{bits}{format}"));
            keygen(&path, &["-t", kind, "-b", bits, "-m", format]);
            authorized.push_str(&fs::read_to_string(dir.join(format!("{kind}{bits}{format}.pub"))).unwrap());
            every.push((format!("{kind} {bits} {format}"), fs::read_to_string(path).unwrap()));
        }
    }
    // `ssh-keygen` writes PKCS#8 of Ed25519 only since OpenSSH 9.6; the public key is the end of what OpenSSL gives.
    let path = dir.join("ed25519pkcs8");
    let pem = run("openssl", &["genpkey", "-algorithm", "ed25519"]);
    private(&path, pem.as_bytes());
    let out = Command::new("openssl").args(["pkey", "-pubout", "-outform", "DER", "-in"]).arg(&path).output().unwrap();
    let point: [u8; 32] = out.stdout[out.stdout.len() - 32..].try_into().unwrap();
    let public = ssh_key::PublicKey::from(ssh_key::public::Ed25519PublicKey(point));
    authorized.push_str(&public.to_openssh().unwrap());
    every.push(("ed25519 PKCS8".to_owned(), pem));
    (every, authorized)
}

/// What becomes of a PEM file on its way through consoles, forms and scripts.
fn every_spelling(pem: &str) -> Vec<(&'static str, String)> {
    use base64ct::{Base64, Encoding};
    let body: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let base64 = Base64::encode_string(pem.as_bytes());
    vec![
        ("CRLF", pem.replace('\n', "\r\n")),
        ("literal \\n", pem.replace('\n', "\\n")),
        ("literal \\r\\n", pem.replace('\n', "\\r\\n")),
        ("one line", pem.replace('\n', "")),
        ("spaces", pem.replace('\n', " ")),
        ("no final newline", format!("\n {}", pem.trim_end())),
        ("base64 of PEM", base64.clone()),
        ("base64 of PEM in lines", base64.as_bytes().chunks(76).map(|line| text(line) + "\n").collect()),
        ("base64 of the binary form", body),
    ]
}

#[test]
fn secrets_in_every_form_let_in() {
    let lab = Lab::start();
    let keys = tempfile::tempdir().unwrap();
    let (every, authorized) = every_key(keys.path());
    private(&lab.path("ins-a.authorized"), authorized.as_bytes());
    let spelt = every
        .iter()
        .filter(|(name, _)| matches!(name.as_str(), "rsa 2048 PEM" | "ecdsa 384 PEM" | "ed25519 PKCS8" | "ed25519 256 RFC4716"));
    let spelt: Vec<_> =
        spelt.flat_map(|(name, pem)| every_spelling(pem).into_iter().map(move |(form, text)| (format!("{name}, {form}"), text))).collect();
    assert_eq!((every.len(), spelt.len()), (14, 36));
    let names: Vec<String> = (0..every.len() + spelt.len()).map(|at| format!("ins-form{at}")).collect();
    let forms: Vec<_> = every.into_iter().chain(spelt).collect();
    for (name, (_, secret)) in names.iter().zip(&forms) {
        tell(&lab, name, "127.0.0.1", "root", secret.clone().into_bytes(), "centos6.7");
    }
    // Some at a time, as the API's quota lets them through anyway.
    for (names, forms) in names.chunks(8).zip(forms.chunks(8)) {
        let running: Vec<_> =
            names.iter().map(|name| lab.ssh(&[name, "echo in"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()).collect();
        for (child, (form, _)) in running.into_iter().zip(forms) {
            let out = child.wait_with_output().unwrap();
            assert_eq!(text(&out.stdout), "in\n", "{form}: {}", text(&out.stderr));
        }
    }
    let everything = lab.log() + &fs::read_to_string(lab.path("audit.jsonl")).unwrap();
    assert!(!everything.contains("PRIVATE KEY"));
}
