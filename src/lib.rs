//! ssh-broker.

pub mod access;
pub mod audit;
pub mod broker;
pub mod cache;
pub mod demo;
pub mod door;
pub mod gse;
pub mod upstream;
