use crate::access::OperatorName;
use crate::audit::{Audit, AuditError, Event, Subject};

use super::rejected::Rejected;

/// Offers of keys that could prove the operator. A client asks about each of its keys once, and uses the first.
const MOST_OFFERED: usize = 64;

/// What a connection leaves for the audit when nobody was proven, and how often it failed to prove somebody.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    pub(super) claimed: Option<String>,
    pub(super) reason: Option<String>,
    failed: usize,
    /// Keys that were offered, could prove the operator, and were not used.
    offered: usize,
    /// A proven operator's event that the audit has no room for yet: no session begins until it is there.
    pub(super) owed: Option<(Subject, Event)>,
    pub(super) rejected: Rejected,
}

/// The connection is to end: it has tried often enough, or changed its user's name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Over;

impl Attempts {
    /// A request to be let in as this user, if there may be another one; whether it is the connection's first. The first user name counts
    /// for the whole connection; another one ends it (RFC 4252, 5).
    pub(super) fn begin(&mut self, user: &str, most: usize) -> Result<bool, Over> {
        if self.failed >= most || self.offered >= MOST_OFFERED {
            return Err(Over);
        }
        let user = user.chars().take(OperatorName::MAX_LEN * 2);
        match &self.claimed {
            None => {
                self.claimed = Some(user.collect());
                Ok(true)
            }
            Some(claimed) if claimed.chars().eq(user) => Ok(false),
            Some(_) => {
                self.reason = Some("the user name changed during authentication".to_owned());
                Err(Over)
            }
        }
    }

    pub(super) fn fail(&mut self) {
        self.failed += 1;
    }

    pub(super) fn offer(&mut self) {
        self.offered += 1;
    }

    /// Writes what the audit had no room for.
    pub(super) fn settle(&mut self, audit: &Audit) -> Result<(), AuditError> {
        if let Some((subject, event)) = &self.owed {
            audit.try_record(subject, event.clone())?;
            self.owed = None;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_and_requests_that_fail_nothing_are_not() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.begin("alice", 2), Ok(true));
        for _ in 0..10 {
            assert_eq!(attempts.begin("alice", 2), Ok(false));
        }
        attempts.fail();
        assert_eq!(attempts.begin("alice", 2), Ok(false));
        attempts.fail();
        assert_eq!(attempts.begin("alice", 2), Err(Over));
        assert!(attempts.reason.is_none());
    }

    #[test]
    fn offers_without_an_end_end() {
        let mut attempts = Attempts::default();
        let taken = (0..1000).take_while(|_| attempts.begin("alice", 2).is_ok_and(|_| (attempts.offer(), true).1)).count();
        assert_eq!(taken, MOST_OFFERED);
    }

    #[test]
    fn the_first_name_is_for_the_whole_connection() {
        let mut attempts = Attempts::default();
        let long = "a".repeat(300);
        assert_eq!(attempts.begin(&long, 6), Ok(true));
        assert_eq!(attempts.claimed.as_ref().map(String::len), Some(128));
        assert_eq!(attempts.begin("alice", 6), Err(Over));
        assert_eq!(attempts.reason.as_deref(), Some("the user name changed during authentication"));
    }
}
