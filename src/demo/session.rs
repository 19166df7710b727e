use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use bytes::BytesMut;
use russh::server::{Handle, Msg};
use russh::{Channel, ChannelWriteHalf};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::inbox::{Control, Inbox};
use super::process::{Process, Streams};
use super::signals::signal_name;

/// A process and its streams, handed to the channel's task by the request that started it.
pub(super) type Started = (Process, Streams);

/// Bytes read from a process at once: a message of the connection.
const BLOCK: usize = 32 * 1024;

/// Serves one session channel until the process, the peer or the instance ends.
///
/// The channel is read from its first moment, so that a peer's messages never wait in the connection's loop.
pub(super) async fn serve(channel: Channel<Msg>, mut started: oneshot::Receiver<Started>, handle: Handle, stop: CancellationToken) {
    let id = channel.id();
    let (mut messages, output) = channel.split();
    let mut inbox = Inbox::new();
    let mut nowhere = None::<tokio::io::Sink>;
    let waited = tokio::select! {
        started = &mut started => started.ok(),
        () = stop.cancelled() => None,
        () = inbox.pour_all(&mut messages, &mut nowhere, |_| {}) => None,
    };
    let Some((mut process, streams)) = waited else {
        let _ = output.close().await;
        return;
    };
    let signal = process.signaller();
    let ended = match streams {
        Streams::Pipes { stdin, stdout, stderr } => {
            let mut stdin = Some(stdin);
            let control = |control| {
                if let Control::Signal(name) = control {
                    signal(name);
                }
            };
            let finish = async {
                let copied = tokio::join!(copy_out(stdout, &output, None), copy_out(stderr, &output, Some(1)), process.wait());
                copied.2
            };
            tokio::select! {
                status = finish => Some(status),
                () = stop.cancelled() => None,
                () = inbox.pour_all(&mut messages, &mut stdin, control) => None,
            }
        }
        Streams::Terminal { keyboard, screen } => {
            // A terminal has no end of input: the peer's EOF means nothing to it, as with sshd.
            let finish = async {
                let copied = tokio::join!(copy_out(screen, &output, None), process.wait());
                copied.1
            };
            tokio::select! {
                status = finish => Some(status),
                () = stop.cancelled() => None,
                _ = inbox.pour_terminal(&mut messages, keyboard, signal) => None,
            }
        }
    };
    // What the peer still sends has no reader; a full queue of it would stop the connection's loop, which the sends below need.
    drop(messages);
    match ended {
        Some(Ok(status)) => tell_exit(&handle, &output, id, status).await,
        Some(Err(error)) => tracing::debug!(%error, "a simulated instance lost a process"),
        None => {}
    }
    // The leader may be gone and members of its group not.
    process.end().await;
    let _ = output.close().await;
}

async fn tell_exit(handle: &Handle, output: &ChannelWriteHalf<Msg>, id: russh::ChannelId, status: ExitStatus) {
    let _ = output.eof().await;
    if let Some(number) = status.signal() {
        let name = signal_name(number);
        let _ = handle.exit_signal_request(id, name, status.core_dumped(), String::new(), String::new()).await;
    } else {
        let code = status.code().and_then(|code| u32::try_from(code).ok()).unwrap_or(255);
        let _ = output.exit_status(code).await;
    }
}

/// Copies until the end of `from`. Waits for the peer's window, so a slow peer slows the process.
pub(super) async fn copy_out(mut from: impl AsyncRead + Unpin, to: &ChannelWriteHalf<Msg>, extended: Option<u32>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(BLOCK);
        // A terminal whose last process ended reads as EIO: its end of file.
        if !matches!((&mut from).take(BLOCK as u64).read_buf(&mut buffer).await, Ok(1..)) {
            return;
        }
        let block = buffer.split().freeze();
        let sent = match extended {
            None => to.data_bytes(block).await,
            Some(code) => to.extended_data_bytes(code, block).await,
        };
        if sent.is_err() {
            return;
        }
    }
}
