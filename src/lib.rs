//! ssh-broker.

pub mod access;
pub mod audit;
pub mod broker;
pub mod cache;
pub mod door;
pub mod gse;
pub mod pins;
pub mod quick_ack;
pub mod session;
pub mod splice;
pub mod transport;
pub mod upstream;
