use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::table::Table;
use super::{LogFormat, Process, value};

const DRAIN: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(7 * 24);

pub(super) fn process(root: &mut Table<'_>) -> Process {
    let mut service = root.table("service");
    let drain_timeout = service.duration("drain_timeout", DRAIN, Duration::from_hours(24));
    let stop_timeout = service.duration("stop_timeout", DRAIN, Duration::from_secs(60));
    service.finish();
    let mut log = root.table("log");
    let format = log.choice("format", &[("text", LogFormat::Text), ("json", LogFormat::Json)]).unwrap_or(LogFormat::Text);
    log.finish();
    Process { drain_timeout, stop_timeout, metrics: metrics(root.table("metrics")), log: format }
}

fn metrics(mut table: Table<'_>) -> Option<SocketAddr> {
    let public = table.boolean("public").unwrap_or(false);
    let address = table.text("address", "an address with its port in quotes, such as \"127.0.0.1:9722\"", value::socket_address);
    if let Some(address) = address
        && !address.ip().to_canonical().is_loopback()
        && !public
    {
        table.error("address", format!("{address} can be reached from other machines: write a loopback address, or metrics.public = true"));
    }
    table.finish();
    address
}
