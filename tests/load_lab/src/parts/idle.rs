use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Lab;
use crate::arguments::Arguments;
use crate::tally::Tally;

/// Long enough for the broker to give back what only logins need.
const SETTLE: Duration = Duration::from_secs(15);

pub async fn run(lab: &Arc<Lab>, arguments: &Arguments) -> io::Result<bool> {
    println!("idle: {} sessions", arguments.idle);
    let before = lab.look().await?;
    let (begin, tally) = (Instant::now(), Arc::new(Tally::default()));
    let sessions = lab.open(arguments.idle, "idle", &tally).await;
    println!("  opened in {:.1} s: {tally}", begin.elapsed().as_secs_f64());
    tokio::time::sleep(SETTLE).await;
    let cpu = lab.cpu()?;
    tokio::time::sleep(SETTLE).await;
    let (after, cpu) = (lab.look().await?, lab.cpu_since(cpu)?);
    let count = sessions.len().max(1) as f64;
    println!(
        "  {} KiB resident: {:.1} for each session; {} descriptors, {} tasks; broker's CPU {:.1} %",
        after.rss_kib,
        after.rss_kib.saturating_sub(before.rss_kib) as f64 / count,
        after.descriptors,
        after.tasks,
        cpu.broker / SETTLE.as_secs_f64() * 100.0
    );
    lab.tell_warnings();
    drop(sessions);
    Ok(lab.returns_to_base().await? & (tally.lost(0) == 0))
}
