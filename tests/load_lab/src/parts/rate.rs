use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::Lab;
use crate::arguments::Arguments;
use crate::tally::Tally;

/// Offers logins at a rate, each with connection, both key exchanges and a command, and none that would be one too many under way.
pub async fn run(lab: &Arc<Lab>, arguments: &Arguments) -> io::Result<bool> {
    println!("rate: {} logins a second for {} s, at most {} under way", arguments.rate, arguments.seconds, arguments.at_once);
    let (tally, permits) = (Arc::new(Tally::default()), Arc::new(Semaphore::new(arguments.at_once)));
    let (begin, cpu) = (Instant::now(), lab.cpu()?);
    let end = begin + Duration::from_secs(arguments.seconds);
    let mut tick = interval(Duration::from_secs(1) / arguments.rate.max(1));
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut visits, mut offered) = (JoinSet::new(), 0_u64);
    while Instant::now() < end {
        tick.tick().await;
        let Ok(permit) = permits.clone().acquire_owned().await else { break };
        offered += 1;
        let (lab, tally) = (lab.clone(), tally.clone());
        visits.spawn(async move {
            lab.visit(&tally).await;
            drop(permit);
        });
        while visits.try_join_next().is_some() {}
    }
    while visits.join_next().await.is_some() {}
    let (took, cpu) = (begin.elapsed().as_secs_f64(), lab.cpu_since(cpu)?);
    let done = tally.done().max(1) as f64;
    println!("  {offered} of {} offered: {tally}", u64::from(arguments.rate) * arguments.seconds);
    println!(
        "  {:.0} logins a second; CPU ms a login: broker {:.1}, operators and instances {:.1}; processors in use {:.2}",
        done / took,
        cpu.broker * 1000.0 / done,
        cpu.load * 1000.0 / done,
        (cpu.broker + cpu.load) / took
    );
    lab.tell_warnings();
    Ok(lab.returns_to_base().await? & (tally.lost(0) == 0))
}
