use super::*;
use crate::audit::{Event, Text};

const SHIPPED: [(&str, &str); 2] = [
    ("alerts.yml", include_str!("../../../config/prometheus/alerts.yml")),
    ("dashboard.json", include_str!("../../../config/grafana/dashboard.json")),
];

fn opened(weak: &[&'static str]) -> Event {
    Event::SessionOpened {
        client: "SSH-2.0-a".into(),
        server: "SSH-2.0-b".into(),
        downstream: "curve25519-sha256 ssh-ed25519 aes128-gcm@openssh.com".into(),
        upstream: "curve25519-sha256 ssh-ed25519 aes128-gcm@openssh.com".into(),
        weak: weak.to_vec(),
        resolve_ms: 1.0,
        quota_ms: 0.0,
        api_ms: 20.0,
        connect_ms: 1.0,
        kex_ms: 10.0,
        auth_ms: 5.0,
        total_ms: 40.0,
    }
}

#[test]
fn events_become_counts() {
    let metrics = Metrics::new().unwrap();
    let mut observer = metrics.observer();
    observer(&Event::OperatorAuthenticated { client: "SSH-2.0-a".into() });
    observer(&opened(&["ssh-rsa", "aes128-cbc"]));
    observer(&Event::ChannelOpened { channel: 1, kind: Text::new(b"evil\n\"}"), what: None, pty: false });
    observer(&Event::TargetFailed { typed: "ins-a".into(), code: "api-throttled", reason: "x".into() });
    observer(&Event::SessionClosed { reason: "instance: closed".into(), bytes_down: 7, bytes_up: 3, duration_s: 2.0 });
    let text = metrics.handle.render();
    for line in [
        "ssh_broker_logins_total{result=\"accepted\"} 1",
        "ssh_broker_logins_total{result=\"refused\"} 0",
        "ssh_broker_openings_total{code=\"ok\"} 1",
        "ssh_broker_openings_total{code=\"api-throttled\"} 1",
        "ssh_broker_opening_phase_seconds_bucket{phase=\"api\",le=\"0.025\"} 1",
        "ssh_broker_opening_phase_seconds_bucket{phase=\"api\",le=\"0.01\"} 0",
        "ssh_broker_weak_algorithms_total{algorithm=\"ssh-rsa\"} 1",
        "ssh_broker_weak_algorithms_total{algorithm=\"aes128-cbc\"} 1",
        "ssh_broker_channels_total{kind=\"other\"} 1",
        "ssh_broker_sessions_closed_total{by=\"instance\"} 1",
        "ssh_broker_session_bytes_total{direction=\"down\"} 7",
        "ssh_broker_session_seconds_bucket{le=\"10\"} 1",
        "ssh_broker_audit_events_total 5",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
    }
}

#[test]
fn samples_that_nobody_looks_at_are_not_kept() {
    let metrics = Metrics::new().unwrap();
    let mut observer = metrics.observer();
    for _ in 0..3 * EVENTS_BETWEEN_UPKEEP {
        observer(&opened(&[]));
    }
    assert!(metrics.handle.render().contains("ssh_broker_opening_phase_seconds_count{phase=\"total\"} 3000"));
}

/// The words of a text that are names of ours.
pub(super) fn names_in(text: &str) -> std::collections::BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("ssh_broker_") || word.starts_with("process_")).collect()
}

#[test]
fn dashboard_and_alerts_name_only_metrics_that_there_are() {
    let known = |word: &str| {
        names::ALL.iter().any(|(name, kind, _)| match kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"].iter().any(|suffix| word.strip_suffix(suffix) == Some(*name)),
            Kind::Counter | Kind::Gauge => word == *name,
        })
    };
    for (file, text) in SHIPPED {
        let names = names_in(text);
        assert!(names.len() > 8, "{file}: {names:?}");
        let unknown: Vec<_> = names.iter().filter(|name| !known(name)).collect();
        assert!(unknown.is_empty(), "{file} names {unknown:?}");
    }
    let dashboard: serde_json::Value = serde_json::from_str(SHIPPED[1].1).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.iter().filter(|panel| panel["type"] != "row").all(|panel| panel["targets"][0]["expr"].is_string()));
}
