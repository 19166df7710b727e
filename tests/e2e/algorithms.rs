//! Each algorithm of the transport against OpenSSH: its client on the downstream leg, its server on the upstream leg.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::lab::{Lab, Login, Plan, Sshd, exchange, keygen, pattern, text};

const KEX: [&str; 8] = [
    "mlkem768x25519-sha256",
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "ecdh-sha2-nistp521",
    "diffie-hellman-group14-sha256",
    "diffie-hellman-group16-sha512",
];
const AEADS: [&str; 3] = ["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "chacha20-poly1305@openssh.com"];
const CTRS: [&str; 3] = ["aes128-ctr", "aes192-ctr", "aes256-ctr"];
const MACS: [&str; 4] = ["hmac-sha2-256", "hmac-sha2-512", "hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com"];
const CERTIFICATE: &str = "ssh-ed25519-cert-v01@openssh.com";

/// What the OpenSSH of this machine has too: `mlkem768x25519-sha256` came with 9.9.
fn kex() -> Vec<&'static str> {
    let known = text(&Command::new("ssh").args(["-Q", "kex"]).output().unwrap().stdout);
    let kex: Vec<_> = KEX.into_iter().filter(|name| known.lines().any(|line| line == *name)).collect();
    assert!(kex.len() >= KEX.len() - 1, "{kex:?}");
    kex
}

/// Every cipher, and every MAC with each that needs one.
fn suites() -> Vec<(&'static str, Option<&'static str>)> {
    let ctrs = CTRS.into_iter().flat_map(|cipher| MACS.map(|mac| (cipher, Some(mac))));
    AEADS.into_iter().map(|cipher| (cipher, None)).chain(ctrs).collect()
}

/// One suite of each way that a packet is made: GCM, ChaCha20-Poly1305, encrypt-and-MAC, encrypt-then-MAC.
fn stands_for_its_family(cipher: &str, mac: Option<&str>) -> bool {
    matches!(
        (cipher, mac),
        ("aes128-gcm@openssh.com" | "chacha20-poly1305@openssh.com", None)
            | ("aes128-ctr", Some("hmac-sha2-256"))
            | ("aes256-ctr", Some("hmac-sha2-512-etm@openssh.com"))
    )
}

fn described(kex: &str, host_key: &str, cipher: &str, mac: Option<&str>) -> String {
    format!("{kex} {host_key} {cipher}{}", mac.map(|mac| format!("+{mac}")).unwrap_or_default())
}

/// Sends a megabyte through `cat` and back; gives what ssh said.
fn echo(lab: &Lab, arguments: &[&str]) -> String {
    let sent = pattern(1 << 20);
    let out = exchange(lab.ssh(arguments).arg("cat"), &sent);
    let said = text(&out.stderr);
    assert!(out.status.success(), "{arguments:?}: {said}\n{}", lab.log());
    assert!(out.stdout == sent, "{arguments:?}: {} bytes came back", out.stdout.len());
    said
}

/// The algorithms that the audit tells of, session by session.
fn negotiated(lab: &Lab, leg: &str) -> Vec<String> {
    let opened = lab.audit().into_iter().filter(|event| event["event"] == "session.opened");
    opened.map(|event| event[leg].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_key_exchange_works_with_openssh_as_the_client() {
    let lab = Lab::start();
    let kex = kex();
    for kex in &kex {
        echo(&lab, &["-o", &format!("KexAlgorithms={kex}"), "-c", "aes128-ctr", "-m", "hmac-sha2-256", "ins-a"]);
    }
    let expected: Vec<_> = kex.iter().map(|kex| described(kex, CERTIFICATE, "aes128-ctr", Some("hmac-sha2-256"))).collect();
    assert_eq!(negotiated(&lab, "downstream"), expected);
}

#[test]
fn every_cipher_with_every_mac_works_with_openssh_as_the_client_and_lives_through_new_keys() {
    let lab = Lab::start();
    for (cipher, mac) in suites() {
        let rekeys = stands_for_its_family(cipher, mac);
        let limit = if rekeys { "RekeyLimit=64K" } else { "RekeyLimit=1G" };
        let said =
            echo(&lab, &["-v", "-c", cipher, "-m", mac.unwrap_or(MACS[0]), "-o", "KexAlgorithms=curve25519-sha256", "-o", limit, "ins-a"]);
        // Two are the first ones of the jump and of the session.
        assert_eq!(said.matches("SSH2_MSG_NEWKEYS received").count() > 6, rekeys, "{cipher} {mac:?}: {said}");
    }
    let expected: Vec<_> = suites().iter().map(|(cipher, mac)| described("curve25519-sha256", CERTIFICATE, cipher, *mac)).collect();
    assert_eq!(negotiated(&lab, "downstream"), expected);
}

#[test]
fn the_session_key_serves_clients_without_certificates_and_large_messages_pass() {
    let lab = Lab::start();
    let key = std::fs::read_to_string(lab.path("state/session_ed25519.pub")).unwrap();
    std::fs::write(lab.path("plain"), format!("ins-a {key}")).unwrap();
    let known = format!("UserKnownHostsFile={}", lab.path("plain").display());
    echo(&lab, &["-o", &known, "-o", "HostKeyAlgorithms=ssh-ed25519", "ins-a"]);
    assert!(negotiated(&lab, "downstream")[0].contains(" ssh-ed25519 "));
    // RFC 4253, 6.1 asks for packets of 35,000 bytes; OpenSSH puts a command of any length into one.
    for len in [34_900, 120_000] {
        let out = lab.run(&["ins-a", &format!("echo {} | wc -c", "x".repeat(len))]);
        assert_eq!(text(&out.stdout).trim(), (len + 1).to_string(), "{}", text(&out.stderr));
    }
}

/// `ssh-keygen -t`, and the one name that sshd may use of such a key.
const KEYS: [(&str, &str); 6] = [
    ("ed25519", "ssh-ed25519"),
    ("ecdsa -b 256", "ecdsa-sha2-nistp256"),
    ("ecdsa -b 384", "ecdsa-sha2-nistp384"),
    ("ecdsa -b 521", "ecdsa-sha2-nistp521"),
    ("rsa -b 2048", "rsa-sha2-256"),
    ("rsa -b 2048", "rsa-sha2-512"),
];
const NAMES: [&str; 15] =
    ["ins-a", "ins-b", "ins-c", "ins-d", "ins-e", "ins-f", "ins-g", "ins-h", "ins-i", "ins-j", "ins-k", "ins-l", "ins-m", "ins-n", "ins-o"];
const ADDRESSES: [&str; 15] = [
    "127.0.0.2",
    "127.0.0.3",
    "127.0.0.4",
    "127.0.0.5",
    "127.0.0.6",
    "127.0.0.7",
    "127.0.0.8",
    "127.0.0.9",
    "127.0.0.10",
    "127.0.0.11",
    "127.0.0.12",
    "127.0.0.13",
    "127.0.0.14",
    "127.0.0.15",
    "127.0.0.16",
];

/// Fifteen instances with one algorithm of each kind: together they have every one, and every cipher with every MAC.
#[test]
fn every_algorithm_and_kind_of_key_works_with_openssh_as_the_instance() {
    let keys = tempfile::tempdir().unwrap();
    let (kex, suites) = (kex(), suites());
    assert_eq!(suites.len(), NAMES.len());
    let (mut instances, mut expected) = (Vec::new(), Vec::new());
    for (i, (cipher, mac)) in suites.iter().enumerate() {
        let kex = kex[i % kex.len()];
        let (host_kind, host_key) = KEYS[i % KEYS.len()];
        // One further for each round of the host keys, so that the two do not go in step.
        let (login_kind, login_key) = KEYS[(i + 1 + i / KEYS.len()) % KEYS.len()];
        let path = keys.path().join(NAMES[i]);
        keygen(&path, &[&["-t"][..], &host_kind.split(' ').collect::<Vec<_>>()].concat());
        let mut sshd = Sshd::new(NAMES[i], ADDRESSES[i]).login(Login::Key { kind: login_kind });
        for line in [
            format!("HostKey {}", path.display()),
            format!("HostKeyAlgorithms {host_key}"),
            format!("KexAlgorithms {kex}"),
            format!("Ciphers {cipher}"),
            format!("MACs {}", mac.unwrap_or(MACS[0])),
            format!("PubkeyAcceptedAlgorithms {login_key}"),
            format!("RekeyLimit {}", if stands_for_its_family(cipher, *mac) { "64K" } else { "1G" }),
            "LogLevel DEBUG".to_owned(),
        ] {
            sshd = sshd.option(&line);
        }
        instances.push(sshd);
        expected.push(described(kex, host_key, cipher, *mac));
    }
    let lab = Lab::with(Plan { instances, ..Plan::default() });
    for (i, (cipher, mac)) in suites.iter().enumerate() {
        echo(&lab, &[NAMES[i]]);
        let log = std::fs::read_to_string(lab.path(&format!("{}.log", NAMES[i]))).unwrap();
        let exchanges = log.matches("SSH2_MSG_NEWKEYS received").count();
        assert_eq!(exchanges > 4, stands_for_its_family(cipher, *mac), "{cipher} {mac:?}: {exchanges} key exchanges");
    }
    assert_eq!(negotiated(&lab, "upstream"), expected);
}

/// A user of this machine with a password, gone when dropped. At home where no other may write in any directory above: tinysshd looks.
pub struct User(pub String, tempfile::TempDir);

impl User {
    pub fn create(password: &str) -> Self {
        let name = format!("lab{}", std::process::id());
        let home = tempfile::Builder::new().prefix("home.").permissions(fs::Permissions::from_mode(0o755)).tempdir_in("/home").unwrap();
        let made =
            Command::new("useradd").args(["--no-create-home", "--shell", "/bin/sh", "--home-dir"]).arg(home.path()).arg(&name).output();
        let made = made.unwrap();
        assert!(made.status.success(), "useradd: {}", text(&made.stderr));
        let user = Self(name, home);
        let set = exchange(&mut Command::new("chpasswd"), format!("{}:{password}\n", user.0).as_bytes());
        assert!(set.status.success(), "chpasswd: {}", text(&set.stderr));
        user
    }

    /// Lets these keys in, in the user's own `authorized_keys`.
    pub fn authorize(&self, keys: &[u8]) {
        let dir = self.1.path().join(".ssh");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("authorized_keys"), keys).unwrap();
        for (path, mode) in [(&dir, 0o755), (&dir.join("authorized_keys"), 0o644)] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        let _ = Command::new("userdel").arg("--force").arg(&self.0).output();
    }
}

#[test]
fn a_password_lets_in_by_either_method_and_a_wrong_one_does_not() {
    let password = "lab pass, word: ü \"$1\"";
    let user = User::create(password);
    let login = |password: &str| Login::Password { user: user.0.clone(), password: password.to_owned() };
    let interactive = |name, address| {
        let sshd = Sshd::new(name, address).option("UsePAM yes").option("PasswordAuthentication no");
        sshd.option("KbdInteractiveAuthentication yes").option("PubkeyAuthentication no")
    };
    let instances = vec![
        Sshd::new("ins-plain", "127.0.0.2").option("KbdInteractiveAuthentication no").login(login(password)),
        interactive("ins-asks", "127.0.0.3").login(login(password)),
        Sshd::new("ins-wrong", "127.0.0.4").option("LogLevel DEBUG").login(login("another")),
        interactive("ins-wrong-asks", "127.0.0.5").login(login("another")),
    ];
    let lab = Lab::with(Plan { instances, ..Plan::default() });
    for instance in ["ins-plain", "ins-asks"] {
        echo(&lab, &[instance]);
        assert_eq!(text(&lab.run(&[instance, "id -un"]).stdout).trim(), user.0);
    }
    for instance in ["ins-wrong", "ins-wrong-asks"] {
        let out = lab.run(&[instance, "id -un"]);
        assert_eq!(out.status.code(), Some(255));
        assert!(text(&out.stderr).contains("[instance-login, ref "), "{}", text(&out.stderr));
    }
    let everything = lab.log() + &std::fs::read_to_string(lab.path("audit.jsonl")).unwrap();
    assert!(!everything.contains("pass, word"));
}
