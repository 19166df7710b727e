use std::io;

use pty_process::{OwnedWritePty, Size};
use russh::{ChannelMsg, ChannelReadHalf};
use rustix::process::Signal;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::signals::signal_number;
use super::spool::Spool;

/// What a peer asks of a running process besides input.
pub(super) enum Control {
    Resize(Size),
    Signal(Signal),
}

/// The peer's input on its way to a process or a socket.
pub(super) struct Inbox {
    spool: Spool,
    eof: bool,
    /// Nobody will read what comes.
    deaf: bool,
}

/// What came of pouring.
pub(super) enum Poured {
    /// The peer's last byte is delivered, or its reader is gone.
    Delivered,
    /// The peer closed the channel, or is gone itself.
    Closed,
}

impl Inbox {
    pub(super) fn new() -> Self {
        Self { spool: Spool::new(), eof: false, deaf: false }
    }

    /// Takes every message of the channel and writes its data to `sink`, which is taken and closed when all of it is delivered, or when
    /// its reader is gone (what comes then is dropped). Without a sink, data is kept. May be called again after it was dropped or returned.
    ///
    /// # Errors
    /// When the spool cannot be written or read.
    pub(super) async fn pour<W: AsyncWrite + Unpin>(
        &mut self,
        messages: &mut ChannelReadHalf,
        sink: &mut Option<W>,
        mut control: impl FnMut(Control),
    ) -> io::Result<Poured> {
        loop {
            if self.eof
                && self.spool.is_empty()
                && let Some(mut ended) = sink.take()
            {
                // A pipe closes when it is dropped, a socket is half-closed here.
                let _ = ended.shutdown().await;
                return Ok(Poured::Delivered);
            }
            tokio::select! {
                message = messages.wait(), if self.spool.has_room() => match message {
                    None | Some(ChannelMsg::Close) => return Ok(Poured::Closed),
                    Some(message) => self.take(message, &mut control)?,
                },
                written = write_some(sink.as_mut(), self.spool.head()) => match written {
                    Ok(count @ 1..) => self.spool.consume(count)?,
                    Ok(0) | Err(_) => {
                        *sink = None;
                        self.deaf = true;
                        self.spool.clear();
                        return Ok(Poured::Delivered);
                    }
                },
            }
        }
    }

    /// The same until the peer closes the channel.
    pub(super) async fn pour_all<W: AsyncWrite + Unpin>(
        &mut self,
        messages: &mut ChannelReadHalf,
        sink: &mut Option<W>,
        mut control: impl FnMut(Control),
    ) {
        while let Ok(Poured::Delivered) = self.pour(messages, sink, &mut control).await {}
    }

    /// The same for a terminal, which can be resized meanwhile.
    pub(super) async fn pour_terminal(
        &mut self,
        messages: &mut ChannelReadHalf,
        keyboard: OwnedWritePty,
        signal: impl Fn(Signal),
    ) -> io::Result<()> {
        let mut keyboard = keyboard;
        loop {
            let mut resized = None;
            tokio::select! {
                message = messages.wait(), if self.spool.has_room() => match message {
                    None | Some(ChannelMsg::Close) => return Ok(()),
                    Some(message) => self.take(message, &mut |control| match control {
                        Control::Resize(size) => resized = Some(size),
                        Control::Signal(name) => signal(name),
                    })?,
                },
                written = write_some(Some(&mut keyboard), self.spool.head()) => match written {
                    Ok(count @ 1..) => self.spool.consume(count)?,
                    Ok(0) | Err(_) => self.spool.clear(),
                },
            }
            if let Some(size) = resized
                && let Err(error) = keyboard.resize(size)
            {
                tracing::debug!(%error, "a terminal of a simulated instance could not be resized");
            }
        }
    }

    fn take(&mut self, message: ChannelMsg, control: &mut impl FnMut(Control)) -> io::Result<()> {
        match message {
            ChannelMsg::Data { data } if !self.deaf && !self.eof => self.spool.push(data)?,
            ChannelMsg::Eof => self.eof = true,
            ChannelMsg::WindowChange { col_width, row_height, pix_width, pix_height } => {
                control(Control::Resize(size(col_width, row_height, pix_width, pix_height)));
            }
            ChannelMsg::Signal { signal } => {
                if let Some(signal) = signal_number(&signal) {
                    control(Control::Signal(signal));
                }
            }
            // Requests were answered by the connection's handler; a client sends no extended data (RFC 4254, 5.2).
            _ => {}
        }
        Ok(())
    }
}

/// Pending while there is nothing to write or nowhere to write it.
async fn write_some<W: AsyncWrite + Unpin>(sink: Option<&mut W>, bytes: &[u8]) -> io::Result<usize> {
    match sink {
        Some(sink) if !bytes.is_empty() => sink.write(bytes).await,
        _ => std::future::pending().await,
    }
}

/// Sizes come from the peer; a terminal's are 16 bits.
pub(super) fn size(columns: u32, rows: u32, width: u32, height: u32) -> Size {
    let short = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    Size::new_with_pixel(short(rows), short(columns), short(width), short(height))
}
