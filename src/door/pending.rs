use russh::server::{ChannelOpenHandle, Msg};
use russh::{Channel, ChannelOpenFailure};

use super::{ByteStream, PendingChannel, Refusal};
use crate::broker::BoxFuture;

/// The library's channel with its answer.
pub(super) struct Pending {
    pub(super) channel: Channel<Msg>,
    pub(super) reply: ChannelOpenHandle,
}

impl PendingChannel for Pending {
    fn accept(self: Box<Self>) -> BoxFuture<'static, Box<dyn ByteStream>> {
        Box::pin(async move {
            self.reply.accept().await;
            Box::new(self.channel.into_stream()) as Box<dyn ByteStream>
        })
    }

    fn refuse(self: Box<Self>, kind: Refusal, sentence: String) -> BoxFuture<'static, ()> {
        let code = match kind {
            Refusal::Prohibited => 1,
            Refusal::ConnectFailed => 2,
            Refusal::Shortage => 4,
        };
        // `Other` alone takes a text of ours; its code is any.
        Box::pin(self.reply.reject(ChannelOpenFailure::Other { code, reason: sentence }))
    }
}
