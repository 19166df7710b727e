//! Every metric's name, kind and meaning. `config/` and the README speak of these and no others; tests compare.

pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

pub(super) const BUILD_INFO: &str = "ssh_broker_build_info";
pub(super) const START_TIME: &str = "process_start_time_seconds";
pub(super) const RESIDENT: &str = "process_resident_memory_bytes";
pub(super) const OPEN_FDS: &str = "process_open_fds";
pub(super) const MAX_FDS: &str = "process_max_fds";
pub(super) const SESSIONS: &str = "ssh_broker_sessions";
pub(super) const CONNECTIONS: &str = "ssh_broker_connections";
pub(super) const TASKS: &str = "ssh_broker_tasks";
pub(super) const LOGINS: &str = "ssh_broker_logins_total";
pub(super) const PENALTIES: &str = "ssh_broker_penalties_total";
pub(super) const CRASHES: &str = "ssh_broker_crashes_total";
pub(super) const COMMANDS: &str = "ssh_broker_commands_total";
pub(super) const OPENINGS: &str = "ssh_broker_openings_total";
pub(super) const PHASE: &str = "ssh_broker_opening_phase_seconds";
pub(super) const CLOSED: &str = "ssh_broker_sessions_closed_total";
pub(super) const DURATION: &str = "ssh_broker_session_seconds";
pub(super) const BYTES: &str = "ssh_broker_session_bytes_total";
pub(super) const CHANNELS: &str = "ssh_broker_channels_total";
pub(super) const REFUSALS: &str = "ssh_broker_channel_refusals_total";
pub(super) const HOST_KEYS: &str = "ssh_broker_host_keys_total";
pub(super) const WEAK: &str = "ssh_broker_weak_algorithms_total";
pub(super) const API_CALLS: &str = "ssh_broker_api_calls_total";
pub(super) const API_UP: &str = "ssh_broker_api_up";
pub(super) const QUOTA_FREE: &str = "ssh_broker_api_quota_free";
pub(super) const QUOTA_LIMIT: &str = "ssh_broker_api_quota_limit";
pub(super) const QUOTA_WAITING: &str = "ssh_broker_api_quota_waiting";
pub(super) const CACHE: &str = "ssh_broker_cache_lookups_total";
pub(super) const RECORDINGS: &str = "ssh_broker_recordings_total";
pub(super) const RECORDED: &str = "ssh_broker_recorded_bytes_total";
pub(super) const AUDIT_EVENTS: &str = "ssh_broker_audit_events_total";
pub(super) const AUDIT_FAILURES: &str = "ssh_broker_audit_write_failures_total";
pub(super) const AUDIT_WAITING: &str = "ssh_broker_audit_waiting";
pub(super) const AUDIT_QUEUE: &str = "ssh_broker_audit_queue";
pub(super) const AUDIT_UP: &str = "ssh_broker_audit_up";
pub(super) const RELOADS: &str = "ssh_broker_reloads_total";
pub(super) const RELOAD_OK: &str = "ssh_broker_last_reload_successful";
pub(super) const RELOAD_TIME: &str = "ssh_broker_last_reload_success_timestamp_seconds";
pub(super) const UPGRADE_FAILURES: &str = "ssh_broker_upgrade_failures_total";
pub(super) const READY: &str = "ssh_broker_ready";

pub(super) const ALL: &[(&str, Kind, &str)] = &[
    (BUILD_INFO, Gauge, "1, with the version as a label"),
    (START_TIME, Gauge, "When this process began, in Unix seconds"),
    (RESIDENT, Gauge, "Resident memory of this process"),
    (OPEN_FDS, Gauge, "Descriptors that this process has open"),
    (MAX_FDS, Gauge, "Descriptors that it may have open"),
    (SESSIONS, Gauge, "Sessions that run now"),
    (CONNECTIONS, Gauge, "Operators' connections that are open now, by state: proven, unproven"),
    (TASKS, Gauge, "Tasks of the process that have not ended"),
    (LOGINS, Counter, "Logins at the door, by result: accepted, refused"),
    (PENALTIES, Counter, "Sources that were refused for a while, by offence"),
    (CRASHES, Counter, "What ended in a panic: connection, session, command"),
    (COMMANDS, Counter, "Commands to the broker itself, by exit status"),
    (OPENINGS, Counter, "Targets asked for, by code: ok, the code that the operator read, or abandoned"),
    (PHASE, Histogram, "Time of each phase of an opening that became a session: resolve, quota, api, connect, kex, auth, total"),
    (CLOSED, Counter, "Sessions that ended, by who ended them: operator, instance, broker, audit, both"),
    (DURATION, Histogram, "How long sessions lasted"),
    (BYTES, Counter, "Payload bytes of ended sessions, by direction: up, down"),
    (CHANNELS, Counter, "Channels opened, by kind"),
    (REFUSALS, Counter, "Channels and requests refused, by whom: broker, instance, operator"),
    (HOST_KEYS, Counter, "Host keys, by verdict: pinned, mismatch"),
    (WEAK, Counter, "Sessions with an old, weak algorithm towards the instance, by algorithm"),
    (API_CALLS, Counter, "Attempts of cloud API calls, by action and outcome"),
    (API_UP, Gauge, "Whether the cloud API is asked; 0 while it does not answer"),
    (QUOTA_FREE, Gauge, "Requests that the quota would let through at once, by action"),
    (QUOTA_LIMIT, Gauge, "Requests a second that the quota allows now, by action"),
    (QUOTA_WAITING, Gauge, "Calls that wait for the quota, by action"),
    (CACHE, Counter, "Look-ups in the caches, by cache (lease, location) and result (hit, miss)"),
    (
        RECORDINGS,
        Counter,
        "Recordings, by what became of them: started, ended, failed (of a session that went on), refused (with its session)",
    ),
    (RECORDED, Counter, "Bytes of recordings that were written to their end"),
    (AUDIT_EVENTS, Counter, "Events that went to the audit"),
    (AUDIT_FAILURES, Counter, "Writes to the audit's sink that failed"),
    (AUDIT_WAITING, Gauge, "Audit events that wait for the sink"),
    (AUDIT_QUEUE, Gauge, "Audit events that may wait"),
    (AUDIT_UP, Gauge, "Whether the last write to the audit's sink succeeded"),
    (RELOADS, Counter, "Reloads, by result: ok, refused"),
    (RELOAD_OK, Gauge, "Whether the last reload was put in force"),
    (RELOAD_TIME, Gauge, "When the configuration in force was read, in Unix seconds"),
    (UPGRADE_FAILURES, Counter, "Upgrades in which the new process did not come into charge"),
    (READY, Gauge, "Whether the broker can serve, by need: keys, audit, api, accepting"),
];
