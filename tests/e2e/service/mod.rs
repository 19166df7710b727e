//! The process around the broker: what a service manager, an administrator and Prometheus see of it.

mod metrics;
mod notify;
mod reload;
mod stop;
mod supervisor;
mod units;
mod upgrade;
