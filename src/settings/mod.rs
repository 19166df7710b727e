//! File and environment → [`Settings`], in the domain's own types at once, with everything that is wrong found in one go.
//!
//! Values come from the file and, above it, from variables `SSH_BROKER__SECTION__KEY` (crate `config` lays one over the other). Each key is
//! then read by name (`sections`, `grants`); what nobody reads is unknown. Files that the settings name are checked last (`files`), and no
//! secret is read here.

mod administrators;
mod files;
mod grants;
mod owners;
mod process;
mod reference;
mod report;
mod sections;
mod table;
mod value;
mod zone;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use config::{Config, ConfigError, FileFormat, Map, Value};

use files::{FileCheck, FileKind};
use owners::Owners;
pub use reference::{Key, Section, Setting, reference};
use report::Report;
pub use report::{Findings, Problem};
use table::Table;

use crate::access::{FleetAliases, Policy};
use crate::{audit, cache, door, gse, recording, upstream};

/// Where the configuration is when nothing else is said.
pub const DEFAULT_FILE: &str = "/etc/ssh-broker/broker.toml";

const PREFIX: &str = "SSH_BROKER__";

/// Everything the daemon can be told.
///
/// **Invariant**: there is one only when nothing was wrong with it (see [`Draft::finish`]).
#[derive(Debug, Clone)]
pub struct Settings {
    pub state_dir: PathBuf,
    pub door: door::Config,
    pub policy: Policy,
    pub aliases: FleetAliases,
    pub gse: gse::Config,
    pub cache: cache::Config,
    pub upstream: upstream::Config,
    pub audit: audit::Config,
    pub recording: recording::Config,
    /// From an operator's channel open to the instance's shell: what takes longer is given up (`gse.deadline`).
    pub open_deadline: Duration,
    pub process: Process,
}

/// What concerns the process around the broker: `[service]`, `[metrics]`, `[log]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// How long sessions may go on in a process that another one has taken over from.
    pub drain_timeout: Duration,
    /// How long they may go on when the process was told to stop.
    pub stop_timeout: Duration,
    /// Where metrics and health are served, if anywhere.
    pub metrics: Option<SocketAddr>,
    pub log: LogFormat,
}

/// `log.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// For whom files are checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The daemon is about to start, as its own user.
    Serve,
    /// An administrator asks, perhaps as root, outside the unit.
    Check,
}

/// Settings that were read but may be wrong.
pub struct Draft {
    settings: Settings,
    files: Vec<FileCheck>,
    report: Report,
}

impl Settings {
    /// Reads and checks everything. With the settings come the warnings, without them errors and warnings.
    pub fn load(
        file: &Path,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        purpose: Purpose,
    ) -> Result<(Self, Vec<Problem>), Findings> {
        let mut draft = Draft::read(file, environment);
        draft.check_files(purpose);
        draft.finish()
    }

    /// One line for an administrator.
    pub fn summary(&self) -> String {
        let addresses: Vec<_> = self.door.addresses.iter().map(ToString::to_string).collect();
        format!(
            "listens on {}, asks {} ({}), {} fleet(s) named, {} alias(es), state in {}",
            addresses.join(", "),
            self.gse.endpoint,
            self.gse.region,
            self.gse.fleets.len(),
            self.aliases.iter().count(),
            self.state_dir.display()
        )
    }
}

impl Draft {
    /// Reads the file and the variables (the process's environment is `std::env::vars_os()`), and no other file.
    pub fn read(file: &Path, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut report = Report::new(file.display().to_string());
        let mut credentials_directory = None;
        let mut ours = Vec::new();
        for (name, value) in environment {
            let name = name.to_string_lossy();
            if name == "CREDENTIALS_DIRECTORY" {
                credentials_directory = Some(value.to_string_lossy().into_owned());
            } else if name.starts_with(PREFIX) {
                ours.push((name.into_owned(), value));
            }
        }
        let variables = variables(ours, &mut report);
        let values = match files::read(file) {
            Ok(text) => values(&text, &variables, &mut report),
            Err(error) => {
                report.error("", format!("{error}; another file can be named with --config"));
                None
            }
        };
        let credentials_directory = credentials_directory.as_deref();
        let Some(values) = values else {
            // Nothing was read, so what a reader says of missing keys is of no use.
            let (settings, _) = sections_of(Map::new(), credentials_directory, &mut Report::new(String::new()));
            return Self { settings, files: Vec::new(), report };
        };
        let (settings, mut files) = sections_of(values, credentials_directory, &mut report);
        files.insert(0, FileCheck::new("", file, FileKind::Configuration));
        Self { settings, files, report }
    }

    /// Looks at every file that the settings name.
    pub fn check_files(&mut self, purpose: Purpose) {
        let owners = Owners::new(purpose, &self.settings.state_dir);
        for check in &self.files {
            check.run(purpose, &owners, &mut self.report);
        }
    }

    pub fn finish(self) -> Result<(Settings, Vec<Problem>), Findings> {
        let findings = self.report.into_findings();
        match findings.errors.is_empty() {
            true => Ok((self.settings, findings.warnings)),
            false => Err(findings),
        }
    }
}

/// The variables that can be laid over the file, by name; every other one goes into the report.
fn variables(ours: Vec<(String, OsString)>, report: &mut Report) -> HashMap<String, String> {
    let mut paths = BTreeMap::new();
    let mut variables = HashMap::new();
    for (name, value) in ours {
        let upper = name.to_ascii_uppercase();
        if name != upper {
            report.variable_error(&name, format!("unknown variable: names are in upper case, write {upper}"));
            continue;
        }
        let Ok(value) = value.into_string() else {
            report.variable_error(&name, "is not UTF-8: write plain text");
            continue;
        };
        let path = name.strip_prefix(PREFIX).unwrap_or_default().to_ascii_lowercase().replace("__", ".");
        let is_key = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
        if !path.split('.').all(is_key) {
            report.variable_error(&name, format!("names no key: write {PREFIX}SECTION__KEY, such as {PREFIX}GSE__REGION"));
            continue;
        }
        paths.insert(path, name.clone());
        variables.insert(name, value);
    }
    // Which of the two would win is not defined.
    for (path, name) in &paths {
        for (outer, _) in path.match_indices('.').map(|(at, _)| path.split_at(at)) {
            if let Some(other) = paths.get(outer) {
                report.variable_error(name, format!("contradicts {other}, which sets the whole of {outer}: unset one of the two"));
            }
        }
    }
    report.set_variables(paths);
    variables
}

fn values(text: &str, variables: &HashMap<String, String>, report: &mut Report) -> Option<Map<String, Value>> {
    let environment = config::Environment::with_prefix("SSH_BROKER").prefix_separator("__").separator("__").source(Some(variables.clone()));
    let built = Config::builder().add_source(config::File::from_str(text, FileFormat::Toml)).add_source(environment).build();
    match built.and_then(|config| config.cache.into_table()) {
        Ok(values) => Some(values),
        Err(error) => {
            report.error("", format!("is not TOML: {}", toml_error(&error)));
            None
        }
    }
}

/// The parser's message in one line: where it was and what it expected.
fn toml_error(error: &ConfigError) -> String {
    let text = match error {
        ConfigError::FileParse { cause, .. } => cause.to_string(),
        other => other.to_string(),
    };
    // Between the first line and the last stands the text of the file, which need not be in a log.
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    match (lines.next(), lines.next_back()) {
        (Some(place), Some(what)) => format!("{}: {}", place.replace("TOML parse error ", ""), what.trim()),
        (Some(only), None) => only.to_owned(),
        _ => "it cannot be parsed".to_owned(),
    }
}

fn sections_of(values: Map<String, Value>, credentials_directory: Option<&str>, report: &mut Report) -> (Settings, Vec<FileCheck>) {
    let mut files = Vec::new();
    let mut root = Table::root(values, report);
    let state_dir = sections::state_dir(&mut root, &mut files);
    let listen = sections::listen(root.table("listen"));
    let mut operators = root.table("operators");
    let door = sections::operators(&mut operators, &mut files);
    let groups = grants::groups(operators.table("groups"));
    let administrators = administrators::administrators(&mut operators, &groups);
    operators.finish();
    let policy = grants::policy(&mut root, groups);
    let policy = administrators::with_administrators(policy, administrators, &mut root);
    let mut gse = sections::gse(root.table("gse"), credentials_directory, &mut files);
    let settings = Settings {
        door: door::Config {
            addresses: listen.addresses,
            login_grace: listen.login_grace,
            proxy_protocol_from: listen.proxy_protocol_from,
            authorized_keys_dir: door.authorized_keys_dir,
            trusted_user_ca: door.trusted_user_ca,
            revoked_keys: door.revoked_keys,
            limits: sections::limits(root.table("limits")),
            penalties: sections::penalties(root.table("penalties")),
        },
        policy,
        upstream: sections::upstream(root.table("upstream"), &mut gse, &state_dir),
        aliases: gse.aliases,
        gse: gse.config,
        cache: sections::cache(root.table("cache")),
        audit: sections::audit(root.table("audit"), &mut files),
        recording: sections::recording(root.table("recording"), &state_dir, &mut files),
        open_deadline: gse.deadline,
        process: process::process(&mut root),
        state_dir,
    };
    root.finish();
    report.settle_unknown();
    (settings, files)
}

#[cfg(test)]
mod tests;
