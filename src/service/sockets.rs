use std::io;
use std::net::{SocketAddr, TcpListener};

use super::ServiceError;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// The listening sockets, whoever opened them.
#[derive(Debug, Default)]
pub struct Sockets {
    /// Where operators connect.
    pub(super) door: Vec<TcpListener>,
    /// Where metrics are asked for.
    pub(super) metrics: Option<TcpListener>,
}

impl Sockets {
    /// Those that systemd hands over (`sd_listen_fds(3)`), if any. Changes the environment: to be called before there is a second thread.
    pub fn from_systemd() -> io::Result<Self> {
        let mut handed = listenfd::ListenFd::from_env();
        let mut door = Vec::new();
        for index in 0..handed.len() {
            door.extend(handed.take_tcp_listener(index)?);
        }
        Ok(Self { door, metrics: None })
    }

    /// Opens what was not handed over.
    pub(super) fn complete(&mut self, door: &[SocketAddr], metrics: Option<SocketAddr>) -> Result<(), ServiceError> {
        if self.door.is_empty() {
            self.door = door.iter().map(|address| listen(*address)).collect::<Result<_, _>>()?;
        }
        self.metrics = match (self.metrics.take(), metrics) {
            (Some(listener), Some(wanted)) if listener.local_addr().is_ok_and(|address| address == wanted) => Some(listener),
            (_, wanted) => wanted.map(listen).transpose()?,
        };
        for listener in self.door.iter().chain(&self.metrics) {
            listener.set_nonblocking(true)?;
        }
        Ok(())
    }

    /// The same sockets once more, to be handed to another process.
    pub(super) fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            door: self.door.iter().map(TcpListener::try_clone).collect::<Result<_, _>>()?,
            metrics: self.metrics.as_ref().map(TcpListener::try_clone).transpose()?,
        })
    }
}

/// A dual-stack address takes IPv4 too, whatever the system's default.
fn listen(address: SocketAddr) -> Result<TcpListener, ServiceError> {
    use socket2::{Domain, Protocol, Socket, Type};
    let opened = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    opened().map_err(|source| ServiceError::Listen { address: address.to_string(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_handed_over_wins_and_the_rest_is_opened() {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let handed = TcpListener::bind(any).unwrap();
        let at = handed.local_addr().unwrap();
        let metrics_at = TcpListener::bind(any).unwrap().local_addr().unwrap();
        let mut sockets = Sockets { door: vec![handed], metrics: Some(TcpListener::bind(any).unwrap()) };
        sockets.complete(&["192.0.2.1:1".parse().unwrap()], Some(metrics_at)).unwrap();
        assert_eq!(sockets.door.first().unwrap().local_addr().unwrap(), at);
        assert_eq!(sockets.metrics.as_ref().unwrap().local_addr().unwrap(), metrics_at, "another address than before");
        sockets.complete(&[], None).unwrap();
        assert!(sockets.metrics.is_none(), "metrics are off now");

        let taken = Sockets::default().complete(&[at], None).unwrap_err().to_string();
        assert!(taken.contains(&format!("cannot listen on {at}")), "{taken}");
    }
}
