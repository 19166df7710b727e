use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::rand;
use serde::Serialize;

use super::cast::{Cast, Header, Pty};
use super::operation::{Cut, Operation, entry_line};
use super::queue::{Account, Feeder};
use super::track::{Body, Track};
use super::{Recorder, operation};
use crate::access::{Code, Failure, RecordMode, Recording, Reference};
use crate::audit::{Event, Subject, Text};

/// For the first file to be there, and for the last bytes to be written.
const WRITER: Duration = Duration::from_secs(5);
/// A disk that takes nothing for so long has failed.
const STALLED: Duration = Duration::from_secs(10);

/// What a channel is used for, as it is known.
#[derive(Debug, Clone, Copy)]
pub struct Start<'a> {
    pub channel: u32,
    /// `shell`, `exec`, `subsystem`, or the type of a forwarding channel.
    pub kind: &'a str,
    pub what: Option<&'a str>,
    pub pty: Option<&'a Pty>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    Input,
    Output,
    Errors,
}

/// How a channel ended.
#[derive(Debug, Clone, Copy, Default)]
pub struct Closed<'a> {
    pub bytes_up: u64,
    pub bytes_down: u64,
    pub exit_status: Option<u32>,
    pub exit_signal: Option<&'a str>,
}

/// A recording has failed.
#[derive(Debug)]
pub struct Lost {
    pub event: Event,
    /// What the operator reads when the session must be recorded, and so ends.
    pub sentence: Option<String>,
    pub reason: String,
}

/// The recording of one session.
pub struct Tape {
    recorder: Recorder,
    account: Arc<Account>,
    /// The session's own file.
    log: Option<Feeder>,
    name: String,
    date: String,
    terms: Recording,
    title: String,
    typed: String,
    reference: Reference,
    began: Instant,
    stalled: Option<Instant>,
    /// Why it is worth nothing any more, though the disk takes it.
    spoilt: Option<String>,
    /// Whether the last that came was for a terminal to show.
    shows: Arc<AtomicBool>,
}

/// The first line of a session's own file.
#[derive(Serialize)]
struct Head<'a> {
    version: u8,
    ts: String,
    #[serde(flatten)]
    subject: &'a Subject,
}

impl Tape {
    /// Begins the recording of a session with its own file, which is there when this returns.
    pub async fn begin(recorder: &Recorder, terms: Recording, subject: &Subject, typed: &str) -> Result<Self, Failure> {
        let reference = subject.shown_reference();
        let now = jiff::Timestamp::now();
        let date = now.strftime("%Y-%m-%d").to_string();
        let name = random().map(|random| format!("{date}/{reference}-{random}.jsonl")).map_err(failed)?;
        let account = recorder.account(terms.mode == RecordMode::Required);
        let head = Head { version: 1, ts: format!("{now:.3}"), subject };
        let head = serde_json::to_vec(&head).map_err(|error| failed(error.to_string()))?;
        let log = recorder.file(&account, &name, &head);
        let opened = poll_fn(|cx| {
            account.waker.register(cx.waker());
            match account.failure() {
                Some(reason) => Poll::Ready(Err(reason.to_owned())),
                None if account.is_open() => Poll::Ready(Ok(())),
                // The writer wakes who waits for room.
                None if recorder.queue().await_room(&account) => Poll::Ready(Ok(())),
                None => Poll::Pending,
            }
        });
        match tokio::time::timeout(WRITER, opened).await {
            Ok(Ok(())) => {}
            Ok(Err(reason)) => return Err(failed(reason)),
            Err(_) => return Err(failed("the disk does not answer".to_owned())),
        }
        let who = |name: &Option<Arc<str>>| name.as_deref().unwrap_or("?").to_owned();
        Ok(Self {
            recorder: recorder.clone(),
            title: format!("{} on {} ({}), {reference}", who(&subject.operator), who(&subject.target), who(&subject.fleet)),
            account,
            log: Some(log),
            name,
            date,
            terms,
            typed: typed.to_owned(),
            reference,
            began: Instant::now(),
            stalled: None,
            spoilt: None,
            shows: Arc::default(),
        })
    }

    /// Whether the last that came from the instance was for a terminal to show.
    pub fn shows(&self) -> Arc<AtomicBool> {
        self.shows.clone()
    }

    /// For the audit, when the session begins.
    pub fn begun(&self) -> Event {
        Event::RecordingStarted { channel: None, file: Text::new(self.name.as_bytes()) }
    }

    /// A channel begins. One that begins again, because its first request was refused, stays the terminal that it is.
    pub fn start(&mut self, track: &mut Option<Box<Track>>, start: Start<'_>) -> Option<Event> {
        self.log.as_ref()?;
        if let Some(Track { channel, body: Body::Cast(_), .. }) = track.as_deref() {
            let again = Operation { op: "again", path: start.what.unwrap_or_default().to_owned(), ..Operation::default() };
            self.tell(*channel, again);
            return None;
        }
        if let Some(before) = track.take() {
            self.end(*before, Closed::default());
        }
        let cast = match start.pty.map(|pty| self.cast(&start, pty)) {
            Some(Ok(cast)) => Some(cast),
            Some(Err(reason)) => {
                self.spoilt = Some(reason);
                return None;
            }
            None => None,
        };
        let event =
            cast.as_ref().map(|cast| Event::RecordingStarted { channel: Some(start.channel), file: Text::new(cast.name.as_bytes()) });
        let begun = Track::new(&start, self.began.elapsed(), cast);
        self.tell(start.channel, begun.first_line());
        *track = Some(Box::new(begun));
        event
    }

    fn cast(&self, start: &Start<'_>, pty: &Pty) -> Result<Cast, String> {
        let name = format!("{}/{}-{}-{}.cast", self.date, self.reference, start.channel, random()?);
        let timestamp = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let header = Header::new(pty, timestamp, format!("{}/{}", self.title, start.channel), start.what);
        let feeder = self.recorder.file(&self.account, &name, &header.line());
        Ok(Cast::new(name, feeder))
    }

    /// Bytes pass in a channel.
    pub fn data(&mut self, track: &mut Track, stream: Stream, bytes: &[u8]) {
        if self.log.is_none() {
            return;
        }
        let at = self.began.elapsed();
        if stream != Stream::Input {
            self.shows.store(matches!(track.body, Body::Cast(_)), Ordering::Relaxed);
        }
        if let Body::Cast(cast) = &mut track.body {
            let at = at.saturating_sub(track.began);
            match stream {
                Stream::Input if self.terms.input => cast.input(at, bytes),
                Stream::Input => {}
                Stream::Output | Stream::Errors => cast.output(at, bytes),
            }
            return;
        }
        let mut told = Vec::new();
        let followed = track.follow(stream, bytes, &mut |operation| told.push(operation));
        told.into_iter().for_each(|operation| self.tell(track.channel, operation));
        if let Err(operation::Unparsed(reason)) = followed {
            track.body = Body::Flow;
            self.tell(track.channel, Operation { op: "unparsed", result: reason.to_owned(), ..Operation::default() });
            if self.terms.mode == RecordMode::Required {
                self.spoilt = Some(reason.to_owned());
            }
        }
    }

    pub fn resized(&mut self, track: &mut Track, columns: u32, rows: u32) {
        if let Body::Cast(cast) = &mut track.body
            && self.log.is_some()
        {
            cast.resized(self.began.elapsed().saturating_sub(track.began), columns, rows);
        }
    }

    /// A channel ends.
    pub fn end(&mut self, mut track: Track, closed: Closed<'_>) -> Option<Event> {
        self.log.as_ref()?;
        let mut told = Vec::new();
        let last = track.end(self.began.elapsed(), &closed, &mut |operation| told.push(operation));
        told.into_iter().for_each(|operation| self.tell(track.channel, operation));
        self.tell(track.channel, last);
        let Body::Cast(cast) = &track.body else { return None };
        Some(Event::RecordingEnded { channel: Some(track.channel), file: Text::new(cast.name.as_bytes()), bytes: cast.feeder.complete() })
    }

    fn tell<T: Serialize + Cut>(&self, channel: u32, what: T) {
        if let Some(log) = &self.log {
            let line = entry_line(self.began.elapsed().as_secs_f64(), channel, what);
            log.append(|lines| lines.line(&line));
        }
    }

    /// Whether more may pass.
    pub fn has_room(&self) -> bool {
        self.log.is_none() || self.recorder.queue().has_room(&self.account)
    }

    /// Looks for a failure and asks to be woken when there may be room again.
    pub fn poll(&mut self, cx: &Context<'_>) -> Result<(), Box<Lost>> {
        if self.log.is_none() {
            return Ok(());
        }
        self.account.waker.register(cx.waker());
        if self.has_room() || self.recorder.queue().await_room(&self.account) {
            self.stalled = None;
        } else if self.stalled.get_or_insert_with(Instant::now).elapsed() > STALLED {
            self.account.fail("the disk does not answer".to_owned());
        }
        match self.account.failure().map(str::to_owned).or_else(|| self.spoilt.take()) {
            Some(reason) => Err(Box::new(self.give_up(reason))),
            None => Ok(()),
        }
    }

    /// Until it has failed, for what passes beside it.
    pub async fn lost(&mut self) -> Box<Lost> {
        poll_fn(|cx| match self.poll(cx) {
            Ok(()) => Poll::Pending,
            Err(lost) => Poll::Ready(lost),
        })
        .await
    }

    fn give_up(&mut self, reason: String) -> Lost {
        self.log = None;
        self.shows.store(false, Ordering::Relaxed);
        let required = self.terms.mode == RecordMode::Required;
        let event = Event::RecordingFailed { reason: Text::new(reason.as_bytes()), required };
        let sentence = required.then(|| failed(reason.clone()).sentence(&self.typed, self.reference));
        Lost { event, sentence, reason: format!("recording: {reason}") }
    }

    /// The session has ended: waits until everything is written, or has failed.
    pub async fn finish(mut self) -> Option<Event> {
        let bytes = self.log.take().map(|log| log.complete());
        let account = self.account.clone();
        let written = poll_fn(|cx| {
            account.waker.register(cx.waker());
            if account.is_closed() || account.failure().is_some() { Poll::Ready(()) } else { Poll::Pending }
        });
        if tokio::time::timeout(WRITER, written).await.is_err() {
            account.fail("the disk does not answer".to_owned());
        }
        // One that was given up before is told already.
        let bytes = bytes?;
        match account.failure().map(str::to_owned) {
            Some(reason) => Some(self.give_up(reason).event),
            None => Some(Event::RecordingEnded { channel: None, file: Text::new(self.name.as_bytes()), bytes }),
        }
    }
}

/// What the operator reads, and why, for log and audit.
fn failed(reason: String) -> Failure {
    Failure::new(Code::RecordingFailed, "this session must be recorded, and its recording failed").because(reason)
}

fn random() -> Result<String, String> {
    let mut random = [0; 8];
    rand::fill(&mut random).map_err(|_| "no random name for a file".to_owned())?;
    Ok(format!("{:016x}", u64::from_be_bytes(random)))
}
