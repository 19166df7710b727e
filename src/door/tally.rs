use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

/// Permits counted by key, each key up to a limit. Keys nobody holds a permit for take no memory.
#[derive(Debug)]
pub(super) struct Tally<K>(Mutex<HashMap<K, usize>>);

impl<K: Hash + Eq + Clone> Tally<K> {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(HashMap::new())))
    }

    /// `None` when `limit` permits for this key are held.
    pub(super) fn take(self: &Arc<Self>, key: K, limit: usize) -> Option<TallyPermit<K>> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let held = counts.get(&key).copied().unwrap_or(0);
        if held >= limit {
            return None;
        }
        counts.insert(key.clone(), held + 1);
        Some(TallyPermit { tally: self.clone(), key })
    }

    /// How many permits for this key are held.
    pub(super) fn held(&self, key: &K) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied().unwrap_or(0)
    }

    fn give_back(&self, key: &K) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(key) {
            Some(held) if *held > 1 => *held -= 1,
            _ => {
                counts.remove(key);
            }
        }
    }
}

/// One slot, given back when it is dropped.
#[derive(Debug)]
pub(super) struct TallyPermit<K: Hash + Eq + Clone> {
    tally: Arc<Tally<K>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Drop for TallyPermit<K> {
    fn drop(&mut self) {
        self.tally.give_back(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_bounded_by_key_and_come_back() {
        let tally = Tally::new();
        let first = tally.take("a", 2).unwrap();
        let _second = tally.take("a", 2).unwrap();
        assert!(tally.take("a", 2).is_none());
        let other = tally.take("b", 1).unwrap();
        drop(first);
        assert!(tally.take("a", 2).is_some());
        drop(other);
        assert_eq!((tally.held(&"a"), tally.held(&"b")), (1, 0));
        assert_eq!(tally.0.lock().unwrap().len(), 1);
        assert!(tally.take("c", 0).is_none());
    }
}
