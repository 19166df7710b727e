//! The simulated world behind `ssh-broker demo` and the end-to-end tests: a GSE endpoint ([`Endpoint`]) and instances ([`Instance`]) on
//! loopback, tied together by [`World`], and what the demo shows of them ([`Tour`]).
//!
//! **Invariant**: nothing here listens or connects outside loopback, and nothing is left behind: tasks, listeners, processes and files
//! end with the value that owns them.

mod action;
mod address;
mod client_home;
mod cloud;
mod connection;
mod endpoint;
mod fault;
mod forward;
mod http;
mod inbox;
mod instance;
mod inventory;
mod keys;
mod ledger;
mod opened;
mod process;
mod run;
mod session;
mod signals;
mod signature;
mod spool;
mod stop;
mod tasks;
mod tour;
mod world;

pub use action::Action;
pub use address::loopback;
pub use client_home::{BrokerFacts, ClientHome};
pub use cloud::Mode;
pub use endpoint::{Endpoint, EndpointConfig};
pub use fault::{Fault, Times};
pub use instance::{Credential, Instance, InstanceConfig};
pub use inventory::{InstanceRecord, Inventory};
pub use keys::{ed25519, random_password};
pub use opened::{AuditFeed, Opened, OpenedEvents, feed};
pub use run::{DemoError, on_a_terminal, run};
pub use signature::ApiKey;
pub use tour::{Ended, Tour};
pub use world::{InstanceSpec, SecretKind, World, WorldConfig};

#[cfg(test)]
mod tests;
