use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ssh_broker::demo::{Action, Fault, Times};
use tokio::task::JoinSet;

use super::Lab;
use crate::arguments::Arguments;
use crate::dice::Dice;
use crate::instance::ANSWER;
use crate::operator::Leaves;
use crate::process::Look;
use crate::tally::Tally;

const OPERATORS: usize = 40;
/// Looks at the broker in one soak.
const LOOKS: u32 = 20;
/// Memory may be so much larger at the end than after the first quarter; what is kept of a number of sessions shows there.
const GROWTH_PERCENT: f64 = 5.0;
/// Between calls of the cloud API that fail.
const API_FAULT: Duration = Duration::from_secs(10);

/// Sessions come and go; some leave in the middle, some instances do, some calls of the cloud fail.
pub async fn run(lab: &Arc<Lab>, arguments: &Arguments) -> io::Result<bool> {
    let lasts = Duration::from_secs(arguments.soak);
    println!("soak: {OPERATORS} at once for {lasts:?}, {} % faults", arguments.faults);
    let (tally, abandoned) = (Arc::new(Tally::default()), Arc::new(AtomicU64::new(0)));
    let (begin, faults_before) = (Instant::now(), lab.instances.faults_made());
    // A third of them are the operators', who leave, and the rest the instances'.
    lab.instances.set_faults(arguments.faults * 2.0 / 3.0);
    let mut coming = JoinSet::new();
    for _ in 0..OPERATORS {
        coming.spawn(come_and_go(lab.clone(), begin + lasts, arguments.faults / 300.0, tally.clone(), abandoned.clone()));
    }
    let api_faults = tokio::spawn(fail_calls(lab.clone()));
    let looks = watch(lab, begin, lasts).await?;
    while coming.join_next().await.is_some() {}
    api_faults.abort();
    lab.instances.set_faults(0.0);
    lab.endpoint.clear_faults();
    let (left, made) = (abandoned.load(Ordering::Relaxed), lab.instances.faults_made() - faults_before);
    println!("  {tally}; operators left in the middle {left} times, instances {made} times");
    let growth = growth_percent(&looks);
    println!("  resident memory from the second quarter to the last: {growth:+.1} %");
    lab.tell_warnings();
    Ok(lab.returns_to_base().await? & (tally.lost(made) == 0) & (growth < GROWTH_PERCENT))
}

async fn come_and_go(lab: Arc<Lab>, end: Instant, leaves: f64, tally: Arc<Tally>, abandoned: Arc<AtomicU64>) {
    let mut dice = Dice::new();
    while Instant::now() < end {
        if dice.roll() < leaves {
            abandoned.fetch_add(1, Ordering::Relaxed);
            lab.operators.leave(Leaves::ALL[dice.below(Leaves::ALL.len())]).await;
        } else if dice.roll() < 0.7 {
            lab.visit(&tally).await;
        } else {
            type_a_little(&lab, dice.below(30), &tally).await;
        }
        tokio::time::sleep(Duration::from_millis(dice.below(500) as u64)).await;
    }
}

async fn type_a_little(lab: &Lab, keystrokes: usize, tally: &Tally) {
    let begin = Instant::now();
    let opened = lab.operators.log_in("echo").await;
    let took = begin.elapsed();
    let mut session = match opened {
        Ok(session) => session,
        Err(missed) => return tally.count(took, Err(missed)),
    };
    for _ in 0..keystrokes {
        if let Err(missed) = session.exchange(ANSWER).await {
            return tally.count(took, Err(missed));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tally.count(took, Ok(()));
}

async fn fail_calls(lab: Arc<Lab>) {
    for fault in [Fault::Error("InternalError".to_owned()), Fault::Status(502), Fault::Reset, Fault::HalfBody].into_iter().cycle() {
        tokio::time::sleep(API_FAULT).await;
        lab.endpoint.fault(Action::GetInstanceAccess, fault, Times::Next(1));
    }
}

async fn watch(lab: &Lab, begin: Instant, lasts: Duration) -> io::Result<Vec<Look>> {
    let mut looks = Vec::new();
    for number in 1..=LOOKS {
        tokio::time::sleep_until((begin + lasts / LOOKS * number).into()).await;
        let look = lab.look().await?;
        println!(
            "  {:>5.0} s: {} KiB resident, {} descriptors, {} tasks, {} connections",
            begin.elapsed().as_secs_f64(),
            look.rss_kib,
            look.descriptors,
            look.tasks,
            look.connections
        );
        looks.push(look);
    }
    Ok(looks)
}

fn growth_percent(looks: &[Look]) -> f64 {
    let quarter = looks.len() / 4;
    let mean = |part: &[Look]| part.iter().map(|look| look.rss_kib as f64).sum::<f64>() / part.len().max(1) as f64;
    let second = mean(looks.get(quarter..2 * quarter).unwrap_or_default());
    let last = mean(looks.get(looks.len().saturating_sub(quarter)..).unwrap_or_default());
    (last / second.max(1.0) - 1.0) * 100.0
}
