use std::hash::Hash;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use moka::future::Cache;
use moka::policy::EvictionPolicy;
use tokio::time::{Instant, sleep};

/// A value with an end. moka may keep an entry's memory a while after it has let go of the entry, so the value can be taken out.
struct Slot<V> {
    value: Mutex<Option<Arc<V>>>,
    until: Instant,
}

impl<V> Slot<V> {
    fn value(&self) -> Option<Arc<V>> {
        if Instant::now() >= self.until {
            return None;
        }
        self.value.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn clear(&self) {
        self.value.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

type Entries<K, V> = Cache<K, Arc<Slot<V>>>;

/// A bounded map whose values live for `ttl`, the least recently used making room.
///
/// moka keeps the bound; the end of a value is kept here, since moka would drop it only when traffic comes by. While there are entries a task
/// sweeps them; it ends when there are none, or the memory is gone.
pub(super) struct Memory<K, V> {
    inner: Arc<Inner<K, V>>,
}

struct Inner<K, V> {
    entries: Entries<K, V>,
    ttl: Duration,
    sweeping: AtomicBool,
}

impl<K: Hash + Eq + Clone + Send + Sync + 'static, V: Send + Sync + 'static> Memory<K, V> {
    pub(super) fn new(capacity: u64, ttl: Duration) -> Self {
        let entries = Cache::builder()
            .max_capacity(capacity)
            .eviction_policy(EvictionPolicy::lru())
            .eviction_listener(|_, slot: Arc<Slot<V>>, _| slot.clear())
            .build();
        Self { inner: Arc::new(Inner { entries, ttl, sweeping: AtomicBool::new(false) }) }
    }

    pub(super) async fn get(&self, key: &K) -> Option<Arc<V>> {
        self.inner.entries.get(key).await?.value()
    }

    /// Remembers the value in place of an earlier one; not at all when the time to live is zero.
    pub(super) async fn put(&self, key: K, value: Arc<V>) {
        if self.inner.ttl.is_zero() {
            return;
        }
        let slot = Slot { value: Mutex::new(Some(value)), until: Instant::now() + self.inner.ttl };
        self.inner.entries.insert(key, Arc::new(slot)).await;
        if !self.inner.sweeping.swap(true, Ordering::AcqRel) {
            tokio::spawn(sweep(Arc::downgrade(&self.inner)));
        }
    }

    /// Forgets the value when it is still the one meant.
    pub(super) async fn forget_if(&self, key: &K, is_meant: impl FnOnce(&V) -> bool) {
        let Some(slot) = self.inner.entries.get(key).await else { return };
        if slot.value().is_some_and(|value| is_meant(&value)) {
            // A value put in its place meanwhile has a slot of its own.
            slot.clear();
        }
    }
}

/// Takes out what is over, at the latest a second after its time.
async fn sweep<K: Hash + Eq + Clone + Send + Sync + 'static, V: Send + Sync + 'static>(memory: Weak<Inner<K, V>>) {
    loop {
        let Some(period) = memory.upgrade().map(|inner| (inner.ttl / 8).clamp(Duration::from_millis(10), Duration::from_secs(1))) else {
            return;
        };
        sleep(period).await;
        let Some(inner) = memory.upgrade() else { return };
        let now = Instant::now();
        let over: Vec<_> = inner.entries.iter().filter(|(_, slot)| now >= slot.until || slot.value().is_none()).collect();
        for (key, slot) in over {
            slot.clear();
            // Only this slot: a newer one may have taken its place.
            let key = K::clone(&key);
            inner
                .entries
                .entry(key)
                .and_compute_with(|entry| {
                    let same = entry.is_some_and(|entry| Arc::ptr_eq(entry.value(), &slot));
                    std::future::ready(if same { moka::ops::compute::Op::Remove } else { moka::ops::compute::Op::Nop })
                })
                .await;
        }
        inner.entries.run_pending_tasks().await;
        if inner.entries.entry_count() == 0 {
            inner.sweeping.store(false, Ordering::Release);
            // Who put something in between saw a sweep going on: look once more.
            inner.entries.run_pending_tasks().await;
            if inner.entries.entry_count() == 0 || inner.sweeping.swap(true, Ordering::AcqRel) {
                return;
            }
        }
    }
}
