use super::SessionRunner;
use super::trail::Owed;
use crate::access::{Failure, Grant, RecordMode};
use crate::audit::{Event, Subject, Text};
use crate::recording::{Closed, Start, Tape, Track};

impl SessionRunner {
    /// Begins the recording that the grant asks for. An error when there must be one and cannot.
    pub(super) async fn record(&self, grant: &Grant, typed: &str, subject: &Subject, owed: &mut Owed) -> Result<Option<Tape>, Failure> {
        let terms = grant.recording();
        if terms.mode == RecordMode::Off {
            return Ok(None);
        }
        let required = terms.mode == RecordMode::Required;
        match Tape::begin(&self.recorder, terms, subject, typed).await {
            Ok(tape) => {
                owed.push((subject.clone(), tape.begun()));
                Ok(Some(tape))
            }
            Err(failure) => {
                let reason = Text::new(failure.chain().as_bytes());
                owed.push((subject.clone(), Event::RecordingFailed { reason, required }));
                if required { Err(failure) } else { Ok(None) }
            }
        }
    }
}

/// Ends the recording of what does not begin after all, so that the audit has its end as it has its start.
pub(super) async fn end_unused(tape: Option<Tape>, subject: &Subject, owed: &mut Owed) {
    if let Some(tape) = tape
        && let Some(event) = tape.finish().await
    {
        owed.push((subject.clone(), event));
    }
}

/// The recording of a raw forward: one flow.
#[derive(Default)]
pub(super) struct Flow {
    tape: Option<Tape>,
    track: Option<Box<Track>>,
    events: Vec<Event>,
}

impl Flow {
    pub(super) fn begin(tape: Option<Tape>, kind: &str, destination: &str) -> Self {
        let mut flow = Self { tape, ..Self::default() };
        if let Some(tape) = &mut flow.tape {
            tape.start(&mut flow.track, Start { channel: 1, kind, what: Some(destination), pty: None });
        }
        flow
    }

    /// Why the forward ends: it must be recorded, and is not any more.
    pub(super) async fn lost(&mut self) -> String {
        let Some(tape) = &mut self.tape else { return std::future::pending().await };
        loop {
            let lost = tape.lost().await;
            self.events.push(lost.event);
            if lost.sentence.is_some() {
                return lost.reason;
            }
        }
    }

    /// What the audit has to know.
    pub(super) async fn end(mut self, bytes_up: u64, bytes_down: u64) -> Vec<Event> {
        if let Some(mut tape) = self.tape {
            if let Some(track) = self.track {
                self.events.extend(tape.end(*track, Closed { bytes_up, bytes_down, ..Closed::default() }));
            }
            self.events.extend(tape.finish().await);
        }
        self.events
    }
}
