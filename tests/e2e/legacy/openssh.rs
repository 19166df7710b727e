//! An OpenSSH of its time (7.5, 2017) as the instance: as it comes, and with nothing but what was old then. Its commands, terminals, files
//! and forwards are in conformance/oldest.rs.

use std::fs;
use std::path::Path;

use super::{echo, refusal, upstream};
use crate::algorithms::User;
use crate::lab::{Lab, Login, Plan, Sshd, keygen, oldest_openssh, text};

fn old(name: &'static str, address: &'static str, options: &[&str]) -> Sshd {
    let sshd = Sshd::new(name, address).run_by(oldest_openssh().join("sshd"));
    options.iter().fold(sshd, |sshd, line| sshd.option(line))
}

fn lab(instances: Vec<Sshd>, extra: &str) -> Lab {
    Lab::with(Plan { instances, extra: extra.to_owned(), ..Plan::default() })
}

/// The line that gives an instance this host key too.
fn rsa_host_key(dir: &Path) -> String {
    let rsa = dir.join("rsa");
    keygen(&rsa, &["-t", "rsa", "-b", "2048", "-m", "PEM"]);
    format!("HostKey {}", rsa.display())
}

#[test]
fn it_gets_what_is_modern_of_its_own_accord() {
    let keys = tempfile::tempdir().unwrap();
    let rsa = rsa_host_key(keys.path());
    let password = "lab pass, word: 7.5";
    let user = User::create(password);
    let login = |kind| Login::Key { kind };
    let by_password = Login::Password { user: user.0.clone(), password: password.to_owned() };
    // It takes an RSA login by SHA-2 even where only `ssh-rsa`, the name of the key, is allowed.
    let only_ssh_rsa = ["PubkeyAcceptedKeyTypes ssh-rsa"];
    let instances = vec![
        old("ins-ed", "127.0.5.1", &[]),
        old("ins-ec", "127.0.5.2", &[]).login(login("ecdsa -b 384")),
        old("ins-rsa", "127.0.5.3", &[&rsa]).login(login("rsa -b 2048")),
        old("ins-only", "127.0.5.4", &only_ssh_rsa).login(login("rsa -b 3072")),
        old("ins-pass", "127.0.5.5", &["PubkeyAuthentication no"]).login(by_password),
    ];
    for setting in ["auto", "never", "always"] {
        let lab = lab(instances.clone(), &format!("legacy_algorithms = \"{setting}\"\n"));
        for name in ["ins-ed", "ins-ec", "ins-rsa", "ins-only", "ins-pass"] {
            echo(&lab, name);
            let host_key = if name == "ins-rsa" { "rsa-sha2-512" } else { "ssh-ed25519" };
            assert_eq!(upstream(&lab, name), (format!("curve25519-sha256 {host_key} aes128-gcm@openssh.com"), Vec::new()));
        }
        assert_eq!(text(&lab.run(&["ins-pass", "id -un"]).stdout).trim(), user.0);
    }
}

#[test]
fn each_algorithm_of_its_time_works_alone_and_lives_through_new_keys() {
    let keys = tempfile::tempdir().unwrap();
    let rsa = rsa_host_key(keys.path());
    let with = |name, address, kex: &str, cipher: &str, mac: &str| {
        let lines = [&format!("KexAlgorithms {kex}"), &format!("Ciphers {cipher}"), &format!("MACs {mac}")];
        let sshd = old(name, address, &[&rsa, "HostKeyAlgorithms ssh-rsa", "RekeyLimit 1M", "LogLevel DEBUG"]);
        lines.iter().fold(sshd, |sshd, line| sshd.option(line)).login(Login::Key { kind: "rsa -b 2048" })
    };
    let (gex1, gex256) = ("diffie-hellman-group-exchange-sha1", "diffie-hellman-group-exchange-sha256");
    let table = [
        ("ins-o1", "127.0.6.1", "diffie-hellman-group14-sha1", "aes128-cbc", "hmac-sha1"),
        ("ins-o2", "127.0.6.2", "diffie-hellman-group1-sha1", "3des-cbc", "hmac-md5"),
        ("ins-o3", "127.0.6.3", gex1, "aes192-cbc", "hmac-sha1-etm@openssh.com"),
        ("ins-o4", "127.0.6.4", gex256, "aes256-cbc", "hmac-sha1"),
    ];
    let instances: Vec<_> = table.iter().map(|(name, address, kex, cipher, mac)| with(name, address, kex, cipher, mac)).collect();
    let tried = lab(instances.clone(), "");
    for (name, _, kex, cipher, mac) in table {
        echo(&tried, name);
        // Its host key signs with SHA-2 too, whatever HostKeyAlgorithms says.
        let weak = [kex, cipher, mac].map(str::to_owned).to_vec();
        assert_eq!(upstream(&tried, name), (format!("{kex} rsa-sha2-512 {cipher}+{mac}"), weak));
        let log = fs::read_to_string(tried.path(&format!("{name}.log"))).unwrap();
        assert!(log.matches("SSH2_MSG_NEWKEYS received").count() > 2, "{name}: {log}");
    }
    drop(tried);
    let never = lab(instances, "legacy_algorithms = \"never\"\n");
    let said = refusal(&never, "ins-o1");
    assert!(said.contains("which offers diffie-hellman-group14-sha1"), "{said}");
}
