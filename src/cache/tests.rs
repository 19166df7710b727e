use std::sync::Mutex;
use std::sync::atomic::AtomicUsize;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::access::{OperatorName, Secret, samples};
use crate::broker::{Catalogue, Located, QueuePlace, Scopes};

/// A cloud that counts, waits, and answers as it is told.
struct Fake {
    leases: AtomicUsize,
    locates: AtomicUsize,
    /// In the queue for the quota, then for the answer.
    queueing: Duration,
    answering: Duration,
    /// Calls whose requests are lost.
    lost: AtomicUsize,
    cancelled: Arc<AtomicUsize>,
    fail: Mutex<Option<Failure>>,
    panic: AtomicBool,
    locate_gives_lease: bool,
    for_one_asker: bool,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            leases: AtomicUsize::new(0),
            locates: AtomicUsize::new(0),
            queueing: Duration::from_millis(500),
            answering: Duration::from_millis(100),
            lost: AtomicUsize::new(0),
            cancelled: Arc::default(),
            fail: Mutex::new(None),
            panic: AtomicBool::new(false),
            locate_gives_lease: false,
            for_one_asker: false,
        }
    }
}

struct CountDrop(Arc<AtomicUsize>, bool);

impl Drop for CountDrop {
    fn drop(&mut self) {
        if !self.1 {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Fake {
    async fn call(&self, asker: &Asker) -> Result<(), Failure> {
        let mut guard = CountDrop(self.cancelled.clone(), false);
        let place: Arc<QueuePlace> = asker.place();
        place.set(Some(7));
        sleep(self.queueing).await;
        place.set(None);
        place.moved(Instant::now().into_std());
        if self.lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |lost| lost.checked_sub(1)).is_ok() {
            sleep(Duration::from_secs(15)).await;
            return Err(Failure::new(Code::ApiUnavailable, "no answer in time"));
        }
        sleep(self.answering).await;
        guard.1 = true;
        assert!(!self.panic.load(Ordering::SeqCst), "told to panic");
        if Instant::now() >= Instant::from_std(asker.deadline) {
            return Err(Failure::new(Code::ApiThrottled, "late"));
        }
        self.fail.lock().unwrap().clone().map_or(Ok(()), Err)
    }
}

fn lease(target: &Target) -> Lease {
    Lease {
        target: target.clone(),
        login: "root".to_owned(),
        secret: Secret::new(b"s".to_vec()),
        address: "192.0.2.1".parse().unwrap(),
        operating_system: None,
        request_id: "r".to_owned(),
        quota_wait: Duration::ZERO,
        api_time: Duration::ZERO,
    }
}

impl Cloud for Fake {
    fn locate<'a>(
        &'a self,
        instance: &'a InstanceId,
        candidates: &'a [FleetId],
        asker: &'a Asker,
    ) -> BoxFuture<'a, Result<Located, Failure>> {
        Box::pin(async move {
            self.locates.fetch_add(1, Ordering::SeqCst);
            self.call(asker).await?;
            let target = Target { fleet: candidates[0].clone(), instance: instance.clone() };
            Ok(Located { lease: self.locate_gives_lease.then(|| lease(&target)), target, for_all: !self.for_one_asker })
        })
    }

    fn lease<'a>(&'a self, target: &'a Target, asker: &'a Asker) -> BoxFuture<'a, Result<Lease, Failure>> {
        Box::pin(async move {
            self.leases.fetch_add(1, Ordering::SeqCst);
            self.call(asker).await?;
            Ok(lease(target))
        })
    }
}

impl Catalogue for Fake {
    fn scopes<'a>(&'a self, _: &'a Asker) -> BoxFuture<'a, Result<Scopes, Failure>> {
        Box::pin(async { Ok(Scopes::Whole) })
    }

    fn list<'a>(&'a self, _: Option<&'a FleetId>, asker: &'a Asker) -> BoxFuture<'a, Result<Arc<Listing>, Failure>> {
        Box::pin(async move {
            self.locates.fetch_add(1, Ordering::SeqCst);
            self.call(asker).await?;
            Ok(Arc::default())
        })
    }
}

const CONFIG: Config = Config {
    lease_ttl: Duration::from_secs(60),
    resolve_ttl: Duration::from_secs(300),
    not_found_ttl: Duration::from_secs(10),
    capacity: 100,
};

fn cache(fake: Fake) -> Arc<Cache<Fake>> {
    Arc::new(Cache::new(fake, CONFIG))
}

fn asker(seconds: u64) -> Asker {
    Asker::new(OperatorName::parse("alice").unwrap(), (Instant::now() + Duration::from_secs(seconds)).into_std())
}

fn fleet(id: &str) -> FleetId {
    FleetId::parse(id).unwrap()
}

fn instance() -> InstanceId {
    InstanceId::parse("ins-a").unwrap()
}

fn grant() -> Grant {
    samples::grant(samples::rule(), std::time::UNIX_EPOCH)
}

#[tokio::test(start_paused = true)]
async fn many_ask_and_one_call_is_made_whose_place_all_see() {
    let cache = cache(Fake::default());
    let askers: Vec<_> = (0..50)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move {
                let (asker, grant) = (asker(20), grant());
                let asked = cache.lease(&grant, &asker);
                tokio::pin!(asked);
                assert!(timeout(Duration::from_millis(10), &mut asked).await.is_err());
                assert_eq!(asker.place().ahead(), Some(7));
                asked.await.unwrap()
            })
        })
        .collect();
    for asker in askers {
        assert!(!asker.await.unwrap().cached);
    }
    assert_eq!(cache.cloud().leases.load(Ordering::SeqCst), 1);
    assert!(cache.lease(&grant(), &asker(20)).await.unwrap().cached);
    sleep(CONFIG.lease_ttl).await;
    assert!(!cache.lease(&grant(), &asker(20)).await.unwrap().cached);
    assert_eq!(cache.shared.lease_flights.len(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_first_asker_may_leave_and_the_call_ends_when_all_have_left_the_queue() {
    let cache = cache(Fake::default());
    let mut askers: Vec<_> = (0..3)
        .map(|_| {
            let cache = cache.clone();
            tokio::spawn(async move { cache.lease(&grant(), &asker(20)).await.map(|leased| leased.lease) })
        })
        .collect();
    sleep(Duration::from_millis(50)).await;
    askers.remove(0).abort();
    for asker in askers {
        asker.await.unwrap().unwrap();
    }
    assert_eq!(cache.cloud().cancelled.load(Ordering::SeqCst), 0);

    let other = Arc::new(Cache::new(Fake::default(), CONFIG));
    for (leave_after, cancelled) in [(550, 0), (50, 1)] {
        let other = other.clone();
        assert!(timeout(Duration::from_millis(leave_after), other.locate(&instance(), &[fleet("fleet-a")], &asker(20))).await.is_err());
        sleep(Duration::from_secs(2)).await;
        assert_eq!(other.cloud().cancelled.load(Ordering::SeqCst), cancelled, "left after {leave_after} ms");
        assert_eq!(other.shared.locate_flights.len(), 0);
        // What was fetched for nobody is not wasted; forget it for the next round.
        assert_eq!(other.shared.locations.get(&instance()).await.is_some(), cancelled == 0);
        other.shared.locations.forget_if(&instance(), |_| true).await;
    }
}

/// Askers for the same secret at the same time, each of which gets none.
fn five_that_fail(cache: &Arc<Cache<Fake>>, seconds: u64) -> Vec<JoinHandle<Code>> {
    let ask = |cache: Arc<Cache<Fake>>| async move { cache.lease(&grant(), &asker(seconds)).await.err().unwrap().code };
    (0..5).map(|_| tokio::spawn(ask(cache.clone()))).collect()
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_for_all_followers() {
    let cache = cache(Fake { panic: AtomicBool::new(true), ..Fake::default() });
    for follower in five_that_fail(&cache, 20) {
        assert_eq!(timeout(Duration::from_secs(5), follower).await.unwrap().unwrap(), Code::ApiUnavailable);
    }
    cache.cloud().panic.store(false, Ordering::SeqCst);
    assert!(cache.lease(&grant(), &asker(20)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_follower_with_more_time_asks_again_and_one_with_less_gives_up() {
    let cache = cache(Fake { queueing: Duration::from_millis(1500), ..Fake::default() });
    let short = tokio::spawn({
        let cache = cache.clone();
        async move { cache.lease(&grant(), &asker(1)).await.err().unwrap().code }
    });
    sleep(Duration::from_millis(10)).await;
    assert!(cache.lease(&grant(), &asker(20)).await.is_ok());
    assert_eq!(short.await.unwrap(), Code::ApiThrottled);
    assert_eq!(cache.cloud().leases.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn not_found_is_remembered_shortly_and_nothing_else_is() {
    let cache = cache(Fake { fail: Mutex::new(Some(Failure::target_refused())), ..Fake::default() });
    let (here, there) = ([fleet("fleet-a")], [fleet("fleet-b")]);
    for _ in 0..5 {
        assert_eq!(cache.locate(&instance(), &here, &asker(20)).await.unwrap_err().code, Code::TargetRefused);
        assert_eq!(cache.lease(&grant(), &asker(20)).await.err().unwrap().code, Code::TargetRefused);
    }
    let counts = || (cache.cloud().locates.load(Ordering::SeqCst), cache.cloud().leases.load(Ordering::SeqCst));
    assert_eq!(counts(), (1, 1));
    cache.locate(&instance(), &there, &asker(20)).await.unwrap_err();
    assert_eq!(counts(), (2, 1), "other candidates are another question");
    sleep(CONFIG.not_found_ttl).await;
    *cache.cloud().fail.lock().unwrap() = Some(Failure::new(Code::ApiDenied, "no"));
    for _ in 0..2 {
        cache.locate(&instance(), &here, &asker(20)).await.unwrap_err();
    }
    assert_eq!(counts(), (4, 1));
    *cache.cloud().fail.lock().unwrap() = None;
    cache.locate(&instance(), &here, &asker(20)).await.unwrap();
    assert_eq!(cache.locate(&instance(), &there, &asker(20)).await.unwrap().fleet, here[0], "a location is one for all");
    assert_eq!(counts(), (5, 1));
}

#[tokio::test(start_paused = true)]
async fn renewing_asks_once_for_all_who_hold_the_same_stale_lease() {
    let cache = cache(Fake::default());
    let stale = cache.lease(&grant(), &asker(20)).await.unwrap().lease;
    let renewals: Vec<_> = (0..10)
        .map(|_| {
            let (cache, stale) = (cache.clone(), stale.clone());
            tokio::spawn(async move { cache.renew(&grant(), &stale, &asker(20)).await.unwrap() })
        })
        .collect();
    let mut newer = Vec::new();
    for renewal in renewals {
        newer.push(renewal.await.unwrap());
    }
    assert!(newer.iter().all(|lease| Arc::ptr_eq(lease, &newer[0]) && !Arc::ptr_eq(lease, &stale)));
    assert!(Arc::ptr_eq(&cache.renew(&grant(), &stale, &asker(20)).await.unwrap(), &newer[0]));
    assert!(Arc::ptr_eq(&cache.lease(&grant(), &asker(20)).await.unwrap().lease, &newer[0]));
    assert_eq!(cache.cloud().leases.load(Ordering::SeqCst), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_came_with_the_location_is_new_once() {
    let cache = cache(Fake { locate_gives_lease: true, ..Fake::default() });
    cache.locate(&instance(), &[fleet("fleet-a")], &asker(20)).await.unwrap();
    assert!(!cache.lease(&grant(), &asker(20)).await.unwrap().cached);
    assert!(cache.lease(&grant(), &asker(20)).await.unwrap().cached);
    assert_eq!(cache.cloud().leases.load(Ordering::SeqCst), 0);
}

#[tokio::test(start_paused = true)]
async fn without_traffic_a_lease_is_gone_a_second_after_its_time() {
    let cache = cache(Fake::default());
    let lease = Arc::downgrade(&cache.lease(&grant(), &asker(20)).await.unwrap().lease);
    sleep(CONFIG.lease_ttl - Duration::from_secs(1)).await;
    assert!(lease.upgrade().is_some());
    sleep(Duration::from_millis(2100)).await;
    assert!(lease.upgrade().is_none(), "the lease is still in memory");
}

#[tokio::test(start_paused = true)]
async fn what_is_evicted_or_replaced_or_whose_cache_is_gone_leaves_memory() {
    let memory = Memory::new(4, Duration::from_secs(60));
    let mut held = Vec::new();
    for key in 0..20 {
        let value = Arc::new([key; 32]);
        held.push(Arc::downgrade(&value));
        memory.put(key, value).await;
    }
    memory.put(19, Arc::new([0; 32])).await;
    sleep(Duration::from_secs(2)).await;
    let alive = held.iter().filter(|value| value.upgrade().is_some()).count();
    assert!(alive <= 4 && held[19].upgrade().is_none(), "{alive} are still in memory");
    assert!(memory.get(&19).await.is_some());
    drop(memory);
    sleep(Duration::from_secs(2)).await;
    assert!(held.iter().all(|value| value.upgrade().is_none()));
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_fetched_once_for_all_who_ask_and_kept_for_half_a_minute() {
    let cache = cache(Fake::default());
    let listings = (0..20).map(|_| {
        let cache = cache.clone();
        async move { cache.list(None, &asker(20)).await.unwrap() }
    });
    futures_util::future::join_all(listings).await;
    let asked = || cache.cloud().locates.load(Ordering::SeqCst);
    assert_eq!(asked(), 1);
    cache.list(Some(&fleet("fleet-a")), &asker(20)).await.unwrap();
    cache.list(None, &asker(20)).await.unwrap();
    assert_eq!(asked(), 2);
    sleep(listings::TTL).await;
    cache.list(None, &asker(20)).await.unwrap();
    assert_eq!(asked(), 3);
    *cache.cloud().fail.lock().unwrap() = Some(Failure::new(Code::ApiUnavailable, "down"));
    sleep(listings::TTL).await;
    assert!(cache.list(None, &asker(20)).await.is_err());
    *cache.cloud().fail.lock().unwrap() = None;
    assert!(cache.list(None, &asker(20)).await.is_ok(), "a failure is not remembered");
}

#[tokio::test(start_paused = true)]
async fn where_one_asker_finds_it_is_not_remembered_for_another() {
    let cache = cache(Fake { for_one_asker: true, ..Fake::default() });
    for name in ["fleet-a", "fleet-b"] {
        assert_eq!(cache.locate(&instance(), &[fleet(name)], &asker(20)).await.unwrap().fleet, fleet(name));
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_holds_up_only_who_made_it_and_is_overtaken_for_all() {
    let fake = Fake { queueing: Duration::from_secs(3), lost: AtomicUsize::new(2), ..Fake::default() };
    let cache = cache(fake);
    let began = Instant::now();
    let ask = || {
        let cache = cache.clone();
        tokio::spawn(async move { cache.lease(&grant(), &asker(20)).await.map(|_| began.elapsed()) })
    };
    let asked = || cache.cloud().leases.load(Ordering::SeqCst);
    let first: Vec<_> = (0..10).map(|_| ask()).collect();
    // Three seconds in the queue are no sign of anything.
    sleep(Duration::from_millis(3900)).await;
    assert_eq!(asked(), 1);
    let late = ask();
    sleep(Duration::from_millis(200)).await;
    assert_eq!(asked(), 2, "one of those who follow asks anew, and the others follow it");
    // The second is lost too. Its answer, at the latest, comes a second, the queue and 100 ms after it was given up.
    for asker in first.into_iter().chain([late]) {
        assert!(asker.await.unwrap().unwrap() < Duration::from_millis(11_500));
    }
    assert_eq!((asked(), cache.shared.lease_flights.len()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn an_asker_has_one_call_of_its_own_under_way_however_long_none_is_answered() {
    let cache = cache(Fake { queueing: Duration::ZERO, lost: AtomicUsize::new(1000), ..Fake::default() });
    for asker in five_that_fail(&cache, 10) {
        assert_eq!(asker.await.unwrap(), Code::ApiUnavailable);
    }
    assert_eq!(cache.cloud().leases.load(Ordering::SeqCst), 5);
    sleep(Duration::from_secs(20)).await;
    assert_eq!(cache.shared.lease_flights.len(), 0);
}
