use std::os::unix::fs::chown;

use super::*;

/// The one error of a good configuration whose files somebody changed, without its place.
fn error_when(operators: &str, gse: &str, more: &str, change: impl FnOnce(&Etc)) -> String {
    let etc = Etc::new();
    let text = etc.good(operators, gse, more);
    etc.write("broker.toml", &text, 0o644);
    change(&etc);
    let findings = Settings::load(&etc.path("broker.toml"), Vec::new(), Purpose::Serve).unwrap_err();
    assert_eq!(findings.errors.len(), 1, "{findings:#?}");
    assert_eq!(findings.errors[0].place, etc.path("broker.toml").display().to_string());
    format!("{}: {}", findings.errors[0].key, findings.errors[0].text)
}

fn assert_all(error: &str, words: &[&str]) {
    for word in words {
        assert!(error.contains(word), "{word:?} not in {error}");
    }
}

const SECRETS: &str = "secret_id_file = \"DIR/secret_id\"\nsecret_key_file = \"DIR/secret_key\"";

#[test]
fn a_good_configuration_has_nothing_to_say() {
    let etc = Etc::new();
    etc.write("ca.pub", &format!("# the CA\n\n{KEY}"), 0o644);
    etc.write("revoked", "", 0o644);
    etc.write("operators/bob", &format!("# laptop\nfrom=\"10.0.0.0/8\",no-pty {KEY}restrict,pty {KEY}cert-authority {KEY}"), 0o600);
    let operators = "trusted_user_ca = \"DIR/ca.pub\"\nrevoked_keys = \"DIR/revoked\"";
    let text = etc.good(operators, SECRETS, "[audit]\npath = \"DIR/state/audit.log\"");
    for purpose in [Purpose::Serve, Purpose::Check] {
        let (settings, warnings) = etc.load(&text, purpose).unwrap();
        assert_eq!(warnings, [], "{warnings:#?}");
        assert_eq!(settings.gse.credential_files.unwrap().secret_id, etc.path("secret_id"));
    }
}

#[test]
fn files_that_others_could_change_are_refused() {
    for (name, key) in [
        ("broker.toml", ""),
        ("operators", "operators.authorized_keys_dir"),
        ("operators/alice", "operators.authorized_keys_dir"),
        ("ca.pub", "operators.trusted_user_ca"),
        ("revoked", "operators.revoked_keys"),
        ("state", "state_dir"),
    ] {
        let operators = "trusted_user_ca = \"DIR/ca.pub\"\nrevoked_keys = \"DIR/revoked\"";
        let prepare = |etc: &Etc| {
            etc.write("ca.pub", KEY, 0o644);
            etc.write("revoked", KEY, 0o644);
        };
        for mode in [0o720, 0o702] {
            let error = error_when(operators, "", "", |etc| {
                prepare(etc);
                etc.chmod(name, mode);
            });
            let mode = format!("mode {mode:04o}");
            assert_all(&error, &[&format!("{key}: "), &format!("/{name} can be written by others"), &mode, "chmod go-w"]);
        }
        // Only root can give a file away.
        if rustix::process::geteuid().is_root() {
            let error = error_when(operators, "", "", |etc| {
                prepare(etc);
                chown(etc.path(name), Some(54_321), None).unwrap();
            });
            assert_all(&error, &[&format!("{key}: "), &format!("/{name} belongs to user 54321"), "root"]);
        }
    }
}

#[test]
fn an_administrator_may_check_for_a_daemon_of_another_user() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let etc = Etc::new();
    let text = etc.good("", "", "");
    for name in ["state", "operators", "operators/alice"] {
        chown(etc.path(name), Some(54_321), None).unwrap();
    }
    assert!(etc.load(&text, Purpose::Check).is_ok());
    assert!(etc.load(&text, Purpose::Serve).is_err());
}

#[test]
fn secrets_are_for_their_owner_alone() {
    for mode in [0o640, 0o604, 0o660] {
        let error = error_when("", SECRETS, "", |etc| etc.chmod("secret_key", mode));
        assert_all(&error, &["gse.secret_key_file: ", "/secret_key can be reached by others", "chmod 0600"]);
    }
    let error = error_when("", SECRETS, "", |etc| fs::remove_file(etc.path("secret_id")).unwrap());
    assert_all(&error, &["gse.secret_id_file: cannot look at ", "No such file"]);
    let error = error_when("", SECRETS, "", |etc| {
        fs::remove_file(etc.path("secret_id")).unwrap();
        fs::create_dir(etc.path("secret_id")).unwrap();
    });
    assert_all(&error, &["gse.secret_id_file: ", "not a regular file"]);
}

#[test]
fn credentials_of_systemd_are_found_where_systemd_puts_them() {
    let etc = Etc::new();
    let gse = "secret_id_file = \"${CREDENTIALS_DIRECTORY}/id\"\nsecret_key_file = \"$CREDENTIALS_DIRECTORY/key\"";
    etc.write("broker.toml", &etc.good("", gse, ""), 0o644);
    // An access control list for the unit's user shows as a readable group.
    etc.write("credentials/id", "x", 0o440);
    etc.write("credentials/key", "x", 0o440);
    let directory = etc.path("credentials");
    let variables = || environment(&[("CREDENTIALS_DIRECTORY", directory.to_str().unwrap())]);
    let load = |purpose| Settings::load(&etc.path("broker.toml"), variables(), purpose);
    let files = load(Purpose::Serve).unwrap().0.gse.credential_files.unwrap();
    assert_eq!((files.secret_id, files.secret_key), (directory.join("id"), directory.join("key")));
    etc.chmod("credentials/key", 0o444);
    assert_all(&lines(&load(Purpose::Serve).unwrap_err().errors)[0], &["gse.secret_key_file: ", "reached by others"]);

    // The unit's reload: systemd names the directory and hides it.
    fs::remove_dir_all(&directory).unwrap();
    let (_, warnings) = load(Purpose::Check).unwrap();
    assert_all(&warnings[1].to_string(), &["gse.secret_key_file: not checked here", "systemd"]);
    assert_all(&lines(&load(Purpose::Serve).unwrap_err().errors)[0], &["gse.secret_id_file: cannot look at"]);

    // Outside the unit: the daemon does not start, and a check says what it could not see.
    let without = |purpose| Settings::load(&etc.path("broker.toml"), Vec::new(), purpose);
    let findings = without(Purpose::Serve).unwrap_err();
    assert_eq!(findings.errors.len(), 2, "{findings:#?}");
    assert_all(&findings.errors[0].text, &["CREDENTIALS_DIRECTORY is not set", "LoadCredential="]);
    let (_, warnings) = without(Purpose::Check).unwrap();
    assert_eq!(warnings.len(), 2);
    assert_all(&warnings[1].to_string(), &["gse.secret_key_file: not checked here"]);
}

#[test]
fn there_must_be_somebody_who_can_log_in() {
    let remove = |etc: &Etc| fs::remove_dir_all(etc.path("operators")).unwrap();
    let error = error_when("", "", "", remove);
    assert_all(&error, &["operators.authorized_keys_dir: ", "does not exist", "trusted_user_ca", "the broker does not start"]);
    let error = error_when("", "", "", |etc| {
        remove(etc);
        etc.write("operators", "", 0o644);
    });
    assert_all(&error, &["operators.authorized_keys_dir: ", "is not a directory"]);

    let etc = Etc::new();
    fs::remove_file(etc.path("operators/alice")).unwrap();
    let (_, warnings) = etc.load(&etc.good("", "", ""), Purpose::Serve).unwrap();
    assert_all(&lines(&warnings)[0], &["operators.authorized_keys_dir: ", "nobody can log in"]);

    // With a CA, a default directory that is not there is no one's fault.
    let etc = Etc::new();
    etc.write("ca.pub", KEY, 0o644);
    let text = etc.good("trusted_user_ca = \"DIR/ca.pub\"", "", "");
    let text: String = text.lines().filter(|line| !line.starts_with("authorized_keys_dir")).map(|line| format!("{line}\n")).collect();
    assert!(etc.load(&text, Purpose::Serve).is_ok());
}

#[test]
fn key_files_are_read_line_by_line() {
    let etc = Etc::new();
    etc.write("operators/alice", &format!("{KEY}\nssh-ed25519 AAAA\n"), 0o644);
    let findings = etc.load(&etc.good("", "", ""), Purpose::Check).unwrap_err();
    let words = ["operators.authorized_keys_dir: ", "/operators/alice:3: ", "not an authorized_keys line", "\"ssh-ed25519 AAAA… comment\""];
    assert_all(&lines(&findings.errors)[0], &words);
    let (_, warnings) = etc.load(&etc.good("", "", ""), Purpose::Serve).unwrap();
    assert_all(&lines(&warnings)[0], &words);

    let ca = "trusted_user_ca = \"DIR/ca.pub\"";
    let error = error_when(ca, "", "", |etc| etc.write("ca.pub", "# none\n", 0o644));
    assert_all(&error, &["operators.trusted_user_ca: ", "/ca.pub holds no public key", ".pub"]);
    let error = error_when(ca, "", "", |etc| etc.write("ca.pub", "-----BEGIN OPENSSH PRIVATE KEY-----\n", 0o644));
    assert_all(&error, &["operators.trusted_user_ca: ", "/ca.pub:1: not a public key", "one OpenSSH public key a line"]);
    let error = error_when("revoked_keys = \"DIR/revoked\"", "", "", |etc| fs::write(etc.path("revoked"), b"SSHKRL\n\0\xff").unwrap());
    assert_all(&error, &["operators.revoked_keys: ", "/revoked", "binary key revocation list", "one OpenSSH public key a line"]);

    let etc = Etc::new();
    etc.write("operators/.alice.swp", "x", 0o600);
    let (_, warnings) = etc.load(&etc.good("", "", ""), Purpose::Serve).unwrap();
    assert_all(&lines(&warnings)[0], &["operators.authorized_keys_dir: ", "/.alice.swp: ignored", "not an operator name"]);
}

#[test]
fn the_state_directory_and_its_keys() {
    let error = error_when("", "", "", |etc| fs::remove_dir(etc.path("state")).unwrap());
    assert_all(&error, &["state_dir: ", "/state does not exist", "mode 0700", "StateDirectory"]);
    let error = error_when("", "", "", |etc| etc.write("state/host_ed25519", "x", 0o644));
    assert_all(&error, &["state_dir: ", "/state/host_ed25519 can be reached by others", "chmod 0600"]);
    let error = error_when("", "", "", |etc| etc.write("state/ca_ed25519", "x", 0o600));
    assert_all(&error, &["state_dir: ", "/state/ca_ed25519 is not an OpenSSH private key"]);
    let error = error_when("", "", "[audit]\npath = \"DIR/nowhere/audit.log\"", |_| ());
    assert_all(&error, &["audit.path: ", "/nowhere is not a directory", "\"stdout\""]);
}
