use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;

use super::lines::Lines;

/// How long anything waits for the writer when little comes.
const FLUSH: Duration = Duration::from_millis(250);
/// How often the writer looks whether the disk is full while sessions are recorded that must be.
const LOOK: Duration = Duration::from_millis(500);
/// What a file has waiting when the writer is called at once.
const BATCH: usize = 128 * 1024;
/// What a session may have waiting; then it waits itself.
const MOST_OF_A_SESSION: usize = 512 * 1024;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What one session has waiting to be written, and what became of it.
pub(super) struct Account {
    /// A full disk ends the session, whether it has anything to write or not.
    pub(super) required: bool,
    pub(super) waker: AtomicWaker,
    failure: OnceLock<String>,
    waiting: AtomicUsize,
    /// Files that are not there yet.
    unopened: AtomicUsize,
    /// Files that are not complete yet.
    unclosed: AtomicUsize,
    /// Whether the session wants to know of room.
    blocked: AtomicBool,
}

impl Account {
    /// The first reason counts.
    pub(super) fn fail(&self, reason: String) {
        let _ = self.failure.set(reason);
        self.waker.wake();
    }

    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    pub(super) fn is_closed(&self) -> bool {
        self.unclosed.load(SeqCst) == 0
    }

    pub(super) fn is_open(&self) -> bool {
        self.unopened.load(SeqCst) == 0
    }

    /// For the writer: a file's bytes are written (or given up), for the first time or the last.
    pub(super) fn settle(&self, bytes: usize, first: bool, last: bool) {
        self.waiting.fetch_sub(bytes, SeqCst);
        self.unopened.fetch_sub(usize::from(first), SeqCst);
        self.unclosed.fetch_sub(usize::from(last), SeqCst);
        if self.blocked.swap(false, SeqCst) || last {
            self.waker.wake();
        }
    }
}

/// One file on its way to the writer.
pub(super) struct Feed {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    pub(super) account: Arc<Account>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    lines: Lines,
    /// What the accounts know to be waiting.
    counted: usize,
    later: bool,
    urgent: bool,
    /// Nothing more comes.
    closed: bool,
    /// Nothing more is to be taken.
    complete: bool,
}

impl Feed {
    /// For the writer: puts what waits into `out`. `None` when the last was taken: a feed can stand in both lists.
    pub(super) fn take(&self, out: &mut Vec<u8>) -> Option<Taken> {
        let mut state = lock(&self.state);
        if state.complete {
            return None;
        }
        state.complete = state.closed;
        state.lines.take(out);
        let again = state.lines.is_large() && !state.closed;
        (state.later, state.urgent) = (again, false);
        Some(Taken { counted: std::mem::take(&mut state.counted), last: state.closed, again })
    }
}

pub(super) struct Taken {
    /// How much the accounts knew to be waiting.
    pub(super) counted: usize,
    pub(super) last: bool,
    /// Whether to look again soon, if only to free memory.
    pub(super) again: bool,
}

/// The session's end of a [`Feed`]; when it is dropped the file is complete.
pub(super) struct Feeder {
    feed: Arc<Feed>,
    queue: Arc<Queue>,
}

impl Feeder {
    /// A file that the writer makes at once.
    pub(super) fn new(queue: &Arc<Queue>, account: &Arc<Account>, number: u64, path: PathBuf, first_line: &[u8]) -> Self {
        account.unopened.fetch_add(1, SeqCst);
        account.unclosed.fetch_add(1, SeqCst);
        let feed = Arc::new(Feed { number, path, account: account.clone(), state: Mutex::default() });
        let feeder = Self { feed, queue: queue.clone() };
        feeder.change(true, |state| state.lines.line(first_line));
        feeder
    }

    pub(super) fn append(&self, put: impl FnOnce(&mut Lines)) {
        self.change(false, |state| put(&mut state.lines));
    }

    /// Ends the line that is being written to; gives the bytes of the file, those that wait included.
    pub(super) fn complete(&self) -> u64 {
        let mut bytes = 0;
        self.append(|lines| {
            lines.close();
            bytes = lines.written();
        });
        bytes
    }

    fn change(&self, now: bool, change: impl FnOnce(&mut State)) {
        let mut state = lock(&self.feed.state);
        change(&mut state);
        let grown = state.lines.len().saturating_sub(state.counted);
        state.counted += grown;
        self.feed.account.waiting.fetch_add(grown, SeqCst);
        self.queue.waiting.fetch_add(grown, SeqCst);
        if now || state.lines.len() >= BATCH {
            if !std::mem::replace(&mut state.urgent, true) {
                drop(state);
                self.queue.push_urgent(&self.feed);
            }
        } else if !state.urgent && !std::mem::replace(&mut state.later, true) {
            drop(state);
            self.queue.push_later(&self.feed);
        }
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        self.change(true, |state| state.closed = true);
    }
}

/// What waits for the writer, of all sessions.
pub(super) struct Queue {
    lists: Mutex<Lists>,
    called: Condvar,
    waiting: AtomicUsize,
    /// Bytes that may wait in all.
    limit: usize,
}

/// Each feed is at most once in either list, so they are as long as files are being recorded.
#[derive(Default)]
struct Lists {
    urgent: VecDeque<Arc<Feed>>,
    later: Vec<Arc<Feed>>,
    /// When those that may wait are due.
    due: Option<Instant>,
    accounts: Vec<Weak<Account>>,
    look: Option<Instant>,
    stopped: bool,
    abandoned: bool,
}

/// What the writer does next.
pub(super) enum Work {
    Write(Vec<Arc<Feed>>),
    /// Is the disk full? These have to know.
    Look(Vec<Arc<Account>>),
    Stop,
}

impl Queue {
    pub(super) fn new(limit: usize) -> Self {
        Self { lists: Mutex::default(), called: Condvar::new(), waiting: AtomicUsize::new(0), limit }
    }

    /// Registers a session. One whose writer is gone has failed from the beginning.
    pub(super) fn account(&self, required: bool) -> Arc<Account> {
        let account = Arc::new(Account {
            required,
            waker: AtomicWaker::new(),
            failure: OnceLock::new(),
            waiting: AtomicUsize::new(0),
            unopened: AtomicUsize::new(0),
            unclosed: AtomicUsize::new(0),
            blocked: AtomicBool::new(false),
        });
        let mut lists = lock(&self.lists);
        if lists.abandoned {
            account.fail("the recordings' writer has stopped".to_owned());
        }
        lists.accounts.push(Arc::downgrade(&account));
        if lists.look.is_none() {
            lists.look = Some(Instant::now() + LOOK);
            self.called.notify_one();
        }
        account
    }

    /// Whether a session may go on: nothing of its own is unopened, and neither it nor all of them have too much waiting. One that has
    /// nothing waiting always may, so that no session stands still for others alone.
    pub(super) fn has_room(&self, account: &Account) -> bool {
        let waiting = account.waiting.load(SeqCst);
        account.is_open() && waiting < MOST_OF_A_SESSION && (waiting == 0 || self.waiting.load(SeqCst) < self.limit)
    }

    /// A session that has no room asks to be woken when there may be some; `true` when there is by now.
    pub(super) fn await_room(&self, account: &Account) -> bool {
        account.blocked.store(true, SeqCst);
        let has_room = self.has_room(account);
        if !has_room {
            let mut lists = lock(&self.lists);
            if !lists.later.is_empty() {
                lists.due = Some(Instant::now());
                self.called.notify_one();
            }
        }
        has_room
    }

    fn push_urgent(&self, feed: &Arc<Feed>) {
        lock(&self.lists).urgent.push_back(feed.clone());
        self.called.notify_one();
    }

    pub(super) fn push_later(&self, feed: &Arc<Feed>) {
        let mut lists = lock(&self.lists);
        lists.later.push(feed.clone());
        if lists.due.is_none() {
            lists.due = Some(Instant::now() + FLUSH);
            self.called.notify_one();
        }
    }

    pub(super) fn settle(&self, feed: &Feed, bytes: usize, first: bool, last: bool) {
        self.waiting.fetch_sub(bytes, SeqCst);
        feed.account.settle(bytes, first, last);
    }

    /// Waits for work.
    pub(super) fn next(&self) -> Work {
        let mut lists = lock(&self.lists);
        loop {
            let now = Instant::now();
            if lists.stopped || lists.due.is_some_and(|due| due <= now) {
                lists.due = None;
                let mut feeds: Vec<_> = lists.urgent.drain(..).collect();
                feeds.append(&mut lists.later);
                return if feeds.is_empty() && lists.stopped { Work::Stop } else { Work::Write(feeds) };
            }
            if lists.look.is_some_and(|look| look <= now) {
                let live: Vec<_> = lists.accounts.iter().filter_map(Weak::upgrade).collect();
                lists.accounts.retain(|account| account.strong_count() > 0);
                lists.look = (!live.is_empty()).then_some(now + LOOK);
                return Work::Look(live);
            }
            if !lists.urgent.is_empty() {
                return Work::Write(lists.urgent.drain(..).collect());
            }
            let next = [lists.due, lists.look].into_iter().flatten().min();
            lists = match next {
                Some(next) => {
                    let waited = self.called.wait_timeout(lists, next.saturating_duration_since(now));
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.called.wait(lists).unwrap_or_else(PoisonError::into_inner),
            };
        }
    }

    /// Nobody feeds it any more: the writer ends when all is written.
    pub(super) fn stop(&self) {
        lock(&self.lists).stopped = true;
        self.called.notify_one();
    }

    /// The writer has ended, in order or not.
    pub(super) fn abandon(&self) {
        let mut lists = lock(&self.lists);
        lists.abandoned = true;
        for account in lists.accounts.iter().filter_map(Weak::upgrade) {
            account.fail("the recordings' writer has stopped".to_owned());
        }
    }
}
