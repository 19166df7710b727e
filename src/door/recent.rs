use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::netblock;

/// Sources remembered, and for how long.
const MOST: usize = 4096;
const REMEMBERED: Duration = Duration::from_secs(24 * 3600);

/// Sources that an operator was proven from lately. They have places of their own: a flood from elsewhere does not keep them out.
#[derive(Debug, Default)]
pub(super) struct Recent(Mutex<Sources>);

#[derive(Debug, Default)]
struct Sources {
    since: HashMap<IpAddr, Instant>,
    oldest: BTreeSet<(Instant, IpAddr)>,
}

impl Recent {
    pub(super) fn knows(&self, address: IpAddr, now: Instant) -> bool {
        let sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sources.since.get(&netblock::source(address)).is_some_and(|since| now < *since + REMEMBERED)
    }

    pub(super) fn add(&self, address: IpAddr, now: Instant) {
        let source = netblock::source(address);
        let mut sources = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = sources.since.insert(source, now) {
            sources.oldest.remove(&(before, source));
        }
        sources.oldest.insert((now, source));
        if sources.since.len() > MOST
            && let Some((_, oldest)) = sources.oldest.pop_first()
        {
            sources.since.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_known_for_a_day_and_only_so_many_are() {
        let (recent, start) = (Recent::default(), Instant::now());
        let address = |n: u32| IpAddr::from(n.to_be_bytes());
        recent.add(address(1), start);
        assert!(recent.knows(address(1), start) && !recent.knows(address(2), start));
        assert!(!recent.knows(address(1), start + REMEMBERED));
        for n in 0..5000 {
            recent.add(address(1 << 24 | n), start + Duration::from_millis(u64::from(n) + 1));
            recent.add(address(7), start + Duration::from_millis(u64::from(n) + 1));
        }
        let sources = recent.0.lock().unwrap();
        assert_eq!((sources.since.len(), sources.oldest.len()), (MOST, MOST));
        drop(sources);
        assert!(!recent.knows(address(1), start) && recent.knows(address(7), start) && recent.knows(address(1 << 24 | 4999), start));
    }
}
