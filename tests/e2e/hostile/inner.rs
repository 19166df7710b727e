//! The inner leg in our own hands: a stock `ssh -W` carries it, and what it says is ours.

use std::process::Stdio;

use ssh_broker::transport::{Connection, Leg, Preferences, TransportError, msg};
use tokio::io::{Join, join};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::client::{Message, within};
use crate::lab::Lab;

pub struct Inner {
    pub connection: Connection<Join<ChildStdout, ChildStdin>>,
    _ssh: Child,
}

impl Inner {
    /// With the key exchange behind it, nobody let in yet.
    pub async fn connect(lab: &Lab, version: &str) -> Result<Self, TransportError> {
        let mut command = tokio::process::Command::from(lab.ssh(&["-W", "ins-a:22", "broker"]));
        let mut ssh = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn()?;
        let stream = join(ssh.stdout.take().unwrap(), ssh.stdin.take().unwrap());
        let mut connection = Connection::new(Leg::client(Preferences::modern(), version)?, stream);
        within(connection.establish()).await?;
        Ok(Self { connection, _ssh: ssh })
    }

    /// Let in, as whoever the outer connection has proven.
    pub async fn session(lab: &Lab) -> Result<Self, TransportError> {
        let mut inner = Self::connect(lab, "SSH-2.0-OpenSSH_9.2p1").await?;
        inner.say(&Message::new(msg::SERVICE_REQUEST).text("ssh-userauth")).await?;
        inner.say(&Message::new(msg::USERAUTH_REQUEST).text("x").text("ssh-connection").text("none")).await?;
        while inner.hear().await? != [msg::USERAUTH_SUCCESS] {}
        Ok(inner)
    }

    /// A session channel's number at the instance.
    pub async fn channel(&mut self) -> Result<u32, TransportError> {
        self.say(&Message::new(msg::CHANNEL_OPEN).text("session").u32(0).u32(2 << 20).u32(32 * 1024)).await?;
        loop {
            let message = self.hear().await?;
            if message.first() == Some(&msg::CHANNEL_OPEN_CONFIRMATION) {
                return Ok(u32::from_be_bytes(message[5..9].try_into().unwrap()));
            }
        }
    }

    pub async fn say(&mut self, message: &Message) -> Result<(), TransportError> {
        self.connection.leg.send(&message.0)?;
        within(self.connection.drain()).await
    }

    pub async fn hear(&mut self) -> Result<Vec<u8>, TransportError> {
        within(self.connection.next()).await
    }

    pub async fn until_ended(&mut self) -> (Vec<Vec<u8>>, TransportError) {
        let mut heard = Vec::new();
        loop {
            match self.hear().await {
                Ok(message) => heard.push(message),
                Err(error) => return (heard, error),
            }
        }
    }
}
