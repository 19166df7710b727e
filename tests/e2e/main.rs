//! End to end with somebody else's programs at both ends. `tests/run` installs what they need.

#![allow(unreachable_pub, reason = "one crate, no interface")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic, reason = "a test that cannot go on must stop")]

mod algorithms;
mod audit;
mod clients;
mod cloud;
mod commands;
mod conformance;
mod disk;
mod failures;
mod gate;
mod grants;
mod hostile;
mod lab;
mod leaks;
mod legacy;
mod memory;
mod recording;
mod service;
mod sessions;
mod shared;
mod splice;
mod trust;
