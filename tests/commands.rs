//! The binary itself: what it prints, and how it exits.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use ssh_broker::keys::Keys;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti alice\n";

struct Etc(tempfile::TempDir);

impl Etc {
    fn new() -> Self {
        let etc = Self(tempfile::tempdir().unwrap());
        for name in ["state", "operators"] {
            fs::create_dir(etc.0.path().join(name)).unwrap();
            fs::set_permissions(etc.0.path().join(name), fs::Permissions::from_mode(0o700)).unwrap();
        }
        etc.write("operators/alice", KEY);
        etc.write("broker.toml", &etc.good());
        etc
    }

    fn good(&self) -> String {
        let dir = self.0.path().display();
        format!(
            "state_dir = \"{dir}/state\"\n[listen]\naddresses = [\"127.0.0.1:2200\"]\n[operators]\nauthorized_keys_dir = \"{dir}/operators\"\n\
             [[grants]]\noperators = [\"*\"]\ntargets = [\"ins-*\"]\n[gse]\nregion = \"ap-shanghai\"\n"
        )
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.0.path().join(name), text).unwrap();
        fs::set_permissions(self.0.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn run(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
        let (command, rest) = arguments.split_first().unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_ssh-broker"));
        process.arg(command).arg("--config").arg(self.0.path().join("broker.toml")).args(rest);
        process.env_clear().envs(variables.iter().copied()).output().unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn check_says_ok_in_a_line_and_what_is_wrong_in_a_line_each() {
    let etc = Etc::new();
    let output = etc.run(&["check"], &[]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    let stdout = text(&output.stdout);
    assert!(stdout.lines().count() == 1 && stdout.contains("broker.toml: ok: listens on 127.0.0.1:2200"), "{stdout}");

    let output = etc.run(&["check"], &[("SSH_BROKER__GSE__ENDPOINT", "http://192.0.2.1"), ("SSH_BROKER__GSE__QUEUE", "0")]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(2), ""));
    let stderr = text(&output.stderr);
    let expected = "SSH_BROKER__GSE__ENDPOINT: gse.endpoint: \"http://192.0.2.1\" is plain http to a host that is not loopback: \
                    use https, or a loopback address";
    assert_eq!(stderr.lines().next(), Some(expected));
    assert_eq!(stderr.lines().count(), 2, "{stderr}");
}

#[test]
fn client_config_needs_the_keys_and_takes_the_port_from_the_configuration() {
    let etc = Etc::new();
    let arguments = ["client-config", "--host", "bastion.example.com"];
    let output = etc.run(&arguments, &[]);
    assert_eq!((output.status.code(), text(&output.stdout).as_str()), (Some(1), ""));
    assert!(text(&output.stderr).contains("start the daemon once"), "{}", text(&output.stderr));

    let keys = Keys::load_or_create(&etc.0.path().join("state")).unwrap();
    let output = etc.run(&arguments, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let stdout = text(&output.stdout);
    let bare = |key: &ssh_key::PrivateKey| {
        let line = key.public_key().to_openssh().unwrap();
        line.split(' ').take(2).collect::<Vec<_>>().join(" ")
    };
    assert!(stdout.contains(&format!("\n[bastion.example.com]:2200 {}\n", bare(&keys.host))), "{stdout}");
    assert!(stdout.contains(&format!("\n@cert-authority ins-* {}\n", bare(&keys.ca))), "{stdout}");
    assert!(!stdout.contains("PRIVATE"));

    let output = etc.run(&["client-config", "--host", "a b", "--port", "22"], &[]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("neither a host name nor an address"), "{}", text(&output.stderr));
    assert_eq!(etc.run(&["client-config", "--host", "a", "--port", "0"], &[]).status.code(), Some(2));
    assert_eq!(etc.run(&["client-config", "--host", "a"], &[("SSH_BROKER__LISTEN__ADDRESSES", "[::]:0")]).status.code(), Some(2));
}
