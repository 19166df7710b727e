//! One function for each table of the configuration, with its defaults. `config/broker.toml` says the same to people; a test compares.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::files::{FileCheck, FileKind};
use super::table::{Table, number_of, text_of};
use super::value::{self, KIB, MIB, SecretPath, duration, quoted};
use crate::access::{FleetAliases, FleetId};
use crate::gse::CredentialFiles;
use crate::upstream::{HostKeys, LegacyAlgorithms};
use crate::{audit, cache, door, gse, recording, upstream};

const STATE_DIR: &str = "/var/lib/ssh-broker";
const AUTHORIZED_KEYS_DIR: &str = "/etc/ssh-broker/operators";
const ENDPOINT: &str = "https://gse.tencentcloudapi.com";
/// What Tencent documents for `GetInstanceAccess`.
const DOCUMENTED_REQUESTS_PER_SECOND: u32 = 20;

const COUNT: RangeInclusive<usize> = 1..=1_000_000;
const WAIT: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_mins(10);
const MEMORY: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(24);

const A_DURATION: &str = "a duration in quotes, such as \"20s\"";
const A_NETWORK: &str = "a network in quotes, such as \"10.0.0.0/8\"";
const A_PATH: &str = "an absolute path in quotes";

impl Table<'_> {
    pub(super) fn duration(&mut self, key: &str, range: RangeInclusive<Duration>, default: Duration) -> Duration {
        self.text(key, A_DURATION, |text| duration(text, range)).unwrap_or(default)
    }

    fn count(&mut self, key: &str, default: usize) -> usize {
        self.number(key, COUNT).unwrap_or(default)
    }

    fn path(&mut self, key: &str) -> Option<PathBuf> {
        self.text(key, A_PATH, value::path)
    }

    /// A word out of a few.
    pub(super) fn choice<T: Copy>(&mut self, key: &str, choices: &[(&str, T)]) -> Option<T> {
        let words: Vec<_> = choices.iter().map(|(word, _)| format!("{word:?}")).collect();
        let right = words.join(" or ");
        self.text(key, &right, |text| {
            let found = choices.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| format!("{} is not a choice: write {right}", quoted(text)))
        })
    }
}

pub(super) fn state_dir(root: &mut Table<'_>, files: &mut Vec<FileCheck>) -> PathBuf {
    let path = root.path("state_dir").unwrap_or_else(|| PathBuf::from(STATE_DIR));
    files.push(FileCheck::new("state_dir", &path, FileKind::StateDir));
    path
}

pub(super) struct Listen {
    pub(super) addresses: Vec<std::net::SocketAddr>,
    pub(super) login_grace: Duration,
    pub(super) proxy_protocol_from: Vec<ipnet::IpNet>,
}

pub(super) fn listen(mut table: Table<'_>) -> Listen {
    let right = "an address with its port in quotes, such as \"[::]:2222\"";
    let addresses = table.list("addresses", right, value::socket_address);
    match addresses.as_deref() {
        Some([]) => table.error("addresses", "is empty: write at least one address, or leave the key out for [\"[::]:2222\"]"),
        Some(addresses) => {
            for (index, address) in addresses.iter().enumerate() {
                let key = format!("addresses[{index}]");
                if addresses.iter().take(index).any(|earlier| earlier == address) {
                    table.error(&key, format!("{address} stands there twice: write each address once"));
                }
                if address.port() == 0 {
                    table.warn(&key, "port 0 means another free port at every start: write the port that operators use");
                }
            }
        }
        None => {}
    }
    let default = || vec![std::net::SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 2222))];
    let listen = Listen {
        addresses: addresses.unwrap_or_else(default),
        login_grace: table.duration("login_grace", WAIT, Duration::from_secs(20)),
        proxy_protocol_from: table.list("proxy_protocol_from", A_NETWORK, value::network).unwrap_or_default(),
    };
    table.finish();
    listen
}

/// The keys of `[operators]` that the door needs; the groups are read with the grants.
pub(super) struct Operators {
    pub(super) authorized_keys_dir: PathBuf,
    pub(super) trusted_user_ca: Option<PathBuf>,
    pub(super) revoked_keys: Option<PathBuf>,
}

pub(super) fn operators(table: &mut Table<'_>, files: &mut Vec<FileCheck>) -> Operators {
    let written = table.has("authorized_keys_dir");
    let authorized_keys_dir = table.path("authorized_keys_dir").unwrap_or_else(|| PathBuf::from(AUTHORIZED_KEYS_DIR));
    let trusted_user_ca = table.path("trusted_user_ca");
    let revoked_keys = table.path("revoked_keys");
    // With neither this directory nor a CA nobody could prove to be anybody: then it has to be there.
    let kind = FileKind::AuthorizedKeysDir { required: written || trusted_user_ca.is_none(), alone: trusted_user_ca.is_none() };
    files.push(FileCheck::new("operators.authorized_keys_dir", &authorized_keys_dir, kind));
    if let Some(path) = &trusted_user_ca {
        files.push(FileCheck::new("operators.trusted_user_ca", path, FileKind::TrustedKeys));
    }
    if let Some(path) = &revoked_keys {
        files.push(FileCheck::new("operators.revoked_keys", path, FileKind::RevokedKeys));
    }
    Operators { authorized_keys_dir, trusted_user_ca, revoked_keys }
}

pub(super) fn limits(mut table: Table<'_>) -> door::Limits {
    let right = "a size in quotes, such as \"4MiB\"";
    let limits = door::Limits {
        connections: table.count("connections", 10_000),
        startups: table.count("startups", 500),
        startups_drop_from: table.count("startups_drop_from", 250),
        startups_drop_percent: table.number("startups_drop_percent", 0..=100).unwrap_or(30),
        startups_per_source: table.count("startups_per_source", 100),
        startups_per_netblock: table.count("startups_per_netblock", 200),
        attempts: table.number("attempts", 1..=100).unwrap_or(6),
        sessions: table.count("sessions", 5000),
        sessions_per_operator: table.count("sessions_per_operator", 500),
        sessions_per_connection: table.count("sessions_per_connection", 200),
        pipe: table.text("pipe", right, |text| value::size(text, 64 * KIB..=64 * MIB)).unwrap_or(4 * MIB),
    };
    table.finish();
    limits
}

pub(super) fn penalties(mut table: Table<'_>) -> door::PenaltyRules {
    let second = Duration::from_secs(1);
    let mut duration = |key: &str, default: Duration| table.duration(key, Duration::ZERO..=*MEMORY.end(), default);
    let penalties = door::PenaltyRules {
        crash: duration("crash", 90 * second),
        auth_failed: duration("auth_failed", 5 * second),
        no_auth: duration("no_auth", second),
        grace_exceeded: duration("grace_exceeded", 10 * second),
        min: duration("min", 15 * second),
        max: duration("max", 600 * second),
        sources: table.count("sources", 65_536),
        exempt: table.list("exempt", A_NETWORK, value::network).unwrap_or_default(),
    };
    if penalties.max < penalties.min {
        table.warn("max", "is shorter than penalties.min: no source is ever refused");
    }
    table.finish();
    penalties
}

pub(super) struct Gse {
    pub(super) config: gse::Config,
    pub(super) aliases: FleetAliases,
    pub(super) deadline: Duration,
    pub(super) ssh_port: u16,
    pub(super) ssh_ports: BTreeMap<FleetId, u16>,
}

pub(super) fn gse(mut table: Table<'_>, credentials_directory: Option<&str>, files: &mut Vec<FileCheck>) -> Gse {
    let endpoint = table.text("endpoint", "https://host in quotes", value::endpoint).unwrap_or_else(|| ENDPOINT.to_owned());
    if !table.has("region") {
        table.error("region", "is missing: write region = \"…\", the region of your fleets, such as \"ap-shanghai\"");
    }
    let region = table.text("region", "a region in quotes, such as \"ap-shanghai\"", value::region).unwrap_or_default();
    let credential_files = credential_files(&mut table, credentials_directory, files);

    let requests_per_second = table.number("requests_per_second", 1..=10_000).unwrap_or(DOCUMENTED_REQUESTS_PER_SECOND);
    if requests_per_second > DOCUMENTED_REQUESTS_PER_SECOND {
        let text = format!(
            "{requests_per_second} is more than the {DOCUMENTED_REQUESTS_PER_SECOND} a second that Tencent documents: expect \
             RequestLimitExceeded unless your account has more"
        );
        table.warn("requests_per_second", text);
    }

    let right = "a fleet id in quotes, such as \"fleet-qp3g3caa-iectl8nb\"";
    let fleet = |text: &str| FleetId::parse(text).map_err(|invalid| format!("{invalid}: write {right}"));
    let fleets = table.list("fleets", right, fleet).unwrap_or_default();
    let mut aliases = FleetAliases::default();
    table.entries("fleet_aliases", "a table, such as { prod = \"fleet-qp3g3caa-iectl8nb\" }", |alias, value| {
        let id = text_of(value, right).and_then(fleet)?;
        aliases.insert(alias, id).map_err(|invalid| invalid.to_string())
    });
    let mut ssh_ports = BTreeMap::new();
    table.entries("ssh_ports", "a table, such as { \"fleet-qp3g3caa-iectl8nb\" = 12022 }", |name, value| {
        ssh_ports.insert(fleet(name)?, number_of(value, 1..=u16::MAX)?);
        Ok(())
    });

    let deadline = table.duration("deadline", WAIT, Duration::from_secs(20));
    let call_timeout = table.duration("call_timeout", WAIT, Duration::from_secs(5));
    if call_timeout > deadline {
        let shown = humantime::format_duration(deadline);
        table.warn("call_timeout", format!("is longer than gse.deadline ({shown}), which ends an opening first: write a shorter one"));
    }
    let config = gse::Config {
        endpoint,
        region,
        credential_files,
        metadata_url: None,
        requests_per_second,
        fleets,
        call_timeout,
        queue: table.count("queue", 1000),
    };
    let ssh_port = table.number("ssh_port", 1..=u16::MAX).unwrap_or(22);
    table.finish();
    Gse { config, aliases, deadline, ssh_port, ssh_ports }
}

/// The API key's files come together or not at all.
fn credential_files(table: &mut Table<'_>, credentials_directory: Option<&str>, files: &mut Vec<FileCheck>) -> Option<CredentialFiles> {
    let has = ["secret_id_file", "secret_key_file", "token_file"].map(|key| table.has(key));
    let mut read = |key: &str| -> Option<PathBuf> {
        let (path, kind) = match table.text(key, A_PATH, |text| value::secret_path(text, credentials_directory))? {
            SecretPath::At(path) => {
                let by_systemd = credentials_directory.is_some_and(|directory| path.starts_with(Path::new(directory)));
                (path, FileKind::Secret { by_systemd })
            }
            SecretPath::OnlyUnderSystemd(path) => (path, FileKind::OnlyUnderSystemd),
        };
        files.push(FileCheck::new(&format!("gse.{key}"), &path, kind));
        Some(path)
    };
    let (id, key, token) = (read("secret_id_file"), read("secret_key_file"), read("token_file"));
    match has {
        [true, false, _] => table.error("secret_key_file", "is missing: gse.secret_id_file needs it, the two come together"),
        [false, true, _] => table.error("secret_id_file", "is missing: gse.secret_key_file needs it, the two come together"),
        [false, false, true] => {
            table.error("token_file", "stands alone: write gse.secret_id_file and gse.secret_key_file as well, or leave it out");
        }
        [true, true, _] | [false, false, false] => {}
    }
    Some(CredentialFiles { secret_id: id?, secret_key: key?, token })
}

pub(super) fn cache(mut table: Table<'_>) -> cache::Config {
    let cache = cache::Config {
        lease_ttl: table.duration("lease_ttl", MEMORY, Duration::from_secs(60)),
        resolve_ttl: table.duration("resolve_ttl", MEMORY, Duration::from_mins(5)),
        not_found_ttl: table.duration("not_found_ttl", MEMORY, Duration::from_secs(10)),
        capacity: table.number("capacity", 1..=10_000_000).unwrap_or(10_000),
    };
    table.finish();
    cache
}

pub(super) fn upstream(mut table: Table<'_>, gse: &mut Gse, state_dir: &Path) -> upstream::Config {
    let host_keys = table.choice("host_keys", &[("accept-new", HostKeys::AcceptNew), ("strict", HostKeys::Strict)]);
    let legacy = [("auto", LegacyAlgorithms::Auto), ("never", LegacyAlgorithms::Never), ("always", LegacyAlgorithms::Always)];
    let networks = table.list("allowed_networks", A_NETWORK, value::network);
    let upstream = upstream::Config {
        connect_timeout: table.duration("connect_timeout", WAIT, Duration::from_secs(10)),
        handshake_timeout: table.duration("handshake_timeout", WAIT, Duration::from_secs(10)),
        host_keys: host_keys.unwrap_or(HostKeys::AcceptNew),
        known_hosts: state_dir.join("known_hosts"),
        allowed_networks: networks.unwrap_or_default(),
        legacy_algorithms: table.choice("legacy_algorithms", &legacy).unwrap_or(LegacyAlgorithms::Auto),
        ssh_port: gse.ssh_port,
        ssh_ports: std::mem::take(&mut gse.ssh_ports),
    };
    table.finish();
    upstream
}

pub(super) fn audit(mut table: Table<'_>, files: &mut Vec<FileCheck>) -> audit::Config {
    let sink = table.text("path", "\"stdout\" or an absolute path", |text| match text {
        "stdout" => Ok(audit::Sink::Stdout),
        text => value::path(text).map(audit::Sink::File).map_err(|error| format!("{error}, or be \"stdout\"")),
    });
    if let Some(audit::Sink::File(path)) = &sink {
        files.push(FileCheck::new("audit.path", path, FileKind::AuditFile));
    }
    let audit = audit::Config {
        path: sink.unwrap_or(audit::Sink::Stdout),
        queue: table.count("queue", 10_000),
        sync: table.boolean("sync").unwrap_or(true),
    };
    table.finish();
    audit
}

pub(super) fn recording(mut table: Table<'_>, state_dir: &Path, files: &mut Vec<FileCheck>) -> recording::Config {
    let dir = table.path("dir").unwrap_or_else(|| state_dir.join("recordings"));
    files.push(FileCheck::new("recording.dir", &dir, FileKind::RecordingDir));
    let right = "a size in quotes, such as \"64MiB\"";
    let queue = table.text("queue", right, |text| value::size(text, MIB..=1024 * MIB)).unwrap_or(64 * MIB);
    table.finish();
    recording::Config { dir, queue }
}
