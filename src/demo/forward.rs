use std::time::Duration;

use russh::server::{ChannelOpenHandle, Msg};
use russh::{Channel, ChannelOpenFailure};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::address::loopback;
use super::inbox::{Inbox, Poured};
use super::session::copy_out;

/// From the request to the connection.
const CONNECT: Duration = Duration::from_secs(5);

/// Serves one direct-tcpip channel: to loopback alone.
pub(super) async fn serve(channel: Channel<Msg>, host: String, port: u32, reply: ChannelOpenHandle, stop: CancellationToken) {
    let (Ok(address), Ok(port)) = (loopback(&host), u16::try_from(port)) else {
        reply.reject(ChannelOpenFailure::AdministrativelyProhibited).await;
        return;
    };
    let socket = match tokio::time::timeout(CONNECT, TcpStream::connect((address, port))).await {
        Ok(Ok(socket)) => socket,
        Ok(Err(_)) | Err(_) => {
            reply.reject(ChannelOpenFailure::ConnectFailed).await;
            return;
        }
    };
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "a forwarded connection keeps Nagle's algorithm");
    }
    reply.accept().await;
    let (mut messages, output) = channel.split();
    let (from, to) = socket.into_split();
    let mut to = Some(to);
    let mut inbox = Inbox::new();
    let out = async {
        copy_out(from, &output, None).await;
        let _ = output.eof().await;
    };
    let mut out = std::pin::pin!(out);
    let (mut sent, mut delivered) = (false, false);
    while !(sent && delivered) {
        tokio::select! {
            () = &mut out, if !sent => sent = true,
            poured = inbox.pour(&mut messages, &mut to, |_| {}) => match poured {
                Ok(Poured::Delivered) => delivered = true,
                Ok(Poured::Closed) | Err(_) => break,
            },
            () = stop.cancelled() => break,
        }
    }
    drop(messages);
    let _ = output.close().await;
}
