use std::io::{self, Write};
use std::time::Duration;

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The part of a `session.opened` audit event that the tour shows: how long each phase took, in milliseconds.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Opened {
    /// `ins-…`
    pub target: String,
    pub resolve_ms: f64,
    pub quota_ms: f64,
    pub api_ms: f64,
    pub connect_ms: f64,
    pub kex_ms: f64,
    pub auth_ms: f64,
    pub total_ms: f64,
}

/// An audit sink that passes on `session.opened` and drops all else.
pub struct AuditFeed {
    line: Vec<u8>,
    opened: mpsc::Sender<Opened>,
}

/// The other end of an [`AuditFeed`].
pub struct OpenedEvents(mpsc::Receiver<Opened>);

/// A sink for [`crate::audit::Audit::with_sink`], and what comes out of it.
pub fn feed() -> (AuditFeed, OpenedEvents) {
    let (opened, events) = mpsc::channel(64);
    (AuditFeed { line: Vec::new(), opened }, OpenedEvents(events))
}

impl AuditFeed {
    /// A longer line is none of ours.
    const MAX_LINE: usize = 64 * 1024;

    fn end_line(&mut self) {
        #[derive(Deserialize)]
        struct Kind {
            event: String,
        }
        let line = std::mem::take(&mut self.line);
        if serde_json::from_slice::<Kind>(&line).is_ok_and(|kind| kind.event == "session.opened")
            && let Ok(opened) = serde_json::from_slice(&line)
        {
            // Nobody looking is no reason to hold up the audit.
            let _ = self.opened.try_send(opened);
        }
    }
}

impl Write for AuditFeed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + part.len() <= Self::MAX_LINE {
                self.line.extend_from_slice(part);
            }
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl OpenedEvents {
    /// Forgets what came so far.
    pub(super) fn drain(&mut self) {
        while self.0.try_recv().is_ok() {}
    }

    /// The next session on `target`; `None` when there is none within two seconds.
    pub(super) async fn next(&mut self, target: &str) -> Option<Opened> {
        let wanted = async {
            loop {
                let opened = self.0.recv().await?;
                if opened.target == target {
                    return Some(opened);
                }
            }
        };
        timeout(Duration::from_secs(2), wanted).await.ok().flatten()
    }
}
