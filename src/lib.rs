//! ssh-broker.

pub mod access;
pub mod audit;
pub mod broker;
pub mod cache;
pub mod client_config;
pub mod door;
pub mod gse;
pub mod keys;
pub mod settings;
pub mod upstream;
