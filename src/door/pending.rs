use russh::ChannelOpenFailure;
use russh::server::ChannelOpenHandle;

use super::stream::JumpStream;
use super::{ByteStream, PendingChannel, Refusal};
use crate::broker::BoxFuture;

/// A channel's stream with its answer.
pub(super) struct Pending {
    pub(super) stream: JumpStream,
    pub(super) reply: ChannelOpenHandle,
}

impl PendingChannel for Pending {
    fn accept(self: Box<Self>) -> BoxFuture<'static, Box<dyn ByteStream>> {
        Box::pin(async move {
            self.reply.accept().await;
            Box::new(self.stream) as Box<dyn ByteStream>
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
