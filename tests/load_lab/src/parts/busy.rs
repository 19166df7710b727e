use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::Lab;
use crate::arguments::Arguments;
use crate::instance::ANSWER;
use crate::tally::Tally;

const LASTS: Duration = Duration::from_secs(20);
/// Between keystrokes of one session.
const PACE: Duration = Duration::from_millis(100);

/// Sessions that type all the time and are shown 4 KiB for each keystroke.
pub async fn run(lab: &Arc<Lab>, arguments: &Arguments) -> io::Result<bool> {
    println!("busy: {} sessions, each with 10 keystrokes a second that bring {ANSWER} bytes, for {LASTS:?}", arguments.busy);
    let logins = Arc::new(Tally::default());
    let sessions = lab.open(arguments.busy, "echo", &logins).await;
    println!("  opened: {logins}");
    let (begin, cpu) = (Instant::now(), lab.cpu()?);
    let keystrokes = Arc::new(Tally::default());
    let mut typing = JoinSet::new();
    for mut session in sessions {
        let keystrokes = keystrokes.clone();
        typing.spawn(async move {
            let mut tick = interval(PACE);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while begin.elapsed() < LASTS {
                tick.tick().await;
                let pressed = Instant::now();
                let shown = session.exchange(ANSWER).await;
                let is_over = shown.is_err();
                keystrokes.count(pressed.elapsed(), shown);
                if is_over {
                    break;
                }
            }
        });
    }
    tokio::time::sleep(LASTS / 2).await;
    let middle = lab.look().await?;
    while typing.join_next().await.is_some() {}
    let (took, cpu) = (begin.elapsed().as_secs_f64(), lab.cpu_since(cpu)?);
    println!("  keystrokes: {keystrokes}");
    println!(
        "  {:.0} keystrokes a second; processors in use: broker {:.2}, operators and instances {:.2}; {} KiB resident",
        keystrokes.done() as f64 / took,
        cpu.broker / took,
        cpu.load / took,
        middle.rss_kib
    );
    Ok(lab.returns_to_base().await? & (logins.lost(0) + keystrokes.lost(0) == 0))
}
