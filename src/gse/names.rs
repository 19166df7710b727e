use std::collections::HashMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

/// How long a lookup is waited for until another is begun beside it, or what is known from before is taken.
const PATIENCE: Duration = Duration::from_secs(1);
/// Lookups of one name at once: glibc may take half a minute to give one up.
const MOST: usize = 32;
/// How long an address stands in for an answer that does not come.
const MEMORY: Duration = Duration::from_secs(24 * 60 * 60);

type Lookup = dyn Fn(&str) -> io::Result<Addresses> + Send + Sync;
type Addresses = Vec<SocketAddr>;
/// Where the outcome of a lookup will be, how long to wait for it, and what is known from before.
type Waiting = (watch::Receiver<Result<Addresses, String>>, Duration, Option<Addresses>);

/// Addresses of names, as the system's resolver gives them. That blocks its thread, without an end that anybody could set: when DNS does
/// not answer, glibc waits for five seconds, twice and for each server, and never asks a lost question sooner.
///
/// **Invariants**: lookups have threads of their own, of a bounded number, so that nothing else waits for one, and neither does the end of
/// the process; a lookup that is not answered within a second keeps nobody from a newer one's answer; an address that was once known serves
/// for a day when DNS fails (RFC 8767). TLS proves who is there; where there is none, at the metadata service, DNS is believed as it was.
#[derive(Clone)]
pub(super) struct Names {
    lookup: Arc<Lookup>,
    patience: Duration,
    entries: Arc<Mutex<HashMap<String, Entry>>>,
}

/// One name. A client asks for its endpoint's alone, as it follows no redirect.
struct Entry {
    under_way: usize,
    /// When the latest lookup began.
    begun: Instant,
    /// When the first lookup began that no answer has come after.
    unanswered_since: Option<Instant>,
    known: Option<(Addresses, Instant)>,
    /// Whether the log has that what is known stands in.
    is_told: bool,
    outcomes: watch::Sender<Result<Addresses, String>>,
}

impl Entry {
    fn new() -> Self {
        let outcomes = watch::Sender::new(Err("no lookup has ended".to_owned()));
        Self { under_way: 0, begun: Instant::now(), unanswered_since: None, known: None, is_told: false, outcomes }
    }

    fn known(&self) -> Option<Addresses> {
        self.known.as_ref().filter(|(_, at)| at.elapsed() < MEMORY).map(|(addresses, _)| addresses.clone())
    }
}

impl Names {
    pub(super) fn new() -> Self {
        Self::with(Arc::new(|name| Ok((name, 0).to_socket_addrs()?.collect())), PATIENCE)
    }

    fn with(lookup: Arc<Lookup>, patience: Duration) -> Self {
        Self { lookup, patience, entries: Arc::default() }
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn addresses(&self, name: &str) -> io::Result<Addresses> {
        loop {
            let (mut outcomes, wait, known) = self.ask(name)?;
            let ended = timeout(wait, outcomes.changed()).await.is_ok();
            let outcome = outcomes.borrow_and_update().clone();
            match (outcome, known) {
                (Ok(addresses), _) if ended => return Ok(addresses),
                (_, Some(known)) => {
                    self.stands_in(name);
                    return Ok(known);
                }
                (Err(error), None) if ended => return Err(io::Error::other(error)),
                (_, None) => {}
            }
        }
    }

    /// Tells it once, until DNS answers again.
    fn stands_in(&self, name: &str) {
        let first = self.entries().get_mut(name).is_some_and(|entry| !std::mem::replace(&mut entry.is_told, true));
        if first {
            tracing::warn!(name, "DNS does not answer for the cloud API's name; the address that is known from before is used");
        }
    }

    /// Sees to it that a lookup is under way.
    fn ask(&self, name: &str) -> io::Result<Waiting> {
        let mut entries = self.entries();
        let entry = entries.entry(name.to_owned()).or_insert_with(Entry::new);
        let outcomes = entry.outcomes.subscribe();
        let now = Instant::now();
        if entry.under_way == 0 || (now - entry.begun >= self.patience && entry.under_way < MOST) {
            let (names, name) = (self.clone(), name.to_owned());
            thread::Builder::new().name("name lookup".to_owned()).spawn(move || {
                let outcome = (names.lookup)(&name);
                names.ended(&name, outcome);
            })?;
            entry.under_way += 1;
            entry.begun = now;
            entry.unanswered_since.get_or_insert(now);
        }
        let known = entry.known();
        let rest = |since: Instant| (since + self.patience).saturating_duration_since(now);
        let wait = match (&known, entry.unanswered_since) {
            // Who knows an address waits for DNS once, not each time anew.
            (Some(_), Some(since)) => rest(since),
            // Until another may begin; a while, when there are too many.
            _ => rest(entry.begun).max(self.patience / 10),
        };
        Ok((outcomes, wait, known))
    }

    fn ended(&self, name: &str, outcome: io::Result<Addresses>) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(name) else { return };
        entry.under_way -= 1;
        match outcome {
            Ok(addresses) => {
                entry.known = Some((addresses.clone(), Instant::now()));
                (entry.unanswered_since, entry.is_told) = (None, false);
                let _ = entry.outcomes.send_replace(Ok(addresses));
            }
            // Of several, one that was begun when DNS was down may fail while a newer one is about to succeed.
            Err(_) if entry.under_way > 0 => {}
            Err(error) => {
                tracing::debug!(name, %error, known = entry.known.is_some(), "a name could not be resolved");
                entry.unanswered_since = None;
                let _ = entry.outcomes.send_replace(Err(error.to_string()));
            }
        }
    }
}

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        let names = self.clone();
        Box::pin(async move {
            let addresses = names.addresses(name.as_str()).await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    use futures_util::future::join_all;

    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    /// What each lookup does, in order; beyond them, every one answers.
    #[derive(Clone, Copy)]
    enum Dns {
        Answers,
        Fails,
        Hangs,
    }

    struct Script {
        names: Names,
        asked: Arc<AtomicUsize>,
        /// Dropped, it ends those that hang, with a failure.
        hanging: mpsc::Sender<()>,
    }

    fn script(acts: impl Fn(usize) -> Dns + Send + Sync + 'static) -> Script {
        let (asked, (hanging, hang)) = (Arc::new(AtomicUsize::new(0)), mpsc::channel::<()>());
        let (count, hang) = (asked.clone(), Arc::new(Mutex::new(hang)));
        let lookup = move |name: &str| {
            assert_eq!(name, "gse.example");
            match acts(count.fetch_add(1, Ordering::SeqCst)) {
                Dns::Answers => Ok(vec![SocketAddr::from(([192, 0, 2, 7], 0))]),
                Dns::Fails => Err(io::Error::other("no such name")),
                Dns::Hangs => {
                    let _ = hang.lock().unwrap().recv();
                    Err(io::Error::other("given up"))
                }
            }
        };
        Script { names: Names::with(Arc::new(lookup), SHORT), asked, hanging }
    }

    impl Script {
        async fn ask(&self) -> io::Result<Addresses> {
            self.names.addresses("gse.example").await
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn a_failure_is_told_at_once_and_not_remembered() {
        let script = script(|n| if n == 0 { Dns::Fails } else { Dns::Answers });
        assert_eq!(script.ask().await.unwrap_err().to_string(), "no such name");
        assert_eq!(script.ask().await.unwrap()[0].ip().to_string(), "192.0.2.7");
        assert_eq!(script.ask().await.unwrap().len(), 1);
        assert_eq!(script.asked(), 3);
    }

    #[tokio::test]
    async fn lookups_that_hang_keep_nobody_from_a_newer_ones_answer() {
        let script = script(|n| if n < 3 { Dns::Hangs } else { Dns::Answers });
        let began = Instant::now();
        for answer in join_all((0..50).map(|_| script.ask())).await {
            assert_eq!(answer.unwrap().len(), 1);
        }
        assert_eq!(script.asked(), 4);
        assert!(began.elapsed() >= 3 * SHORT);
        let Script { names, hanging, .. } = script;
        drop(hanging);
        let deadline = Instant::now() + Duration::from_secs(10);
        while names.entries()["gse.example"].under_way > 0 {
            assert!(Instant::now() < deadline);
            tokio::time::sleep(SHORT / 10).await;
        }
        assert_eq!(names.addresses("gse.example").await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_is_known_serves_when_there_is_no_answer_and_is_waited_for_once() {
        let script = script(|n| if n == 0 { Dns::Answers } else { Dns::Hangs });
        script.ask().await.unwrap();
        let began = Instant::now();
        script.ask().await.unwrap();
        assert!(began.elapsed() >= SHORT);
        let began = Instant::now();
        for _ in 0..1000 {
            script.ask().await.unwrap();
        }
        // Nobody has waited again.
        assert!(began.elapsed() < 1000 * SHORT / 10, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn lookups_are_bounded_however_long_they_hang() {
        let script = script(|_| Dns::Hangs);
        let asked = async { join_all((0..50).map(|_| script.ask())).await };
        assert!(timeout(SHORT * (MOST as u32 + 10), asked).await.is_err());
        assert!((2..=MOST).contains(&script.asked()), "{}", script.asked());
    }
}
