use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use russh::server::Msg;
use russh::{Channel, ChannelId, ChannelOpenFailure};

use super::gauge::{Counted, Gauge, TRICKLE};
use super::pipe::Pipe;
use super::slots::{ConnectionSlots, Slots};
use super::{Jump, Sessions};
use crate::access::{Code, Failure, FleetAliases, Operator, TargetName};

/// The port of every target's name: the real one is the configuration's to know.
const PORT: u32 = 22;
/// Channels of one connection that this side closed first. The library keeps about 4 KiB for each until the connection ends.
const LEFT_OPEN_MAX: usize = 4096;

/// The jumps of one authenticated connection.
pub(super) struct Jumps {
    slots: ConnectionSlots,
    gauges: HashMap<ChannelId, Arc<Gauge>>,
    left_open: Arc<AtomicUsize>,
}

impl Jumps {
    pub(super) fn new(slots: ConnectionSlots) -> Self {
        Self { slots, gauges: HashMap::new(), left_open: Arc::default() }
    }

    /// Starts the session of a direct-tcpip channel, or says with which code the channel is refused. What the operator is to read is told
    /// on an accepted channel, because a refused one carries no text of ours.
    pub(super) fn open(&mut self, channel: Channel<Msg>, asked: Asked<'_>) -> Result<(), ChannelOpenFailure> {
        if asked.port != PORT {
            return Err(ChannelOpenFailure::AdministrativelyProhibited);
        }
        if self.left_open.load(Ordering::Relaxed) >= LEFT_OPEN_MAX {
            return Err(ChannelOpenFailure::ResourceShortage);
        }
        let name = TargetName::parse(asked.host, asked.fleet_aliases)
            .map_err(|invalid| Failure::new(Code::TargetName, invalid.to_string()))
            .and_then(|name| Ok((name, asked.limits.take(&asked.operator.name, &self.slots)?)));
        let (name, permit, sentence) = match name {
            Ok((name, permit)) => (Ok(name), Some(permit), None),
            Err(failure) => (Err(failure), None, Some(self.slots.sentence().ok_or(ChannelOpenFailure::ResourceShortage)?)),
        };

        let gauge = Gauge::new(asked.pipe);
        self.gauges.retain(|_, gauge| !gauge.is_closed());
        self.gauges.insert(channel.id(), gauge.clone());
        let jump = Jump {
            operator: asked.operator.clone(),
            client_version: asked.client_version.to_owned(),
            typed: asked.host.get(..asked.host.floor_char_boundary(TargetName::MAX_LEN)).unwrap_or_default().to_owned(),
            name,
            stream: Box::new(Pipe::new(channel, gauge, self.left_open.clone())),
        };
        let session = asked.sessions.run(jump);
        tokio::spawn(async move {
            session.await;
            drop((permit, sentence));
        });
        Ok(())
    }

    /// Counts a message that went into a channel's queue. False when its session takes nothing any more.
    pub(super) async fn count(&self, channel: ChannelId, bytes: usize) -> bool {
        match self.gauges.get(&channel) {
            Some(gauge) => gauge.put(bytes).await == Counted::Fits,
            None => true,
        }
    }

    /// The target of the next grant, after one on `channel`. The library has one for all the channels of a connection, so while a client
    /// presses on a full pipe the others trickle too.
    pub(super) fn window(&self, channel: ChannelId, usual: u32) -> u32 {
        let full = self.gauges.get(&channel).is_some_and(|gauge| gauge.is_full());
        if full || self.gauges.values().any(|gauge| gauge.is_pressed()) { TRICKLE } else { usual }
    }

    pub(super) fn closed(&mut self, channel: ChannelId) {
        if let Some(gauge) = self.gauges.remove(&channel) {
            gauge.close();
        }
    }
}

impl Drop for Jumps {
    /// The connection is gone: no writer is to wait for its window.
    fn drop(&mut self) {
        self.gauges.values().for_each(|gauge| gauge.close());
    }
}

/// One direct-tcpip open (RFC 4254, 7.2) of an operator, and what it is judged by.
pub(super) struct Asked<'a> {
    pub(super) operator: &'a Operator,
    pub(super) client_version: &'a str,
    pub(super) host: &'a str,
    pub(super) port: u32,
    pub(super) fleet_aliases: &'a FleetAliases,
    pub(super) limits: &'a Slots,
    /// Bytes.
    pub(super) pipe: usize,
    pub(super) sessions: &'a dyn Sessions,
}
