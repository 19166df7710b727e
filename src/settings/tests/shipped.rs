//! `config/broker.toml` is the documentation of the settings: it must name every key and show the defaults that the code has.

use std::collections::BTreeSet;

use super::*;
use crate::settings::report::Report;
use crate::settings::{HashMap, sections_of, values};

const SHIPPED: &str = include_str!("../../../config/broker.toml");

/// What the shipped file writes out; everything else is a default.
const MINIMAL: &str = r#"
[operators]
groups = { oncall = ["alice", "bob"] }
[gse]
region = "ap-shanghai"
secret_id_file = "${CREDENTIALS_DIRECTORY}/secret_id"
secret_key_file = "${CREDENTIALS_DIRECTORY}/secret_key"
[[grants]]
operators = ["@oncall"]
targets = ["ins-*"]
[[grants]]
operators = ["alice"]
targets = ["fleet-qp3g3caa-*/ins-*"]
allow = ["shell", "exec", "sftp", "forward-local", "forward-remote", "agent"]
"#;

/// The shipped file with the lines uncommented that begin with `mark` and a key.
fn uncommented(marks: &[&str]) -> String {
    let line = |line: &'static str| {
        let rest = marks.iter().find_map(|mark| line.strip_prefix(mark)).filter(|rest| {
            let key = rest.split(" = ").next().unwrap_or_default();
            rest.contains(" = ") && key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
        });
        rest.unwrap_or(line)
    };
    SHIPPED.lines().map(|text| format!("{}\n", line(text))).collect()
}

fn shown(text: &str) -> String {
    let (settings, warnings) = read(text, &[("CREDENTIALS_DIRECTORY", "/run/credentials")]).unwrap();
    assert_eq!(warnings, []);
    format!("{settings:#?}")
}

#[test]
fn it_shows_the_defaults_that_the_code_has() {
    let defaults = uncommented(&["#"]);
    assert_ne!(defaults, SHIPPED);
    assert_eq!(shown(SHIPPED), shown(MINIMAL));
    assert_eq!(shown(&defaults), shown(MINIMAL));
}

#[test]
fn it_names_every_key_and_no_other() {
    let everything = uncommented(&["#   ", "#"]);
    assert_ne!(shown(&everything), shown(MINIMAL));
    let mut report = Report::new("broker.toml".to_owned());
    let values = values(&everything, &HashMap::new(), &mut report).unwrap();
    let mut written = BTreeSet::new();
    for (section, value) in values.clone() {
        match value.into_table() {
            Ok(keys) => {
                written.extend(keys.into_keys().map(|key| format!("{section}.{key}")));
                written.insert(section);
            }
            Err(_) => drop(written.insert(section)),
        }
    }
    sections_of(values, Some("/run/credentials"), &mut report);
    let known: BTreeSet<_> =
        report.known().iter().filter(|key| !key.starts_with("operators.groups.") && !key.starts_with("grants[")).cloned().collect();
    assert_eq!(written, known);
}

#[test]
fn the_unit_and_the_configuration_agree() {
    let unit = include_str!("../../../systemd/ssh-broker.service");
    let (settings, _) = read(SHIPPED, &[("CREDENTIALS_DIRECTORY", "/run/credentials")]).unwrap();
    let files = settings.gse.credential_files.unwrap();
    for path in [files.secret_id, files.secret_key] {
        let name = path.strip_prefix("/run/credentials").unwrap().display().to_string();
        assert!(unit.contains(&format!("\nLoadCredential={name}:/")), "{name}");
    }
    let state = settings.state_dir.strip_prefix("/var/lib").unwrap().display().to_string();
    assert!(unit.contains(&format!("\nStateDirectory={state}\n")));
    assert!(unit.contains(&format!("--config {}\n", crate::settings::DEFAULT_FILE)));
}
