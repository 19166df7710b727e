use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::broken;
use crate::access::{Failure, Lease, Target};
use crate::audit::{Audit, Event, Subject};
use crate::broker::Witness;

/// Collects what an opening learns; it is written to the audit before the operator is let in or refused.
pub(super) struct Trail {
    base: Mutex<Subject>,
    events: Mutex<Vec<(Subject, Event)>>,
}

impl Trail {
    pub(super) fn new(subject: Subject) -> Self {
        Self { base: Mutex::new(subject), events: Mutex::default() }
    }

    pub(super) async fn flush(self, audit: &Audit) -> Result<(), Failure> {
        for (subject, event) in self.events.into_inner().unwrap_or_else(PoisonError::into_inner) {
            audit.record(&subject, event).await.map_err(|error| broken("its audit cannot be written").because(error))?;
        }
        Ok(())
    }

    fn push(&self, subject: Subject, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push((subject, event));
    }

    fn subject(&self, target: &Target) -> Subject {
        let mut subject = self.base.lock().unwrap_or_else(PoisonError::into_inner).clone();
        subject.set_target(target);
        subject
    }
}

impl Witness for Trail {
    fn leased(&self, lease: &Lease, cached: bool) {
        let mut subject = self.subject(&lease.target);
        subject.login = Some(lease.login.as_str().into());
        subject.request_id = Some(lease.request_id.as_str().into());
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = subject.clone();
        if !cached {
            let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
            self.push(subject, Event::LeaseFetched { quota_ms: ms(lease.quota_wait), api_ms: ms(lease.api_time) });
        }
    }

    fn host_key_pinned(&self, target: &Target, fingerprint: &str) {
        self.push(self.subject(target), Event::HostKeyPinned { fingerprint: fingerprint.into() });
    }

    fn host_key_mismatch(&self, target: &Target, pinned: &str, offered: &str) {
        self.push(self.subject(target), Event::HostKeyMismatch { pinned: pinned.into(), offered: offered.into() });
    }
}
