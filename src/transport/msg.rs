//! Message numbers (RFC 4250, 4.1.2; RFC 8308; OpenSSH's PROTOCOL).

pub const DISCONNECT: u8 = 1;
pub const IGNORE: u8 = 2;
pub const UNIMPLEMENTED: u8 = 3;
pub const DEBUG: u8 = 4;
pub const SERVICE_REQUEST: u8 = 5;
pub const SERVICE_ACCEPT: u8 = 6;
pub const EXT_INFO: u8 = 7;
pub const KEXINIT: u8 = 20;
pub const NEWKEYS: u8 = 21;
/// KEXDH_INIT (RFC 4253, 8), KEX_ECDH_INIT (RFC 5656, 4), KEX_HYBRID_INIT.
pub const KEX_INIT: u8 = 30;
/// KEXDH_REPLY, KEX_ECDH_REPLY, KEX_HYBRID_REPLY, and KEX_DH_GEX_GROUP (RFC 4419, 5).
pub const KEX_REPLY: u8 = 31;
pub const GEX_INIT: u8 = 32;
pub const GEX_REPLY: u8 = 33;
pub const GEX_REQUEST: u8 = 34;

/// The last message of the transport layer: 1–49 end at their leg.
pub const LAST_TRANSPORT: u8 = 49;

pub const USERAUTH_REQUEST: u8 = 50;
pub const USERAUTH_FAILURE: u8 = 51;
pub const USERAUTH_SUCCESS: u8 = 52;
pub const USERAUTH_BANNER: u8 = 53;
/// USERAUTH_PK_OK, USERAUTH_PASSWD_CHANGEREQ or USERAUTH_INFO_REQUEST, by method.
pub const USERAUTH_60: u8 = 60;
pub const USERAUTH_INFO_RESPONSE: u8 = 61;

/// The first message of the connection protocol: these pass the splice.
pub const FIRST_CONNECTION: u8 = 80;

pub const GLOBAL_REQUEST: u8 = 80;
pub const REQUEST_SUCCESS: u8 = 81;
pub const REQUEST_FAILURE: u8 = 82;
pub const CHANNEL_OPEN: u8 = 90;
pub const CHANNEL_OPEN_CONFIRMATION: u8 = 91;
pub const CHANNEL_OPEN_FAILURE: u8 = 92;
pub const CHANNEL_WINDOW_ADJUST: u8 = 93;
pub const CHANNEL_DATA: u8 = 94;
pub const CHANNEL_EXTENDED_DATA: u8 = 95;
pub const CHANNEL_EOF: u8 = 96;
pub const CHANNEL_CLOSE: u8 = 97;
pub const CHANNEL_REQUEST: u8 = 98;
pub const CHANNEL_SUCCESS: u8 = 99;
pub const CHANNEL_FAILURE: u8 = 100;

/// `ping@openssh.com` (OpenSSH's PROTOCOL, 1.9).
pub const PING: u8 = 192;
pub const PONG: u8 = 193;

/// Disconnect reason codes (RFC 4250, 4.2.2).
pub mod reason {
    pub const HOST_NOT_ALLOWED: u32 = 1;
    pub const PROTOCOL_ERROR: u32 = 2;
    pub const KEY_EXCHANGE_FAILED: u32 = 3;
    pub const BY_APPLICATION: u32 = 11;
    pub const NO_MORE_AUTH_METHODS: u32 = 14;
}
