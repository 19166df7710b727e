//! The messages that both ends send, for the one channel that there is.

use ssh_broker::transport::msg;
use ssh_broker::transport::wire::{put_string, put_u32};

/// More than a session moves here: nobody has to grant more.
const WINDOW: u32 = u32::MAX;
const MAX_PACKET: u32 = 32 * 1024;

pub fn open() -> Vec<u8> {
    let mut message = vec![msg::CHANNEL_OPEN];
    put_string(&mut message, b"session");
    for number in [0, WINDOW, MAX_PACKET] {
        put_u32(&mut message, number);
    }
    message
}

pub fn confirm() -> Vec<u8> {
    let mut message = vec![msg::CHANNEL_OPEN_CONFIRMATION];
    for number in [0, 0, WINDOW, MAX_PACKET] {
        put_u32(&mut message, number);
    }
    message
}

pub fn exec(command: &str) -> Vec<u8> {
    let mut message = vec![msg::CHANNEL_REQUEST];
    put_u32(&mut message, 0);
    put_string(&mut message, b"exec");
    message.push(1);
    put_string(&mut message, command.as_bytes());
    message
}

pub fn exit_status() -> Vec<u8> {
    let mut message = vec![msg::CHANNEL_REQUEST];
    put_u32(&mut message, 0);
    put_string(&mut message, b"exit-status");
    message.push(0);
    put_u32(&mut message, 0);
    message
}

pub fn data(bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![msg::CHANNEL_DATA];
    put_u32(&mut message, 0);
    put_string(&mut message, bytes);
    message
}

/// `CHANNEL_SUCCESS`, `CHANNEL_EOF`, `CHANNEL_CLOSE`
pub fn of_channel(kind: u8) -> Vec<u8> {
    let mut message = vec![kind];
    put_u32(&mut message, 0);
    message
}
