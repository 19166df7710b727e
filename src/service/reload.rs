use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::Service;
use crate::access::{Code, Failure, Operator};
use crate::broker::BoxFuture;
use crate::commands::Reload;
use crate::door::{Judged, Limits, Rules};
use crate::session::{self, Running};
use crate::settings::{Purpose, Settings};
use crate::upstream;

/// How long the sessions of a connection that ends have for their last words.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How often it is looked for sessions that began by what was true before.
const LOOK: Duration = Duration::from_secs(2);

/// From a grant to a session that runs, beyond the deadlines of both of its legs: its audit and its recording begin.
const BEGINNING: Duration = Duration::from_secs(30);

/// Why everything stays as it was: a sentence for each thing that is wrong.
#[derive(Debug)]
pub(super) struct Refused(pub(super) Vec<String>);

/// What an administrator who asked for a reload is told.
pub(super) type Told = Result<String, String>;
/// Those who ask the daemon for one, other than by a signal.
pub(super) type Requests = mpsc::Receiver<oneshot::Sender<Told>>;

/// The way to the daemon.
pub(super) struct Reloads(mpsc::Sender<oneshot::Sender<Told>>);

pub(super) fn line() -> (Reloads, Requests) {
    let (sender, requests) = mpsc::channel(1);
    (Reloads(sender), requests)
}

impl Reload for Reloads {
    fn reload(&self) -> BoxFuture<'static, Told> {
        let daemon = self.0.clone();
        Box::pin(async move {
            let (told, answer) = oneshot::channel();
            let ending = |_| "this process is ending: ask the one that took over".to_owned();
            daemon.send(told).await.map_err(|_| ending(()))?;
            answer.await.unwrap_or_else(|_| Err(ending(())))
        })
    }
}

/// Reads the configuration and everything that it names, and puts it in force as a whole or not at all.
pub(super) async fn reload(service: &Arc<Service>, file: &Path, before: &Settings) -> Result<Settings, Refused> {
    let file = file.to_owned();
    let task = {
        let service = service.clone();
        tokio::task::spawn_blocking(move || read(&service, &file))
    };
    let (settings, rules) = task.await.map_err(|error| Refused(vec![error.to_string()]))??;
    service.broker.set_policy(settings.policy.clone());
    service.door.apply(rules);
    for key in needs_restart(before, &settings) {
        tracing::warn!(key, "changed, and counts from the next start or upgrade on");
    }
    judge_again(service.clone(), settings.open_deadline).await;
    Ok(settings)
}

fn read(service: &Service, file: &Path) -> Result<(Settings, Rules), Refused> {
    let loaded = Settings::load(file, std::env::vars_os(), Purpose::Serve);
    let (settings, warnings) = loaded.map_err(|findings| Refused(findings.errors.iter().map(ToString::to_string).collect()))?;
    let rules = Rules::read(&settings.door, settings.aliases.clone()).map_err(|error| Refused(vec![error.to_string()]))?;
    service.pins.reread().map_err(|error| Refused(vec![error.to_string()]))?;
    for warning in warnings {
        tracing::warn!("{warning}");
    }
    Ok((settings, rules))
}

/// The keys that differ and are not put in force by a reload.
fn needs_restart(before: &Settings, after: &Settings) -> Vec<&'static str> {
    fn differ(a: &impl std::fmt::Debug, b: &impl std::fmt::Debug) -> bool {
        format!("{a:?}") != format!("{b:?}")
    }
    let of_the_door =
        |settings: &Settings| Limits { sessions: 0, sessions_per_operator: 0, sessions_per_connection: 0, ..settings.door.limits };
    let ports = |settings: &Settings| (settings.upstream.ssh_port, settings.upstream.ssh_ports.clone());
    // Without what other keys say.
    let of_upstream = |settings: &Settings| upstream::Config {
        ssh_port: 0,
        ssh_ports: BTreeMap::new(),
        known_hosts: PathBuf::new(),
        ..settings.upstream.clone()
    };
    let keys = [
        ("state_dir", before.state_dir != after.state_dir),
        ("listen.addresses", before.door.addresses != after.door.addresses),
        ("listen.proxy_protocol_from", before.door.proxy_protocol_from != after.door.proxy_protocol_from),
        ("[gse]", differ(&before.gse, &after.gse) || before.open_deadline != after.open_deadline),
        ("[cache]", differ(&before.cache, &after.cache)),
        ("gse.ssh_port, gse.ssh_ports", ports(before) != ports(after)),
        ("[upstream]", differ(&of_upstream(before), &of_upstream(after))),
        ("[audit]", differ(&before.audit, &after.audit)),
        ("[recording]", differ(&before.recording, &after.recording)),
        ("[metrics]", before.process.metrics != after.process.metrics),
        ("[log]", before.process.log != after.process.log),
        ("[limits] but for sessions", of_the_door(before) != of_the_door(after)),
        ("[penalties]", before.door.penalties != after.door.penalties),
    ];
    keys.into_iter().filter_map(|(key, differs)| differs.then_some(key)).collect()
}

/// Judges every session at once, and then for a while those that were being opened meanwhile.
async fn judge_again(service: Arc<Service>, open_deadline: Duration) {
    // An operator's client may take its time though the instance is reached.
    let opening = open_deadline.max(session::Config::default().handshake) + BEGINNING;
    let mut judged = HashMap::new();
    judge(&service, &mut judged).await;
    let service = Arc::downgrade(&service);
    tokio::spawn(async move {
        for _ in 0..=opening.as_secs().div_ceil(LOOK.as_secs()) {
            sleep(LOOK).await;
            let Some(service) = service.upgrade() else { return };
            judge(&service, &mut judged).await;
        }
    });
}

/// The sessions that were judged, by their place in memory, which stays theirs while they are here.
type Seen = HashMap<usize, Arc<Running>>;

/// Ends what would be refused now. A session that uses nothing that it may not use goes on, held to what is allowed now.
async fn judge(service: &Arc<Service>, seen: &mut Seen) {
    let door = service.clone();
    let Ok(judged) = tokio::task::spawn_blocking(move || door.door.judge()).await else { return };
    let judged: HashMap<SocketAddr, Result<Operator, String>> =
        judged.into_iter().map(|Judged { source, operator }| (source, operator)).collect();
    let policy = service.broker.policy();
    let live = service.live.list();
    let now: HashSet<usize> = live.iter().map(|session| Arc::as_ptr(session).addr()).collect();
    seen.retain(|place, _| now.contains(place));
    for session in live {
        if seen.insert(Arc::as_ptr(&session).addr(), session.clone()).is_some() {
            continue;
        }
        let target = session.grant.target();
        match judged.get(&session.grant.operator().source) {
            // Its connection is gone, and it is about to be.
            None => {}
            Some(Err(reason)) => session.end(&expired("your key no longer lets you in").because(reason.as_str())),
            Some(Ok(operator)) => match policy.decide(operator, target, SystemTime::now()) {
                Err(denied) => session.end(&expired("you may no longer reach this instance").because(denied.to_string())),
                Ok(grant) => session.regrant(grant, &expired("you may no longer do what this session does")),
            },
        }
    }
    for (source, reason) in judged.into_iter().filter_map(|(source, operator)| Some((source, operator.err()?))) {
        tracing::info!(%source, reason, "the operator of a connection is no longer let in: it ends");
        let service = service.clone();
        tokio::spawn(async move {
            sleep(LAST_WORDS).await;
            service.door.end(source);
        });
    }
}

fn expired(text: &str) -> Failure {
    Failure::new(Code::SessionExpired, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Draft;

    #[test]
    fn what_a_reload_cannot_change_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("broker.toml");
        let read = |more: &str| {
            let text = format!("{more}\n[[grants]]\noperators = [\"alice\"]\ntargets = [\"ins-*\"]\n");
            std::fs::write(&file, text).unwrap();
            Draft::read(&file, []).finish().unwrap().0
        };
        let gse = "[gse]\nregion = \"ap-shanghai\"\n";
        let before = read(gse);
        assert_eq!(needs_restart(&before, &read(gse)), Vec::<&str>::new());
        let same = read(&format!("{gse}[listen]\nlogin_grace = \"5s\"\n[limits]\nsessions = 7\n[service]\ndrain_timeout = \"9s\"\n"));
        assert_eq!(needs_restart(&before, &same), Vec::<&str>::new(), "these can be");
        let named = |more: &str| needs_restart(&before, &read(more));
        for (key, more) in [
            ("listen.addresses", format!("{gse}[listen]\naddresses = [\"[::]:1\"]\n")),
            ("listen.proxy_protocol_from", format!("{gse}[listen]\nproxy_protocol_from = [\"192.0.2.0/24\"]\n")),
            ("[gse]", gse.replace("shanghai", "tokyo")),
            ("gse.ssh_port, gse.ssh_ports", format!("{gse}ssh_port = 2022\n")),
            ("[cache]", format!("{gse}[cache]\ncapacity = 5\n")),
            ("[upstream]", format!("{gse}[upstream]\nhost_keys = \"strict\"\n")),
            ("[audit]", format!("{gse}[audit]\nqueue = 9\n")),
            ("[recording]", format!("{gse}[recording]\nqueue = \"2MiB\"\n")),
            ("[metrics]", format!("{gse}[metrics]\naddress = \"127.0.0.1:1\"\n")),
            ("[log]", format!("{gse}[log]\nformat = \"json\"\n")),
            ("[limits] but for sessions", format!("{gse}[limits]\nstartups_drop_from = 5\n")),
            ("[penalties]", format!("{gse}[penalties]\nauth_failed = \"6s\"\n")),
        ] {
            assert_eq!(named(&more), [key], "{more}");
        }
        assert!(named(&format!("state_dir = \"/srv\"\n{gse}")).contains(&"state_dir"));
    }
}
