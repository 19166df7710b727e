//! The Debian package: made, installed into an empty root, used there, upgraded and purged.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_ssh-broker");
const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti alice\n";

fn run(command: &mut Command) -> Output {
    let out = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}: run the tests with tests/run, which installs it"));
    assert!(out.status.success(), "{command:?}: {}{}", text(&out.stdout), text(&out.stderr));
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// With the binary that the tests run, whatever profile that is of.
fn package(dir: &Path) -> PathBuf {
    let built = Path::new(BINARY).parent().unwrap();
    let profile = match built.file_name().unwrap().to_str().unwrap() {
        "debug" => "dev",
        profile => profile,
    };
    let mut build = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/build"));
    build.env("PROFILE", profile).env("BUILT", "1").env("CARGO_TARGET_DIR", built.parent().unwrap());
    run(build.args(["--fast", "--no-strip", "-o"]).arg(dir));
    let made = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    made.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb")).unwrap()
}

/// A system without anything but dpkg's own records and what the binary is linked with.
struct Root(tempfile::TempDir);

impl Root {
    fn new() -> Self {
        let root = Self(tempfile::tempdir().unwrap());
        for dir in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers"] {
            fs::create_dir_all(root.path(dir)).unwrap();
        }
        fs::write(root.path("var/lib/dpkg/status"), "").unwrap();
        fs::set_permissions(root.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        for library in text(&run(Command::new("ldd").arg(BINARY)).stdout).split_whitespace().filter(|word| word.starts_with('/')) {
            let inside = root.path(library.trim_start_matches('/'));
            fs::create_dir_all(inside.parent().unwrap()).unwrap();
            fs::copy(library, inside).unwrap();
        }
        root
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn dpkg(&self, arguments: &[&str]) -> String {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", self.0.path().display())).args(["--force-script-chrootless", "--force-depends", "--force-confold"]);
        text(&run(dpkg.args(arguments).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C")).stdout)
    }

    fn mode(&self, name: &str) -> u32 {
        fs::metadata(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}")).permissions().mode() & 0o7777
    }

    fn check(&self) -> Output {
        Command::new("chroot")
            .arg(self.0.path())
            .args(["/usr/bin/ssh-broker", "check"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .output()
            .unwrap()
    }
}

#[test]
fn it_installs_into_an_empty_root_where_check_is_content_and_leaves_again() {
    let dir = tempfile::tempdir().unwrap();
    let package = package(dir.path()).display().to_string();
    let root = Root::new();
    root.dpkg(&["-i", &package]);
    for (name, mode) in [
        ("usr/bin/ssh-broker", 0o755),
        ("usr/lib/systemd/system/ssh-broker.service", 0o644),
        ("etc/ssh-broker/broker.toml", 0o644),
        ("etc/ssh-broker/operators", 0o755),
        ("usr/share/bash-completion/completions/ssh-broker", 0o644),
        ("usr/share/zsh/vendor-completions/_ssh-broker", 0o644),
        ("usr/share/fish/vendor_completions.d/ssh-broker.fish", 0o644),
        ("usr/share/doc/ssh-broker/copyright", 0o644),
        ("usr/share/ssh-broker/grafana/dashboard.json", 0o644),
        ("usr/share/ssh-broker/prometheus/alerts.yml", 0o644),
    ] {
        assert_eq!(root.mode(name), mode, "{name}");
    }
    for unit in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd")).unwrap() {
        let name = unit.unwrap().file_name().into_string().unwrap();
        assert_eq!(root.mode(&format!("usr/lib/systemd/system/{name}")), 0o644);
    }
    let status = root.dpkg(&["-s", "ssh-broker"]);
    assert!(status.contains("Status: install ok installed") && status.contains("\nConffiles:\n /etc/ssh-broker/broker.toml "), "{status}");
    assert!(
        status.lines().any(|line| line.starts_with("Depends: ") && line.contains("libc6") && line.contains("ca-certificates")),
        "{status}"
    );
    let unit = fs::read_to_string(root.path("usr/lib/systemd/system/ssh-broker.service")).unwrap();
    assert!(unit.contains("\nExecStart=/usr/bin/ssh-broker "), "{unit}");

    // As it was unpacked, then with the edits that the README names.
    let out = root.check();
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stderr).lines().all(|line| line.starts_with("warning: ")), "{}", text(&out.stderr));
    let file = root.path("etc/ssh-broker/broker.toml");
    let edited = fs::read_to_string(&file).unwrap().replace("region = \"ap-shanghai\"", "region = \"ap-singapore\"");
    fs::write(&file, edited).unwrap();
    let operator = root.path("etc/ssh-broker/operators/alice");
    fs::write(&operator, KEY).unwrap();
    fs::set_permissions(&operator, fs::Permissions::from_mode(0o644)).unwrap();
    let out = root.check();
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("(ap-singapore)"), "{}", text(&out.stdout));

    // What an administrator wrote outlives an upgrade and a purge; what the broker made does not outlive a purge.
    root.dpkg(&["-i", &package]);
    assert!(fs::read_to_string(&file).unwrap().contains("ap-singapore"));
    upgrades_what_runs(&root);
    fs::create_dir_all(root.path("var/lib/private/ssh-broker")).unwrap();
    root.dpkg(&["--remove", "ssh-broker"]);
    assert!(file.exists() && !root.path("usr/bin/ssh-broker").exists());
    root.dpkg(&["--purge", "ssh-broker"]);
    assert!(!file.exists() && operator.exists() && !root.path("var/lib/private/ssh-broker").exists());
}

/// The package's script as dpkg runs it where systemd is, with a `systemctl` that tells what it was asked, and whose main process is
/// another one after SIGUSR2.
fn upgrades_what_runs(root: &Root) {
    const SYSTEMCTL: &str = "#!/bin/sh\necho \"$*\" >>/asked\ncase $1 in\nkill) >/upgraded ;;\n\
                             show) if [ -e /upgraded ]; then echo 2; else echo 1; fi ;;\nesac\n";
    for dir in ["bin", "run/systemd/system"] {
        fs::create_dir_all(root.path(dir)).unwrap();
    }
    fs::copy("/bin/sh", root.path("bin/sh")).unwrap();
    fs::write(root.path("bin/systemctl"), SYSTEMCTL).unwrap();
    fs::set_permissions(root.path("bin/systemctl"), fs::Permissions::from_mode(0o755)).unwrap();
    let configure = |before: &[&str]| {
        let mut script = Command::new("chroot");
        script.arg(root.path("")).args(["/bin/sh", "/var/lib/dpkg/info/ssh-broker.postinst", "configure"]).args(before);
        let out = run(script.env_clear().env("PATH", "/bin:/usr/sbin:/usr/bin:/sbin"));
        assert_eq!(text(&out.stderr), "");
        let asked = fs::read_to_string(root.path("asked")).unwrap();
        fs::remove_file(root.path("asked")).unwrap();
        asked
    };
    assert_eq!(configure(&[]), "daemon-reload\n", "a first installation starts nothing");
    let asked = configure(&["0.0.9"]);
    assert!(asked.contains("\nkill --kill-whom=main --signal=SIGUSR2 ssh-broker.service\n"), "{asked}");
    assert!(!asked.contains("restart") && !asked.contains("stop"), "{asked}");
    fs::remove_dir_all(root.path("run/systemd")).unwrap();
}

#[test]
fn manual_pages_and_completions_say_what_the_program_has() {
    let dir = tempfile::tempdir().unwrap();
    run(Command::new(BINARY).arg("generate").arg(dir.path()));
    let page = |name: &str| {
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-l"]).arg(dir.path().join(name)).env("MANWIDTH", "100").env("LC_ALL", "C.UTF-8");
        let out = run(&mut man);
        assert_eq!(text(&out.stderr), "", "{name}");
        text(&out.stdout)
    };
    let program = page("ssh-broker.1");
    for word in
        ["serve [--config FILE]", "check", "client-config", "demo", "forget-host INSTANCE", "whoami", "EXIT STATUS", "broker.toml(5)"]
    {
        assert!(program.contains(word), "{word} in {program}");
    }
    assert!(!program.contains("generate"));
    let settings = page("broker.toml.5");
    for section in ssh_broker::settings::reference() {
        for key in section.settings.iter().flat_map(|setting| &setting.keys) {
            assert!(settings.contains(&format!("{} = ", key.name)), "{} in {settings}", key.name);
        }
    }
    assert!(settings.contains("administrators = [] (the default)") && settings.contains("[[grants]]"), "{settings}");
    let bash = dir.path().join("ssh-broker.bash");
    run(Command::new("bash").arg("-n").arg(&bash));
    for name in ["ssh-broker.bash", "_ssh-broker", "ssh-broker.fish"] {
        let completion = fs::read_to_string(dir.path().join(name)).unwrap();
        assert!(completion.contains("client-config") && completion.contains("config"), "{name}");
    }
}
