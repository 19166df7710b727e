use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crate::access::{Failure, Lease, Target, TargetName};
use crate::audit::{Audit, AuditError, Event, Subject, Text};
use crate::broker::{BoxFuture, Witness};

/// Collects what an opening learns; it is written to the audit before the operator is let in or refused.
pub(super) struct Trail {
    audit: Audit,
    typed: Text,
    client: Text,
    base: Mutex<Subject>,
    events: Mutex<VecDeque<(Subject, Event)>>,
}

impl Trail {
    pub(super) fn new(audit: &Audit, subject: Subject, typed: &str, client_version: &str) -> Self {
        Self {
            audit: audit.clone(),
            typed: Text::new(typed.as_bytes()),
            client: Text::new(client_version.as_bytes()),
            base: Mutex::new(subject),
            events: Mutex::default(),
        }
    }

    /// What was learned, for the audit to take.
    pub(super) fn into_owed(self) -> Owed {
        Owed { audit: self.audit, events: self.events.into_inner().unwrap_or_else(PoisonError::into_inner) }
    }

    fn push(&self, subject: Subject, event: Event) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push_back((subject, event));
    }

    fn subject(&self, target: &Target) -> Subject {
        let mut subject = self.base.lock().unwrap_or_else(PoisonError::into_inner).clone();
        subject.set_target(target);
        subject
    }
}

impl Witness for Trail {
    fn started<'a>(&'a self, name: &'a TargetName) -> BoxFuture<'a, Result<(), Failure>> {
        Box::pin(async {
            let mut subject = self.base.lock().unwrap_or_else(PoisonError::into_inner).clone();
            subject.target = Some(name.instance.as_str().into());
            subject.fleet = name.fleet.as_ref().map(|fleet| fleet.as_str().into());
            let event = Event::SessionStarted { typed: self.typed.clone(), client: self.client.clone() };
            Ok(self.audit.record_durably(&subject, event, Audit::PATIENCE).await?)
        })
    }

    fn leased(&self, lease: &Lease, cached: bool) {
        let mut base = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        base.set_lease(lease);
        if !cached {
            self.push(base.clone(), Event::lease_fetched(lease));
        }
    }

    fn host_key_pinned(&self, target: &Target, fingerprint: &str) {
        self.push(self.subject(target), Event::HostKeyPinned { fingerprint: fingerprint.into() });
    }

    fn host_key_mismatch(&self, target: &Target, pinned: &str, offered: &str) {
        self.push(self.subject(target), Event::HostKeyMismatch { pinned: pinned.into(), offered: offered.into() });
    }
}

/// Events that the audit has not taken yet, in order.
pub(super) struct Owed {
    audit: Audit,
    events: VecDeque<(Subject, Event)>,
}

impl Owed {
    pub(super) fn nothing(audit: &Audit) -> Self {
        Self { audit: audit.clone(), events: VecDeque::new() }
    }

    pub(super) fn push(&mut self, (subject, event): (Subject, Event)) {
        self.events.push_back((subject, event));
    }

    /// As far as there is room.
    pub(super) fn record_now(&mut self) {
        while let Some((subject, event)) = self.events.front()
            && self.audit.try_record(subject, event.clone()).is_ok()
        {
            self.events.pop_front();
        }
    }

    /// All of it, and at last that it is open; or why there will be no session, which then has not been open.
    pub(super) async fn record_opened(&mut self, opened: (Subject, Event)) -> Result<(), Failure> {
        self.events.push_back(opened);
        let recorded = self.record_in_time().await;
        if recorded.is_err() {
            self.events.pop_back();
        }
        recorded
    }

    async fn record_in_time(&mut self) -> Result<(), Failure> {
        let recorded = tokio::time::timeout(Audit::PATIENCE, async {
            while let Some((subject, event)) = self.events.front() {
                self.audit.record(subject, event.clone()).await?;
                self.events.pop_front();
            }
            Ok(())
        });
        Ok(recorded.await.unwrap_or(Err(AuditError::Stalled(Audit::PATIENCE)))?)
    }

    /// However long it takes: nobody waits for it but this session's place under the limits.
    pub(super) async fn record_rest(self) {
        for (subject, event) in self.events {
            self.audit.tell(&subject, event, "what became of an opening").await;
        }
    }
}
