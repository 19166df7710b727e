mod properties;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;

const RATE: usize = 20;

fn operator(name: &str) -> OperatorName {
    OperatorName::parse(name).unwrap()
}

fn quota(bound: usize) -> Arc<Quota> {
    Arc::new(Quota::new(RATE as u32, bound))
}

/// A small generator, so that a failing seed can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// Sends `calls` as they come; each travels, is worked on and travels back for random times. Gives the arrivals at the endpoint, in order.
async fn arrivals(quota: &Arc<Quota>, calls: usize, pause_ms: u64, fixed_ms: u64, jitter_ms: u64, seed: u64) -> Vec<Instant> {
    let mut random = Random(seed);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for call in 0..calls {
        let there = Duration::from_millis(fixed_ms / 2 + random.below(jitter_ms + 1));
        let back = Duration::from_millis(fixed_ms / 2 + random.below(jitter_ms + 1));
        let (quota, seen) = (quota.clone(), seen.clone());
        tasks.spawn(async move {
            let name = operator(&format!("o{}", call % 7));
            let permit = quota.permit(&name, Arc::default()).await.unwrap();
            sleep(there).await;
            seen.lock().unwrap().push(Instant::now());
            sleep(back).await;
            permit.answered();
        });
        if pause_ms > 0 {
            sleep(Duration::from_millis(random.below(pause_ms))).await;
        }
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    seen
}

/// The most arrivals in any sliding second.
fn busiest_second(arrivals: &[Instant]) -> usize {
    let within = |start: &Instant| arrivals.iter().filter(|at| *at >= start && at.duration_since(*start) < Duration::from_secs(1)).count();
    arrivals.iter().map(within).max().unwrap_or(0)
}

#[tokio::test(start_paused = true)]
async fn no_sliding_second_sees_more_than_the_rate() {
    for seed in 0..40 {
        let (pause, fixed, jitter) = (seed % 5 * 30, seed % 4 * 60, [0, 10, 80, 400][seed as usize % 4]);
        let seen = arrivals(&quota(1000), 200, pause, fixed, jitter, seed).await;
        assert_eq!(seen.len(), 200);
        assert!(busiest_second(&seen) <= RATE, "seed {seed}: {} in a second", busiest_second(&seen));
    }
}

#[tokio::test(start_paused = true)]
async fn nine_tenths_of_the_rate_are_used_under_load() {
    for (fixed, jitter) in [(2, 0), (15, 10), (35, 10)] {
        let seen = arrivals(&quota(1000), 600, 0, fixed, jitter, 7).await;
        let lasted = seen.last().unwrap().duration_since(seen[0]).as_secs_f64();
        let used = 600.0 / (lasted + 1.0) / RATE as f64;
        assert!(used >= 0.9, "{used:.2} of the rate at {fixed} ± {jitter} ms");
        assert!(busiest_second(&seen) <= RATE);
    }
}

#[tokio::test(start_paused = true)]
async fn sixty_cold_calls_take_about_three_seconds() {
    let began = Instant::now();
    arrivals(&quota(100), 60, 0, 100, 20, 1).await;
    let took = began.elapsed().as_secs_f64();
    assert!((2.0..3.5).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_pool_does_not_make_the_holds_too_short() {
    // Once warm connections have gone, the next round pays 200 ms for new ones, and the one after that does not.
    let quota = quota(1000);
    let mut all = Vec::new();
    for (fixed, calls) in [(50, 60), (250, 20), (50, 60)] {
        all.extend(arrivals(&quota, calls, 0, fixed, 5, 3).await);
    }
    assert!(busiest_second(&all) <= RATE, "{}", busiest_second(&all));
}

#[tokio::test(start_paused = true)]
async fn one_who_asks_for_300_does_not_hold_back_one_who_asks_for_1() {
    let quota = quota(1000);
    let mut tasks = JoinSet::new();
    let served = Arc::new(AtomicUsize::new(0));
    for _ in 0..300 {
        let (quota, served) = (quota.clone(), served.clone());
        tasks.spawn(async move {
            let permit = quota.permit(&operator("many"), Arc::default()).await.unwrap();
            served.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(40)).await;
            permit.answered();
        });
    }
    sleep(Duration::from_millis(500)).await;
    assert_eq!((served.load(Ordering::Relaxed), quota.waiting()), (RATE, 280));
    let place = Arc::new(QueuePlace::default());
    let began = Instant::now();
    let one = operator("one");
    let asking = quota.permit(&one, place.clone());
    tokio::pin!(asking);
    assert!(timeout(Duration::from_millis(1), &mut asking).await.is_err());
    assert_eq!(place.ahead(), Some(1));
    asking.await.unwrap().answered();
    assert!(began.elapsed() < Duration::from_millis(700), "{:?}", began.elapsed());
    assert_eq!(place.ahead(), None);
}

#[tokio::test(start_paused = true)]
async fn the_cancelled_leave_the_line_and_every_place_moves_up() {
    let quota = quota(100);
    let mut permits = Vec::new();
    for _ in 0..RATE {
        permits.push(quota.permit(&operator("a"), Arc::default()).await.unwrap());
    }
    let places: Vec<Arc<QueuePlace>> = (0..3).map(|_| Arc::default()).collect();
    let mut waiting: Vec<_> = places
        .iter()
        .map(|place| {
            let (quota, place) = (quota.clone(), place.clone());
            tokio::spawn(async move { quota.permit(&operator("a"), place).await.map(Permit::answered) })
        })
        .collect();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(places.iter().map(|place| place.ahead()).collect::<Vec<_>>(), [Some(0), Some(1), Some(2)]);
    // The first goes, when it had already been called for the slot that came free.
    permits.into_iter().for_each(Permit::answered);
    waiting.remove(0).abort();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(places.iter().map(|place| place.ahead()).collect::<Vec<_>>(), [None, Some(0), Some(1)]);
    for task in waiting {
        timeout(Duration::from_millis(1100), task).await.unwrap().unwrap().unwrap();
    }
    assert_eq!(quota.waiting(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_full_line_refuses_and_takes_from_who_holds_most() {
    let quota = quota(4);
    let mut permits = Vec::new();
    for _ in 0..RATE {
        permits.push(quota.permit(&operator("many"), Arc::default()).await.unwrap());
    }
    let mut many: Vec<_> = (0..4)
        .map(|_| {
            let quota = quota.clone();
            tokio::spawn(async move { quota.permit(&operator("many"), Arc::default()).await.map(drop) })
        })
        .collect();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(quota.permit(&operator("many"), Arc::default()).await.err(), Some(QueueFull));
    let one = operator("one");
    let asking = quota.permit(&one, Arc::default());
    tokio::pin!(asking);
    assert!(timeout(Duration::from_millis(1), &mut asking).await.is_err());
    assert_eq!(many.remove(3).await.unwrap(), Err(QueueFull));
    permits.into_iter().for_each(Permit::answered);
    asking.await.unwrap().answered();
    for task in many {
        task.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn refusals_slow_the_rate_and_it_recovers() {
    let quota = quota(1000);
    let before = arrivals(&quota, 20, 0, 10, 0, 1).await;
    for _ in 0..5 {
        quota.exceeded();
    }
    assert_eq!(quota.limit(), 10, "one overrun cuts once");
    let during = arrivals(&quota, 30, 0, 10, 0, 1).await;
    let all: Vec<_> = before.iter().chain(&during).copied().collect();
    assert!(busiest_second(&all[20..]) <= 13, "{}", busiest_second(&all[20..]));
    sleep(Duration::from_secs(20)).await;
    assert_eq!(quota.limit(), RATE);
    for _ in 0..10 {
        quota.exceeded();
        sleep(Duration::from_secs(1)).await;
    }
    assert!((1..=3).contains(&quota.limit()), "never down to nothing: {}", quota.limit());
}

#[tokio::test(start_paused = true)]
async fn a_slot_without_a_request_is_another_ones_at_once() {
    let quota = Arc::new(Quota::new(1, 10));
    let permit = quota.permit(&operator("a"), Arc::default()).await.unwrap();
    let next = tokio::spawn({
        let quota = quota.clone();
        async move { quota.permit(&operator("b"), Arc::default()).await.map(Permit::answered) }
    });
    sleep(Duration::from_millis(1)).await;
    permit.unused();
    timeout(Duration::from_millis(1), next).await.unwrap().unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_request_without_an_answer_may_still_arrive() {
    let quota = Arc::new(Quota::new(1, 10));
    drop(quota.permit(&operator("a"), Arc::default()).await.unwrap());
    let began = Instant::now();
    quota.permit(&operator("a"), Arc::default()).await.unwrap().answered();
    assert!(began.elapsed() >= Duration::from_secs(2), "{:?}", began.elapsed());
}
