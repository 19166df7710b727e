use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::*;
use crate::access::{Code, RecordMode, Recording, Reference};
use crate::audit::{Event, Subject};

fn recorder(dir: &Path) -> Recorder {
    Recorder::start(Config { dir: dir.join("recordings"), queue: 1 << 20 }).unwrap().0
}

fn subject() -> Subject {
    Subject { reference: Some(Reference::from_random(0xab_cdef)), operator: Some("alice".into()), ..Subject::default() }
}

async fn tape(recorder: &Recorder, mode: RecordMode) -> Tape {
    Tape::begin(recorder, Recording { mode, input: false }, &subject(), "ins-a").await.unwrap()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let days = fs::read_dir(dir.join("recordings")).unwrap();
    let mut files: Vec<_> = days.flat_map(|day| fs::read_dir(day.unwrap().path()).unwrap()).map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn terminal() -> Pty {
    Pty { term: "xterm".to_owned(), columns: 0, rows: 0 }
}

fn start(channel: u32, pty: Option<&Pty>) -> Start<'_> {
    Start { channel, kind: "shell", what: None, pty }
}

/// Waits for room, as the pump does.
async fn room(tape: &mut Tape) -> Result<(), Box<Lost>> {
    std::future::poll_fn(|cx| match tape.poll(cx) {
        Err(lost) => std::task::Poll::Ready(Err(lost)),
        Ok(()) if tape.has_room() => std::task::Poll::Ready(Ok(())),
        Ok(()) => std::task::Poll::Pending,
    })
    .await
}

#[tokio::test]
async fn a_session_that_fills_its_queue_waits_and_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = recorder(dir.path());
    let mut tape = tape(&recorder, RecordMode::Required).await;
    let (pty, mut track) = (terminal(), None);
    assert!(matches!(tape.start(&mut track, start(1, Some(&pty))), Some(Event::RecordingStarted { channel: Some(1), .. })));
    let mut track = track.unwrap();
    let mut said = 0;
    for _ in 0..200 {
        room(&mut tape).await.unwrap();
        tape.data(&mut track, Stream::Output, &[0x1b; 30_000]);
        said += 30_000;
    }
    let Some(Event::RecordingEnded { bytes, .. }) = tape.end(*track, Closed::default()) else { panic!() };
    assert!(matches!(tape.finish().await, Some(Event::RecordingEnded { channel: None, .. })));
    let cast = files(dir.path()).into_iter().find(|file| file.extension().unwrap() == "cast").unwrap();
    let text = fs::read_to_string(cast).unwrap();
    assert_eq!(text.len() as u64, bytes);
    assert!(text.starts_with(r#"{"version":2,"width":80,"height":24,"#), "{}", &text[..100]);
    let events = text.lines().skip(1).map(|line| serde_json::from_str::<(f64, String, String)>(line).unwrap());
    assert_eq!(events.map(|event| event.2.len()).sum::<usize>(), said);
}

#[tokio::test]
async fn more_files_than_descriptors_are_all_complete() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = recorder(dir.path());
    let mut tape = tape(&recorder, RecordMode::BestEffort).await;
    let pty = terminal();
    let mut tracks = Vec::new();
    for channel in 0..300 {
        let mut track = None;
        tape.start(&mut track, start(channel, Some(&pty)));
        tracks.push(track.unwrap());
    }
    for round in 0..3 {
        room(&mut tape).await.unwrap();
        for track in &mut tracks {
            tape.data(track, Stream::Output, format!("round {round};").as_bytes());
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let open = fs::read_dir("/proc/self/fd").unwrap().filter(|fd| {
            let target = fs::read_link(fd.as_ref().unwrap().path()).unwrap_or_default();
            target.starts_with(dir.path())
        });
        assert!(open.count() <= 128);
    }
    for track in tracks {
        tape.end(*track, Closed::default());
    }
    tape.finish().await;
    let files = files(dir.path());
    assert_eq!(files.len(), 301);
    for file in files.iter().filter(|file| file.extension().unwrap() == "cast") {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.contains("round 0;") && text.contains("round 1;") && text.ends_with("round 2;\"]\n"), "{text}");
    }
}

#[tokio::test]
async fn a_file_that_goes_missing_ends_what_must_be_recorded_and_only_that() {
    for mode in [RecordMode::Required, RecordMode::BestEffort] {
        let dir = tempfile::tempdir().unwrap();
        let recorder = recorder(dir.path());
        let mut tape = tape(&recorder, mode).await;
        fs::remove_dir_all(dir.path().join("recordings")).unwrap();
        fs::write(dir.path().join("recordings"), "in the way").unwrap();
        let (pty, mut track) = (terminal(), None);
        tape.start(&mut track, start(1, Some(&pty)));
        tape.data(track.as_mut().unwrap(), Stream::Output, b"recorded");
        assert!(tape.shows().load(Relaxed));
        let lost = room(&mut tape).await.unwrap_err();
        let required = mode == RecordMode::Required;
        assert!(matches!(lost.event, Event::RecordingFailed { required: told, .. } if told == required));
        assert_eq!(lost.sentence.is_some(), required);
        assert!(lost.reason.contains("recordings"), "{}", lost.reason);
        // What goes on is not recorded any more.
        assert!(tape.has_room() && room(&mut tape).await.is_ok());
        let mut track = track.unwrap();
        tape.data(&mut track, Stream::Output, b"unrecorded");
        assert!(!tape.shows().load(Relaxed));
        assert!(tape.end(*track, Closed::default()).is_none() && tape.finish().await.is_none());
        let refused = Tape::begin(&recorder, Recording { mode, input: false }, &subject(), "ins-a").await.err().unwrap();
        assert_eq!(refused.code, Code::RecordingFailed);
    }
}

#[tokio::test]
async fn a_refused_request_leaves_one_terminal_one_file() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = recorder(dir.path());
    let mut tape = tape(&recorder, RecordMode::Required).await;
    let (pty, mut track) = (terminal(), None);
    for _ in 0..50 {
        tape.start(&mut track, start(1, Some(&pty)));
    }
    tape.end(*track.unwrap(), Closed::default());
    tape.finish().await;
    assert_eq!(files(dir.path()).len(), 2);
}

#[tokio::test]
async fn a_stream_that_cannot_be_followed_is_said_and_ends_what_must_be_recorded() {
    for (mode, ends) in [(RecordMode::Required, true), (RecordMode::BestEffort, false)] {
        let dir = tempfile::tempdir().unwrap();
        let recorder = recorder(dir.path());
        let (mut tape, mut track) = (tape(&recorder, mode).await, None);
        tape.start(&mut track, Start { channel: 3, kind: "subsystem", what: Some("sftp"), pty: None });
        let mut track = track.unwrap();
        tape.data(&mut track, Stream::Errors, b"a warning");
        tape.data(&mut track, Stream::Input, b"GET / HTTP/1.1\r\n");
        tape.data(&mut track, Stream::Input, b"and so on");
        assert_eq!(room(&mut tape).await.is_err(), ends);
        tape.end(*track, Closed::default());
        tape.finish().await;
        let log = fs::read_to_string(&files(dir.path())[0]).unwrap();
        assert_eq!(log.matches(r#""op":"unparsed""#).count(), 1, "{log}");
    }
}

#[tokio::test]
async fn what_comes_for_a_terminal_is_told_apart_from_what_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let recorder = recorder(dir.path());
    let mut tape = tape(&recorder, RecordMode::BestEffort).await;
    let (pty, mut terminal, mut sftp) = (terminal(), None, None);
    tape.start(&mut terminal, start(1, Some(&pty)));
    tape.start(&mut sftp, Start { channel: 2, kind: "subsystem", what: Some("sftp"), pty: None });
    let (mut terminal, mut sftp) = (terminal.unwrap(), sftp.unwrap());
    let shows = tape.shows();
    let after = |tape: &mut Tape, track: &mut Track, stream| {
        tape.data(track, stream, b"\0");
        shows.load(Relaxed)
    };
    assert!(after(&mut tape, &mut terminal, Stream::Output));
    assert!(after(&mut tape, &mut sftp, Stream::Input), "what goes to the instance says nothing of what comes");
    assert!(!after(&mut tape, &mut sftp, Stream::Output));
    assert!(after(&mut tape, &mut terminal, Stream::Errors));
}
