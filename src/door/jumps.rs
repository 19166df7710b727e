use std::collections::HashMap;
use std::sync::Arc;

use russh::server::Msg;
use russh::{Channel, ChannelId};

use super::gauge::{Counted, Gauge, TRICKLE};
use super::stream::JumpStream;

/// The jumps of one connection, by their channels.
#[derive(Default)]
pub(super) struct Jumps(HashMap<ChannelId, Arc<Gauge>>);

impl Jumps {
    /// The stream of a channel that was just opened; `pipe`: bytes that may wait for its session.
    pub(super) fn open(&mut self, channel: Channel<Msg>, pipe: usize) -> JumpStream {
        let gauge = Gauge::new(pipe);
        self.0.retain(|_, gauge| !gauge.is_closed());
        self.0.insert(channel.id(), gauge.clone());
        JumpStream::new(channel, gauge)
    }

    /// Counts a message that went into a channel's queue.
    pub(super) async fn count(&self, channel: ChannelId, bytes: usize) -> Counted {
        match self.0.get(&channel) {
            Some(gauge) => gauge.put(bytes, self.0.len() > 1).await,
            None => Counted::Fits,
        }
    }

    /// What the next grant fills a window up to, after one on `channel`. The library has one such number for all channels of a connection:
    /// while a client presses on a session that takes nothing, the grants of the others are small too.
    pub(super) fn window(&self, channel: ChannelId, usual: u32) -> u32 {
        let full = self.0.get(&channel).is_some_and(|gauge| gauge.is_full());
        if full || self.0.values().any(|gauge| gauge.is_pressed()) { TRICKLE } else { usual }
    }

    pub(super) fn closed(&mut self, channel: ChannelId) {
        if let Some(gauge) = self.0.remove(&channel) {
            gauge.close();
        }
    }
}
