use metrics::{counter, gauge, histogram};

use super::names;
use crate::audit::Event;

/// Kinds of channels that are told apart; what a peer may name else is one kind more.
const CHANNEL_KINDS: [&str; 10] = [
    "shell",
    "exec",
    "subsystem",
    "direct-tcpip",
    "direct-streamlocal@openssh.com",
    "forwarded-tcpip",
    "forwarded-streamlocal@openssh.com",
    "auth-agent@openssh.com",
    "x11",
    "other",
];
/// Shows what did not happen yet as 0: a rate needs something to begin at.
pub(super) fn begin() {
    for result in ["accepted", "refused"] {
        counter!(names::LOGINS, "result" => result).absolute(0);
    }
    for what in ["connection", "session", "command"] {
        counter!(names::CRASHES, "what" => what).absolute(0);
    }
    counter!(names::OPENINGS, "code" => "ok").absolute(0);
    for by in ["operator", "instance", "broker", "audit", "both"] {
        counter!(names::CLOSED, "by" => by).absolute(0);
    }
    for direction in ["up", "down"] {
        counter!(names::BYTES, "direction" => direction).absolute(0);
    }
    for by in ["broker", "instance", "operator"] {
        counter!(names::REFUSALS, "by" => by).absolute(0);
    }
    for result in ["started", "ended", "failed", "refused"] {
        counter!(names::RECORDINGS, "result" => result).absolute(0);
    }
    counter!(names::RECORDED).absolute(0);
    for verdict in ["pinned", "mismatch"] {
        counter!(names::HOST_KEYS, "verdict" => verdict).absolute(0);
    }
    for result in ["ok", "refused"] {
        counter!(names::RELOADS, "result" => result).absolute(0);
    }
    gauge!(names::RELOAD_OK).set(1.0);
    counter!(names::AUDIT_EVENTS).absolute(0);
}

pub(super) fn count(event: &Event) {
    counter!(names::AUDIT_EVENTS).increment(1);
    match event {
        Event::OperatorAuthenticated { .. } => counter!(names::LOGINS, "result" => "accepted").increment(1),
        Event::OperatorRefused { .. } => counter!(names::LOGINS, "result" => "refused").increment(1),
        Event::SourcePenalized { offence, .. } => counter!(names::PENALTIES, "offence" => *offence).increment(1),
        Event::ConnectionCrashed {} => counter!(names::CRASHES, "what" => "connection").increment(1),
        Event::SessionCrashed {} => counter!(names::CRASHES, "what" => "session").increment(1),
        Event::CommandCrashed { .. } => counter!(names::CRASHES, "what" => "command").increment(1),
        Event::SessionAbandoned { .. } => counter!(names::OPENINGS, "code" => "abandoned").increment(1),
        Event::CommandRun { exit_status, .. } => counter!(names::COMMANDS, "exit_status" => exit_status.to_string()).increment(1),
        Event::TargetDenied { .. } => counter!(names::OPENINGS, "code" => "target-refused").increment(1),
        Event::TargetFailed { code, .. } => counter!(names::OPENINGS, "code" => *code).increment(1),
        Event::HostKeyPinned { .. } => counter!(names::HOST_KEYS, "verdict" => "pinned").increment(1),
        Event::HostKeyMismatch { .. } => counter!(names::HOST_KEYS, "verdict" => "mismatch").increment(1),
        Event::SessionOpened { weak, resolve_ms, quota_ms, api_ms, connect_ms, kex_ms, auth_ms, total_ms, .. } => {
            counter!(names::OPENINGS, "code" => "ok").increment(1);
            observe([
                ("resolve", resolve_ms),
                ("quota", quota_ms),
                ("api", api_ms),
                ("connect", connect_ms),
                ("kex", kex_ms),
                ("auth", auth_ms),
                ("total", total_ms),
            ]);
            for algorithm in weak {
                counter!(names::WEAK, "algorithm" => *algorithm).increment(1);
            }
        }
        Event::ChannelOpened { kind, .. } => {
            let kind = CHANNEL_KINDS.into_iter().find(|known| *known == kind.as_str()).unwrap_or("other");
            counter!(names::CHANNELS, "kind" => kind).increment(1);
        }
        Event::ChannelRefused { by, .. } => counter!(names::REFUSALS, "by" => *by).increment(1),
        Event::ForwardOpened { resolve_ms, quota_ms, api_ms, connect_ms, total_ms, .. } => {
            counter!(names::OPENINGS, "code" => "ok").increment(1);
            let phases = [("resolve", resolve_ms), ("quota", quota_ms), ("api", api_ms), ("connect", connect_ms), ("total", total_ms)];
            observe(phases);
        }
        Event::SessionClosed { reason, bytes_down, bytes_up, duration_s }
        | Event::ForwardClosed { reason, bytes_down, bytes_up, duration_s, .. } => {
            // A forward that both sides have finished names neither.
            let by = ["operator", "instance", "broker", "audit"].into_iter().find(|by| reason.as_str().starts_with(&format!("{by}:")));
            counter!(names::CLOSED, "by" => by.unwrap_or("both")).increment(1);
            counter!(names::BYTES, "direction" => "down").increment(*bytes_down);
            counter!(names::BYTES, "direction" => "up").increment(*bytes_up);
            histogram!(names::DURATION).record(*duration_s);
        }
        Event::RecordingStarted { .. } => counter!(names::RECORDINGS, "result" => "started").increment(1),
        Event::RecordingEnded { bytes, .. } => {
            counter!(names::RECORDINGS, "result" => "ended").increment(1);
            counter!(names::RECORDED).increment(*bytes);
        }
        Event::RecordingFailed { required, .. } => {
            counter!(names::RECORDINGS, "result" => if *required { "refused" } else { "failed" }).increment(1);
        }
        // Each has another event behind it that counts, or stands in the API's own counts.
        Event::SessionStarted { .. }
        | Event::DoctorStarted { .. }
        | Event::LeaseFetched { .. }
        | Event::HostKeyForgotten { .. }
        | Event::ChannelMarked { .. }
        | Event::ChannelClosed { .. } => {}
    }
}

/// Of an opening that succeeded.
fn observe<const N: usize>(phases: [(&'static str, &f64); N]) {
    for (phase, ms) in phases {
        histogram!(names::PHASE, "phase" => phase).record(ms / 1000.0);
    }
}
