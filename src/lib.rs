//! ssh-broker.

pub mod access;
pub mod audit;
pub mod broker;
pub mod cache;
pub mod client_config;
pub mod demo;
pub mod door;
pub mod gse;
pub mod keys;
pub mod pins;
pub mod quick_ack;
pub mod service;
pub mod session;
pub mod settings;
pub mod splice;
pub mod transport;
pub mod upstream;
