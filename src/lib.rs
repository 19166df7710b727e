//! ssh-broker.

pub mod access;
pub mod audit;
pub mod broker;
pub mod cache;
pub mod door;
pub mod gse;
pub mod transport;
pub mod upstream;
