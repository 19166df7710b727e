//! What is seen from outside, in Prometheus' text format. Most is counted from the audit's events, the rest is looked up when it is asked for.

mod events;
mod gauges;
mod names;

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{counter, gauge};
use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::Service;
use crate::audit::Observer;
use names::Kind;

/// Upper bounds in seconds: a login over a warm cache takes about 0.1.
const PHASES: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0];
/// From a command to a working day.
const LIFETIMES: &[f64] = &[1.0, 10.0, 60.0, 600.0, 3600.0, 14_400.0, 43_200.0];
/// Samples are kept until somebody looks; nobody may.
const EVENTS_BETWEEN_UPKEEP: u32 = 1000;

/// The metrics of one process.
pub(super) struct Metrics {
    recorder: Arc<PrometheusRecorder>,
    handle: PrometheusHandle,
}

impl Metrics {
    pub(super) fn new() -> Result<Self, BuildError> {
        let builder = PrometheusBuilder::new().set_buckets(PHASES)?;
        let recorder = builder.set_buckets_for_metric(Matcher::Full(names::DURATION.to_owned()), LIFETIMES)?.build_recorder();
        let metrics = Self { handle: recorder.handle(), recorder: Arc::new(recorder) };
        metrics.record(|| {
            for (name, kind, help) in names::ALL {
                match kind {
                    Kind::Counter => metrics::describe_counter!(*name, *help),
                    Kind::Gauge => metrics::describe_gauge!(*name, *help),
                    Kind::Histogram => metrics::describe_histogram!(*name, *help),
                }
            }
            gauge!(names::BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
            gauge!(names::START_TIME).set(seconds(SystemTime::now()));
            counter!(names::UPGRADE_FAILURES).absolute(0);
            events::begin();
        });
        metrics.reloaded_at(SystemTime::now());
        Ok(metrics)
    }

    fn record<T>(&self, what: impl FnOnce() -> T) -> T {
        metrics::with_local_recorder(&*self.recorder, what)
    }

    /// Counts from the audit's events.
    pub(super) fn observer(&self) -> Observer {
        let (recorder, handle) = (self.recorder.clone(), self.handle.clone());
        let mut until_upkeep = EVENTS_BETWEEN_UPKEEP;
        Box::new(move |event| {
            metrics::with_local_recorder(&*recorder, || events::count(event));
            until_upkeep -= 1;
            if until_upkeep == 0 {
                until_upkeep = EVENTS_BETWEEN_UPKEEP;
                handle.run_upkeep();
            }
        })
    }

    pub(super) fn render(&self, service: &Service) -> String {
        self.record(|| gauges::look(service));
        self.handle.render()
    }

    /// How a reload went, and when.
    pub(super) fn reloaded(&self, successfully: bool, now: SystemTime) {
        let result = if successfully { "ok" } else { "refused" };
        self.record(|| {
            counter!(names::RELOADS, "result" => result).increment(1);
            gauge!(names::RELOAD_OK).set(u8::from(successfully));
        });
        if successfully {
            self.reloaded_at(now);
        }
    }

    fn reloaded_at(&self, now: SystemTime) {
        self.record(|| gauge!(names::RELOAD_TIME).set(seconds(now)));
    }

    pub(super) fn upgrade_failed(&self) {
        self.record(|| counter!(names::UPGRADE_FAILURES).increment(1));
    }
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests;
