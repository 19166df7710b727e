//! What `tests/load` measures a broker with: simulated operators, instances and cloud in this process, the broker in one of its own.

mod arguments;
mod broker;
mod dice;
mod heard;
mod instance;
mod operator;
mod parts;
mod process;
mod tally;
mod wire;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;

use arguments::{Arguments, Part};
use parts::Lab;

/// What a part may take beyond the time that it is told to take.
const BESIDE: Duration = Duration::from_secs(180);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let limit = arguments.total() + BESIDE * 4;
    match tokio::time::timeout(limit, run(arguments)).await {
        Ok(Ok(true)) => ExitCode::SUCCESS,
        Ok(Ok(false)) => ExitCode::FAILURE,
        Ok(Err(error)) => {
            eprintln!("load: {error}");
            ExitCode::from(2)
        }
        Err(_) => {
            eprintln!("load: not done within {limit:?}");
            ExitCode::from(2)
        }
    }
}

/// Whether everything was as it must be.
async fn run(arguments: Arguments) -> std::io::Result<bool> {
    let lab = Arc::new(Lab::start(&arguments).await?);
    let mut good = true;
    for part in arguments.parts() {
        good &= match part {
            Part::Rate => parts::rate::run(&lab, &arguments).await?,
            Part::Idle => parts::idle::run(&lab, &arguments).await?,
            Part::Busy => parts::busy::run(&lab, &arguments).await?,
            Part::Soak => parts::soak::run(&lab, &arguments).await?,
        };
    }
    Ok(good)
}
