//! The daemon: everything put together, and the process around it.

mod assemble;
mod daemon;
mod drain;
mod handover;
mod health;
mod http;
mod metrics;
mod notify;
mod panics;
mod process;
mod reload;
mod signals;
mod sockets;
mod status;
mod watchdog;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thiserror::Error;

pub use assemble::{Parts, Service};
pub use handover::{Invocation, Predecessor};
pub use process::harden;
pub use sockets::Sockets;

use crate::audit::{Audit, AuditError};
use crate::broker::BoxFuture;
use crate::door::DoorError;
use crate::gse::ClientError;
use crate::keys::{Keys, KeysError};
use crate::pins::PinsError;
use crate::settings::Settings;
use daemon::Daemon;
use metrics::Metrics;
use signals::Signals;
use status::Status;

#[derive(Debug, Error)]
pub enum ServiceError {
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error(transparent)]
    Pins(#[from] PinsError),
    #[error(transparent)]
    Cloud(#[from] ClientError),
    #[error(transparent)]
    Door(#[from] DoorError),
    #[error("cannot listen on {address}: {source}")]
    Listen { address: String, source: io::Error },
    #[error("cannot set up the metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    #[error("cannot prepare the process: {0}")]
    Process(#[from] io::Error),
}

/// For the audit's last lines, should its sink be slow.
const LAST_LINES: Duration = Duration::from_secs(10);

/// What a daemon begins with.
pub struct Start {
    pub settings: Settings,
    /// Where they were read from, and are again on a reload.
    pub file: PathBuf,
    pub invocation: Invocation,
    /// What was handed over; the rest is opened.
    pub sockets: Sockets,
    /// The process to take over from.
    pub predecessor: Option<Predecessor>,
}

/// Runs the daemon: until SIGTERM or SIGINT, or until another process has taken over, and then to the end of the sessions.
pub fn serve(start: Start) -> BoxFuture<'static, Result<(), ServiceError>> {
    // Boxed here, so that what it awaits is compiled once, in this crate, and not a second time for the program.
    Box::pin(run(start))
}

async fn run(start: Start) -> Result<(), ServiceError> {
    let Start { settings, file, invocation, mut sockets, predecessor } = start;
    panics::tell_without_payload();
    process::keep_freed_memory();
    let signals = Signals::catch()?;
    let keys = Keys::load_or_create(&settings.state_dir)?;
    let metrics = Arc::new(Metrics::new()?);
    let (audit, writer) = Audit::start(&settings.audit, metrics.observer())?;
    let (reloads, requests) = reload::line();
    let service = Arc::new(Service::assemble(Parts { settings: settings.clone(), keys, audit, reload: Some(Arc::new(reloads)) }).await?);
    sockets.complete(&settings.door.addresses, settings.process.metrics)?;
    for listener in &sockets.door {
        tracing::info!(address = %listener.local_addr()?, "listening");
    }
    let daemon = Daemon { service: service.clone(), settings, file, invocation, metrics, status: Status::default(), signals, requests };
    daemon.run(sockets, predecessor).await?;
    tracing::info!("stopped");
    // Every session has ended, and with it its handle of the audit; what was recorded is written before the process ends.
    drop(service);
    let deadline = Instant::now() + LAST_LINES;
    while !writer.is_finished() && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    if !writer.is_finished() {
        tracing::error!("the last audit events could not be written");
    }
    Ok(())
}
