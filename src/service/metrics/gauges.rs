use std::fs;

use metrics::{counter, gauge};
use rustix::process::{Resource, getrlimit};
use tokio::runtime::Handle;

use super::names;
use crate::cache::Lookups;
use crate::service::Service;

/// Looks up what is not counted from events.
pub(super) fn look(service: &Service) {
    process();
    gauge!(names::SESSIONS).set(number(service.live.list().len()));
    let connections = service.door.connections();
    gauge!(names::CONNECTIONS, "state" => "proven").set(number(connections.proven));
    gauge!(names::CONNECTIONS, "state" => "unproven").set(number(connections.unproven));
    gauge!(names::TASKS).set(number(service.door.tasks() + Handle::current().metrics().num_alive_tasks()));
    api(service);
    audit(service);
    for (need, state) in service.needs() {
        gauge!(names::READY, "need" => need).set(u8::from(state.is_ok()));
    }
}

fn api(service: &Service) {
    let stats = service.leases.cloud().stats();
    for calls in stats.calls {
        counter!(names::API_CALLS, "action" => calls.action.name(), "outcome" => calls.outcome).absolute(calls.count);
    }
    gauge!(names::API_UP).set(u8::from(stats.is_asked));
    for quota in stats.quotas {
        let action = quota.action.name();
        gauge!(names::QUOTA_FREE, "action" => action).set(number(quota.free));
        gauge!(names::QUOTA_LIMIT, "action" => action).set(number(quota.limit));
        gauge!(names::QUOTA_WAITING, "action" => action).set(number(quota.waiting));
    }
    let (leases, locations) = service.leases.lookups();
    for (cache, Lookups { hits, misses }) in [("lease", leases), ("location", locations)] {
        counter!(names::CACHE, "cache" => cache, "result" => "hit").absolute(hits);
        counter!(names::CACHE, "cache" => cache, "result" => "miss").absolute(misses);
    }
}

fn audit(service: &Service) {
    let health = service.audit.health();
    counter!(names::AUDIT_FAILURES).absolute(health.failures);
    gauge!(names::AUDIT_WAITING).set(number(health.waiting));
    gauge!(names::AUDIT_QUEUE).set(number(health.queue));
    gauge!(names::AUDIT_UP).set(u8::from(!health.is_failing));
}

fn process() {
    let resident_pages = fs::read_to_string("/proc/self/statm").ok().and_then(|text| text.split(' ').nth(1)?.parse::<usize>().ok());
    if let Some(pages) = resident_pages {
        gauge!(names::RESIDENT).set(number(pages.saturating_mul(rustix::param::page_size())));
    }
    if let Ok(entries) = fs::read_dir("/proc/self/fd") {
        gauge!(names::OPEN_FDS).set(number(entries.count()));
    }
    if let Some(limit) = getrlimit(Resource::Nofile).current {
        gauge!(names::MAX_FDS).set(limit as f64);
    }
}

/// Counts are far below 2^53, where this is exact.
fn number(count: usize) -> f64 {
    count as f64
}
