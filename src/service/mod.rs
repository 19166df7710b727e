//! The daemon: everything put together, run until it is told to stop.

mod assemble;
mod panics;
mod process;

use std::future::Future;
use std::io;

use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

pub use assemble::{Parts, Service};
pub use process::harden;

use crate::audit::{Audit, AuditError};
use crate::door::DoorError;
use crate::gse::ClientError;
use crate::keys::{Keys, KeysError};
use crate::pins::PinsError;
use crate::settings::Settings;

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
    #[error("cannot prepare the process: {0}")]
    Process(#[from] io::Error),
}

/// Runs the daemon until SIGTERM or SIGINT.
pub async fn serve(settings: Settings) -> Result<(), ServiceError> {
    panics::tell_without_payload();
    let keys = Keys::load_or_create(&settings.state_dir)?;
    let (audit, writer) = Audit::start(&settings.audit, Box::new(|_| {}))?;
    let addresses = settings.door.addresses.clone();
    let service = Service::assemble(Parts { settings, keys, audit }).await?;
    let mut listeners = Vec::new();
    for address in addresses {
        let listener = listen(address).map_err(|source| ServiceError::Listen { address: address.to_string(), source })?;
        tracing::info!(address = %listener.local_addr()?, "listening");
        listeners.push(listener);
    }
    let stop = CancellationToken::new();
    let terminate = terminated()?;
    tokio::spawn({
        let stop = stop.clone();
        async move {
            terminate.await;
            stop.cancel();
        }
    });
    service.run(listeners, stop).await;
    tracing::info!("stopped");
    // Every session has ended and with it every handle: what was recorded is written before the process ends.
    drop(service);
    let _ = tokio::task::spawn_blocking(move || writer.join()).await;
    Ok(())
}

/// A dual-stack address takes IPv4 too, whatever the system's default.
fn listen(address: std::net::SocketAddr) -> io::Result<TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

fn terminated() -> io::Result<impl Future<Output = ()>> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
    })
}
