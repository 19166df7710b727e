//! The quota under whatever callers do, proven by properties; time is paused. Calls come at any time, for several operators; each travels to
//! the endpoint for a while, and back; some are given up while they wait, some are given up with their request on the way, which may
//! arrive yet; and now and then the endpoint says that the limit is exceeded. No sliding second may see more arrivals than the limit, operators
//! are served in turn and each one's calls in their order, the line is bounded, and every place and slot comes back.
//!
//! The loads are few in every run; `PROPTEST_CASES=5000 cargo nextest run quota::tests` makes more.

use proptest::prelude::*;

use super::*;
use crate::fuzzing::few_cases;

#[derive(Debug, Clone)]
struct Call {
    at: Duration,
    operator: usize,
    /// Given up when it has waited for so long.
    patience: Duration,
    there: Duration,
    back: Duration,
    /// Whether it is given up with the request on its way.
    is_abandoned: bool,
}

#[derive(Debug, Clone)]
struct Load {
    rate: u32,
    bound: usize,
    calls: Vec<Call>,
    /// When the endpoint says that the limit is exceeded.
    exceeded: Vec<Duration>,
}

fn ms(range: std::ops::Range<u64>) -> impl Strategy<Value = Duration> {
    range.prop_map(Duration::from_millis)
}

fn load() -> impl Strategy<Value = Load> {
    let patience = prop_oneof![3 => Just(Duration::from_secs(1000)), 1 => ms(0..3000)];
    // Some all at once, some spread out.
    let at = prop_oneof![2 => ms(0..50), 1 => ms(0..5000)];
    let call = (at, 0..4_usize, patience, ms(0..300), ms(0..300), prop::bool::weighted(0.1))
        .prop_map(|(at, operator, patience, there, back, is_abandoned)| Call { at, operator, patience, there, back, is_abandoned });
    let exceeded = prop::collection::vec(ms(0..8000), 0..4);
    (1..30_u32, 1..60_usize, prop::collection::vec(call, 1..150), exceeded).prop_map(|(rate, bound, mut calls, exceeded)| {
        calls.sort_by_key(|call| call.at);
        Load { rate, bound, calls, exceeded }
    })
}

/// What became of a call, in the order in which it happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Waits,
    Served,
    /// The line was full.
    Refused,
    GivenUp,
}

#[derive(Debug)]
struct Happened {
    call: usize,
    what: What,
    at: Instant,
}

/// What happened to the calls, and the arrivals at the endpoint.
#[derive(Default)]
struct Told {
    events: Vec<Happened>,
    arrivals: Vec<(usize, Instant)>,
    /// When the limit was cut, and to what.
    cuts: Vec<(Instant, usize)>,
    most_waiting: usize,
}

type Shared = Arc<Mutex<Told>>;

fn tell(told: &Shared, quota: &Quota, call: usize, what: What) {
    let mut told = told.lock().unwrap();
    told.events.push(Happened { call, what, at: Instant::now() });
    told.most_waiting = told.most_waiting.max(quota.waiting());
}

async fn make(quota: Arc<Quota>, told: Shared, number: usize, call: Call) {
    sleep(call.at).await;
    let name = operator(&format!("o{}", call.operator));
    let mut asking = std::pin::pin!(quota.permit(&name, Arc::default()));
    // Whether it has to wait shows when it is asked once.
    let asked = std::future::poll_fn(|cx| std::task::Poll::Ready(asking.as_mut().poll(cx))).await;
    let permit = match asked {
        std::task::Poll::Ready(permit) => Ok(permit),
        std::task::Poll::Pending => {
            tell(&told, &quota, number, What::Waits);
            timeout(call.patience, asking).await
        }
    };
    let permit = match permit {
        Ok(Ok(permit)) => permit,
        Ok(Err(QueueFull)) => return tell(&told, &quota, number, What::Refused),
        Err(_) => return tell(&told, &quota, number, What::GivenUp),
    };
    tell(&told, &quota, number, What::Served);
    if call.is_abandoned {
        // It may arrive yet, within a second.
        drop(permit);
        sleep(call.there).await;
        told.lock().unwrap().arrivals.push((number, Instant::now()));
        return;
    }
    sleep(call.there).await;
    told.lock().unwrap().arrivals.push((number, Instant::now()));
    sleep(call.back).await;
    permit.answered();
}

async fn run(load: &Load) -> (Arc<Quota>, Told) {
    let quota = Arc::new(Quota::new(load.rate, load.bound));
    let told = Shared::default();
    let mut tasks = JoinSet::new();
    for (number, call) in load.calls.iter().cloned().enumerate() {
        tasks.spawn(make(quota.clone(), told.clone(), number, call));
    }
    for after in load.exceeded.iter().copied() {
        let (quota, told) = (quota.clone(), told.clone());
        tasks.spawn(async move {
            sleep(after).await;
            let half = (quota.limit() / 2).max(1);
            quota.exceeded();
            let (now, mut told) = (Instant::now(), told.lock().unwrap());
            // One overrun refuses several requests, and cuts once.
            if told.cuts.last().is_none_or(|(last, _)| now.duration_since(*last) >= Duration::from_secs(1)) {
                told.cuts.push((now, half));
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let told = std::mem::take(&mut *told.lock().unwrap());
    (quota, told)
}

fn when(told: &Told, call: usize, what: What) -> Option<usize> {
    told.events.iter().position(|event| event.call == call && event.what == what)
}

/// No sliding second sees more arrivals than the rate; nor, of what was let go after a cut, more than the limit at its end.
fn never_too_many(load: &Load, told: &Told) -> Result<(), TestCaseError> {
    let rate = load.rate as usize;
    let let_go_after = |after: Instant| {
        let late = told.arrivals.iter().filter(|(call, _)| when(told, *call, What::Served).is_some_and(|at| told.events[at].at > after));
        let mut arrivals: Vec<_> = late.map(|(_, at)| *at).collect();
        arrivals.sort();
        arrivals
    };
    let mut arrivals: Vec<_> = told.arrivals.iter().map(|(_, at)| *at).collect();
    arrivals.sort();
    prop_assert!(busiest_second(&arrivals) <= rate);
    for (cut, limit) in &told.cuts {
        let arrivals = let_go_after(*cut);
        for start in &arrivals {
            let count = arrivals.iter().filter(|at| *at >= start && at.duration_since(*start) < Duration::from_secs(1)).count();
            let seconds = (start.duration_since(*cut) + Duration::from_secs(1)).as_secs() as usize;
            let allowed = rate.min(limit + seconds * (rate / 20).max(1));
            prop_assert!(count <= allowed, "{count} in a second, {:?} after a cut to {limit} of {rate}", start.duration_since(*cut));
        }
    }
    Ok(())
}

/// One operator's calls go in the order in which they came. Between two calls of one operator each other one who waits all the while goes
/// once at least.
fn fair(load: &Load, told: &Told) -> Result<(), TestCaseError> {
    let served: Vec<usize> = told.events.iter().filter(|event| event.what == What::Served).map(|event| event.call).collect();
    // Where a call stood in line: from, to.
    let stay = |call: usize| {
        let from = when(told, call, What::Waits)?;
        let end = |what| when(told, call, what).unwrap_or(usize::MAX);
        Some((from, end(What::Served).min(end(What::Refused)).min(end(What::GivenUp))))
    };
    for operator in 0..4 {
        let of = |call: &&usize| load.calls[**call].operator == operator;
        let own: Vec<usize> = served.iter().filter(of).copied().collect();
        let queued: Vec<usize> = own.iter().filter_map(|call| when(told, *call, What::Waits)).collect();
        prop_assert!(queued.is_sorted(), "{own:?} of one operator were served in this order");
        for pair in own.windows(2) {
            let (from, to) = (when(told, pair[0], What::Served).unwrap(), when(told, pair[1], What::Served).unwrap());
            for other in (0..4).filter(|other| *other != operator) {
                let theirs = || (0..load.calls.len()).filter(|call| load.calls[*call].operator == other);
                let waited = theirs().filter_map(stay).any(|(came, went)| came < from && went > to);
                let went = served.iter().any(|call| {
                    load.calls[*call].operator == other && when(told, *call, What::Served).is_some_and(|at| (from..to).contains(&at))
                });
                prop_assert!(!waited || went, "{pair:?} of {operator} were served, and none of {other}, who waited");
            }
        }
    }
    Ok(())
}

/// The line is bounded, nobody is forgotten in it, and who leaves gives the place back.
fn bounded_and_whole(load: &Load, quota: &Quota, told: &Told) -> Result<(), TestCaseError> {
    prop_assert!(told.most_waiting <= load.bound);
    for call in 0..load.calls.len() {
        let ends = [What::Served, What::Refused, What::GivenUp].map(|what| usize::from(when(told, call, what).is_some()));
        prop_assert_eq!(ends.iter().sum::<usize>(), 1, "of call {}", call);
        let is_patient = load.calls[call].patience > Duration::from_secs(100);
        prop_assert!(!is_patient || when(told, call, What::GivenUp).is_none());
    }
    // Nobody is refused while there is a place.
    let mut waiting = 0_usize;
    for event in &told.events {
        let waited = when(told, event.call, What::Waits).is_some();
        match event.what {
            What::Waits => waiting += 1,
            What::Refused => {
                prop_assert!(waited || waiting >= load.bound, "{waiting} of {} waited", load.bound);
                waiting -= usize::from(waited);
            }
            What::Served | What::GivenUp => waiting -= usize::from(waited),
        }
    }
    prop_assert_eq!((quota.waiting(), waiting), (0, 0));
    Ok(())
}

proptest! {
    #![proptest_config(few_cases(48))]

    #[test]
    fn whatever_callers_do_the_endpoint_sees_no_more_than_the_limit_and_the_line_is_fair(load in load()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (quota, told) = runtime.block_on(run(&load));
        never_too_many(&load, &told)?;
        fair(&load, &told)?;
        bounded_and_whole(&load, &quota, &told)?;
        let free = runtime.block_on(async {
            sleep(Duration::from_secs(60)).await;
            quota.free()
        });
        prop_assert_eq!(free, load.rate as usize, "every slot comes back");
    }
}
