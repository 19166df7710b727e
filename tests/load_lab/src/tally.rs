use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Why a login did not become one.
#[derive(Debug)]
pub enum Missed {
    /// By a limit that the broker named.
    Refused(String),
    /// By the instance or the cloud, which the broker told.
    Failed(String),
    Lost(String),
}

impl Missed {
    pub fn lost(why: impl Into<String>) -> Self {
        Self::Lost(why.into())
    }

    /// By the code in the broker's sentence.
    pub fn by_sentence(sentence: &str) -> Self {
        let code = |codes: &[&str]| codes.iter().find(|code| sentence.contains(&format!("[{code},"))).map(|code| (*code).to_owned());
        if let Some(code) = code(&["broker-busy", "api-throttled"]) {
            return Self::Refused(code);
        }
        // So the broker says that an instance is gone in the middle of a session.
        if sentence.contains("the other side closed the connection") {
            return Self::Failed("instance-left".to_owned());
        }
        let failures = ["instance-unreachable", "instance-login", "instance-hostkey", "api-unavailable"];
        code(&failures).map_or_else(|| Self::lost(sentence.chars().take(160).collect::<String>()), Self::Failed)
    }
}

/// What became of many logins.
#[derive(Default)]
pub struct Tally(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    times: Vec<Duration>,
    refused: BTreeMap<String, u64>,
    failed: BTreeMap<String, u64>,
    lost: BTreeMap<String, u64>,
}

impl Tally {
    pub fn count(&self, took: Duration, became: Result<(), Missed>) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (map, why) = match became {
            Ok(()) => return counts.times.push(took),
            Err(Missed::Refused(why)) => (&mut counts.refused, why),
            Err(Missed::Failed(why)) => (&mut counts.failed, why),
            Err(Missed::Lost(why)) => (&mut counts.lost, why),
        };
        *map.entry(why).or_default() += 1;
    }

    pub fn done(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).times.len()
    }

    /// What no limit refused and no fault that was made explains; `faults` is how many instances were made to leave.
    pub fn lost(&self, faults: u64) -> u64 {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let by_instances = counts.failed.iter().filter(|(why, _)| why.starts_with("instance-")).map(|(_, count)| count);
        counts.lost.values().sum::<u64>() + by_instances.sum::<u64>().saturating_sub(faults)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.times.sort_unstable();
        let at = |share: f64| {
            let index = (counts.times.len().saturating_sub(1) as f64 * share) as usize;
            counts.times.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        write!(f, "{} done, p50 {:.1} ms, p99 {:.1} ms, longest {:.0} ms", counts.times.len(), at(0.5), at(0.99), at(1.0))?;
        for (what, map) in [("refused", &counts.refused), ("failed", &counts.failed), ("LOST", &counts.lost)] {
            for (why, count) in map {
                write!(f, "; {what} {count} ({why})")?;
            }
        }
        Ok(())
    }
}
