use std::num::NonZeroU16;

use serde::Serialize;

use super::Asked;
use super::answer::{Answer, Exit, Report};
use crate::client_config::{BrokerHost, Paste};
use crate::keys::PublicKeys;

#[derive(Serialize)]
struct SshConfig {
    #[serde(flatten)]
    paste: Paste,
    #[serde(skip)]
    guessed: bool,
}

impl Report for SshConfig {
    fn page(&self) -> String {
        let note = "# HostName is the address that you have reached the broker at: `ssh broker ssh-config NAME [PORT]` writes another.\n\n";
        format!("{}{}", if self.guessed { note } else { "" }, self.paste)
    }
}

/// What `ssh-broker client-config` prints; without a name, for the address that this very connection came to.
pub(super) fn ssh_config(keys: &PublicKeys, host: Option<BrokerHost>, port: Option<NonZeroU16>, asked: &Asked) -> Answer {
    let guessed = host.is_none();
    let reached = || BrokerHost::parse(&asked.reached.ip().to_canonical().to_string());
    let Ok(host) = host.map_or_else(reached, Ok) else { return Answer::broken("name the broker: ssh-config HOST [PORT]") };
    let Some(port) = port.or_else(|| NonZeroU16::new(asked.reached.port())) else {
        return Answer::broken("name the port: ssh-config HOST PORT");
    };
    match Paste::new(&host, port, keys) {
        Ok(paste) => Answer::of(&SshConfig { paste, guessed }, Exit::Done),
        Err(error) => Answer::broken(&error.to_string()),
    }
}
