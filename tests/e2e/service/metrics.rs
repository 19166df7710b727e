use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use ssh_broker::demo::{Action, Fault, Times};

use crate::lab::{Lab, Plan, text};

fn lab() -> (Lab, SocketAddr) {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let extra = format!("[metrics]\naddress = \"{address}\"\n[log]\nformat = \"json\"\n");
    (Lab::with(Plan { extra, ..Plan::default() }), address)
}

fn get(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

fn value(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find(|line| line.strip_prefix(series).is_some_and(|rest| rest.starts_with(' ')));
    line.unwrap_or_else(|| panic!("{series} is not in\n{metrics}")).rsplit(' ').next().unwrap().parse().unwrap()
}

/// The metrics, once no session runs: one is counted until its end is written.
fn once_idle(address: SocketAddr) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let (status, metrics) = get(address, "/metrics");
        assert_eq!(status, 200);
        if value(&metrics, "ssh_broker_sessions") == 0.0 {
            return metrics;
        }
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The names of ours in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("ssh_broker_") || word.starts_with("process_")).collect()
}

#[test]
fn what_happened_is_counted_and_dashboard_and_alerts_find_it() {
    let (lab, address) = lab();
    assert!(lab.run(&["ins-a", "head -c 1000 /dev/zero"]).status.success());
    let refused = lab.run(&["ins-unknown", "true"]);
    assert!(!refused.status.success());
    lab.await_event(|event| event["event"] == "session.closed");
    let metrics = once_idle(address);
    for (series, expected) in [
        ("ssh_broker_logins_total{result=\"accepted\"}", 2.0),
        ("ssh_broker_openings_total{code=\"ok\"}", 1.0),
        ("ssh_broker_openings_total{code=\"target-refused\"}", 1.0),
        ("ssh_broker_opening_phase_seconds_count{phase=\"auth\"}", 1.0),
        ("ssh_broker_channels_total{kind=\"exec\"}", 1.0),
        ("ssh_broker_host_keys_total{verdict=\"pinned\"}", 1.0),
        ("ssh_broker_sessions", 0.0),
        ("ssh_broker_api_up", 1.0),
        ("ssh_broker_audit_up", 1.0),
        ("ssh_broker_ready{need=\"keys\"}", 1.0),
        ("ssh_broker_api_quota_limit{action=\"GetInstanceAccess\"}", 20.0),
    ] {
        assert_eq!(value(&metrics, series), expected, "{series}");
    }
    assert!(value(&metrics, "ssh_broker_session_bytes_total{direction=\"down\"}") >= 1000.0);
    assert!(value(&metrics, "ssh_broker_api_calls_total{action=\"GetInstanceAccess\",outcome=\"ok\"}") >= 1.0);
    let config = concat!(env!("CARGO_MANIFEST_DIR"), "/config");
    let there = names(&metrics);
    for file in ["prometheus/alerts.yml", "grafana/dashboard.json"] {
        let text = std::fs::read_to_string(format!("{config}/{file}")).unwrap();
        // A weak algorithm has to be met before it can be counted.
        let missing: Vec<_> = names(&text).difference(&there).filter(|name| !name.contains("_weak_")).copied().collect();
        assert!(missing.is_empty(), "{file}: {missing:?}");
    }
}

#[test]
fn health_and_readiness_tell_a_process_from_a_service() {
    let (lab, address) = lab();
    assert_eq!(get(address, "/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(get(address, "/readyz"), (200, "keys: ok\naudit: ok\napi: ok\naccepting: ok\n".to_owned()));
    assert_eq!(get(address, "/elsewhere").0, 404);
    lab.endpoint.fault(Action::GetInstanceAccess, Fault::Status(503), Times::UntilCleared);
    lab.endpoint.fault(Action::DescribeInstances, Fault::Status(503), Times::UntilCleared);
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        assert!(Instant::now() < deadline, "{:?}", get(address, "/readyz"));
        let _ = lab.run(&["ins-a", "true"]);
        let (status, body) = get(address, "/readyz");
        if status == 503 {
            assert!(body.contains("api: it did not answer"), "{body}");
            break;
        }
    }
    assert_eq!(get(address, "/healthz").0, 200);
}

#[test]
fn the_log_is_json_with_the_reference_that_the_operator_read() {
    let (lab, _) = lab();
    let out = lab.run(&["ins-unknown", "true"]);
    let said = text(&out.stderr);
    let reference = said.split("ref ").nth(1).and_then(|rest| rest.get(..6)).unwrap_or_else(|| panic!("{said}"));
    let lines: Vec<serde_json::Value> = lab.log().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(lines.iter().any(|line| line["session"].as_str().is_some_and(|text| text.contains(reference))), "{reference}: {lines:#?}");
}

#[test]
fn slow_and_broken_askers_keep_nobody_out() {
    let (lab, address) = lab();
    let mut held: Vec<TcpStream> = (0..10).map(|_| TcpStream::connect(address).unwrap()).collect();
    held.iter_mut().for_each(|stream| stream.write_all(b"GET /met").unwrap());
    let mut noise = TcpStream::connect(address).unwrap();
    let _ = noise.write_all(&[b'x'; 100_000]);
    assert_eq!(get(address, "/healthz").0, 200);
    assert!(lab.run(&["ins-a", "true"]).status.success());
}
