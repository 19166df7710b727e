use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use russh::{AlgorithmKind, Disconnect};
use tokio::time::{Instant, timeout, timeout_at};

use super::Shared;
use super::connection::{Connection, ConnectionError};
use super::jump::Jumps;
use super::listener::Admitted;
use super::login::Login;
use super::prelude::{IDENTIFICATION, Prelude};
use super::quick_ack::QuickAck;
use super::wire::Wire;

/// How long a client may take over the goodbye.
const GOODBYE: Duration = Duration::from_secs(6);

/// One connection from accept to end. Its permit is given back when the library is done with it.
pub(super) async fn serve(shared: Arc<Shared>, admitted: Admitted) {
    let rules = shared.rules();
    let login_ends = Instant::now() + rules.login_grace;
    let Admitted { socket, source, connection: _permit, startup } = admitted;

    let (wire, prelude) = match timeout_at(login_ends, begin(socket)).await {
        Ok(Ok(begun)) => begun,
        Ok(Err(error)) => return tracing::debug!(%source, %error, "a peer did not identify itself"),
        Err(_) => return tracing::debug!(%source, "a peer did not identify itself in time"),
    };
    let login = Login::new(source);
    let authenticated = Arc::new(AtomicBool::new(false));
    let config = shared.algorithms.for_client(&prelude.client_version, shared.failed_at_gcm.contains(source.ip()));
    let wire = Wire::new(wire, prelude.taken, IDENTIFICATION.len() + 2, login_ends, authenticated.clone());
    let connection = Connection {
        shared: shared.clone(),
        rules,
        login: login.clone(),
        source,
        client_version: prelude.client_version,
        authenticated,
        startup: Some(startup),
        operator: None,
        jumps: Jumps::new(shared.slots.connection()),
    };

    let ended = match russh::server::run_stream(config, wire, connection).await {
        Ok(running) => until_closing(&shared, running).await,
        Err(error) => Err(error),
    };
    if let Err(ConnectionError::Ssh(russh::Error::NoCommonAlgo { kind: AlgorithmKind::Cipher, .. })) = &ended {
        tracing::info!(%source, "a client has AES-GCM switched off: it is offered other ciphers when it comes again");
        shared.failed_at_gcm.insert(source.ip());
    }
    let how = match &ended {
        Ok(()) => "the client gave up: no key was accepted".to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::debug!(%source, how, "a connection ended");
    login.report(&shared.audit, &how).await;
}

async fn begin(socket: tokio::net::TcpStream) -> io::Result<(QuickAck, Prelude)> {
    let mut wire = QuickAck::new(socket)?;
    let prelude = Prelude::exchange(&mut wire).await?;
    Ok((wire, prelude))
}

async fn until_closing(shared: &Shared, mut running: russh::server::RunningSession<Connection>) -> Result<(), ConnectionError> {
    let handle = running.handle();
    tokio::select! {
        ended = &mut running => ended,
        () = shared.closing.cancelled() => {
            let text = "the broker is going down for a restart".to_owned();
            let goodbye = async {
                let _ = handle.disconnect(Disconnect::ByApplication, text, String::new()).await;
                running.await
            };
            timeout(GOODBYE, goodbye).await.unwrap_or(Ok(()))
        }
    }
}
