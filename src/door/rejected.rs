use crate::access::Operator;
use crate::audit::{Audit, Event, Subject};

/// Sentences that one connection is being told at once. Each costs a stream and some seconds; what is opened beyond is merely rejected.
pub(super) const REFUSALS: usize = 16;

/// Opens of a connection that were rejected without a sentence.
///
/// They are in the audit as a number: at the first, whenever it has doubled, and at the connection's end. An event for each would let one
/// operator fill the queue that all share.
#[derive(Debug, Default)]
pub(super) struct Rejected {
    count: u64,
    told: u64,
    by: Option<Subject>,
}

impl Rejected {
    pub(super) fn note(&mut self, audit: &Audit, operator: &Operator, typed: &str) {
        self.count += 1;
        let subject = Subject::operator(operator);
        if self.count.is_power_of_two() && audit.try_record(&subject, self.event(Some(typed))).is_ok() {
            self.told = self.count;
        }
        self.by.get_or_insert(subject);
    }

    fn event(&self, typed: Option<&str>) -> Event {
        let reason = format!("more than {REFUSALS} had to be refused at once on this connection: {} were not told why", self.count);
        Event::ChannelRefused { kind: "direct-tcpip".into(), what: typed.map(Into::into), by: "broker", reason: reason.as_str().into() }
    }

    /// What the audit does not know yet.
    pub(super) fn rest(self) -> Option<(Subject, Event)> {
        let event = self.event(None);
        self.by.filter(|_| self.told < self.count).map(|by| (by, event))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::samples;

    #[test]
    fn a_thousand_rejections_are_eleven_lines_with_their_sum() {
        let operator = samples::operator("alice");
        let (audit, _writer) = Audit::with_sink(Box::new(std::io::sink()), 100);
        let mut rejected = Rejected::default();
        for _ in 0..1000 {
            rejected.note(&audit, &operator, "x");
        }
        assert_eq!(rejected.told, 512);
        let (_, event) = rejected.rest().unwrap();
        assert!(format!("{event:?}").contains("1000 were not told why"), "{event:?}");
        let mut one = Rejected::default();
        one.note(&audit, &operator, "x");
        assert!(one.rest().is_none() && Rejected::default().rest().is_none());
    }
}
