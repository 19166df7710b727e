//! A cloud API that fails in every way, and clocks that differ.

use std::io::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ssh_broker::demo::{Action, Fault, Times};

use super::echo::Echo;
use super::{bound, good_login, plan, scaled, unharmed};
use crate::lab::{Lab, Plan, Process, private, succeeded, terminate, text};

/// Every login asks the API.
fn forgetful() -> Lab {
    let extra = "[cache]\nlease_ttl = \"1ms\"\nresolve_ttl = \"1ms\"\nnot_found_ttl = \"1ms\"\n".to_owned();
    Lab::with(Plan { extra, ..plan() })
}

/// Until a login succeeds again.
pub fn recovery(lab: &Lab) -> Duration {
    let started = Instant::now();
    while !lab.run(&["ins-a", "true"]).status.success() {
        assert!(started.elapsed() < Duration::from_secs(30), "{}", lab.log());
    }
    started.elapsed()
}

#[test]
fn whatever_the_api_does_is_told_costs_few_calls_and_is_over_when_its_cause_is() {
    let lab = forgetful();
    let bound = bound(&lab);
    let mut running = Echo::long(&lab);
    for (fault, code) in [
        (Fault::Status(500), "api-unavailable"),
        (Fault::Reset, "api-unavailable"),
        (Fault::HalfBody, "api-unavailable"),
        (Fault::HugeBody(10 << 20), "api-unavailable"),
        (Fault::Body("{\"Response\":".to_owned()), "api-unavailable"),
        (Fault::Body("[]".to_owned()), "api-unavailable"),
        (Fault::WrongIds, "api-unavailable"),
        (Fault::Redirect("http://127.0.0.1:1/".to_owned()), "api-unavailable"),
        (Fault::Error("InternalError".to_owned()), "api-unavailable"),
        (Fault::Error("UnauthorizedOperation".to_owned()), "api-denied"),
        (Fault::Error("ResourceNotFound.InstanceNotFound".to_owned()), "target-refused"),
    ] {
        lab.endpoint.fault(Action::GetInstanceAccess, fault.clone(), Times::UntilCleared);
        let before = lab.endpoint.calls(Action::GetInstanceAccess);
        let out = lab.run(&["ins-a", "true"]);
        assert!(text(&out.stderr).contains(&format!("[{code}, ref ")), "{fault:?}: {}", text(&out.stderr));
        let calls = lab.endpoint.calls(Action::GetInstanceAccess) - before;
        assert!(calls <= 20, "{fault:?} cost {calls} calls");
        running.assert_alive();
        lab.endpoint.clear_faults();
        let took = recovery(&lab);
        assert!(took <= Duration::from_secs(2) + bound, "{fault:?}: {took:?} until a login succeeded again");
    }
    unharmed(&lab, bound);
}

#[test]
fn an_api_that_hangs_or_throttles_for_long_ends_with_its_cause() {
    let lab = forgetful();
    let bound = bound(&lab);
    let mut running = Echo::long(&lab);
    // A hang that ends while the calls of its beginning still wait for an answer, and one that is longer than the circuit stays closed.
    for (fault, seconds) in
        [(Fault::Error("RequestLimitExceeded".to_owned()), scaled(6, 30)), (Fault::Hang, 4), (Fault::Hang, scaled(10, 40))]
    {
        lab.endpoint.fault(Action::GetInstanceAccess, fault.clone(), Times::UntilCleared);
        let before = lab.endpoint.calls(Action::GetInstanceAccess);
        let mut waiting: Vec<_> =
            (0..5).map(|_| lab.ssh(&["ins-a", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()).collect();
        std::thread::sleep(Duration::from_secs(seconds as u64));
        let calls = lab.endpoint.calls(Action::GetInstanceAccess) - before;
        let most = if matches!(fault, Fault::Hang) { 20 } else { 20 * seconds as u64 };
        assert!(calls <= most, "{fault:?} cost {calls} calls in {seconds} s");
        assert!(lab.endpoint.max_in_any_second(Action::GetInstanceAccess) <= 20);
        running.assert_alive();
        lab.endpoint.clear_faults();
        let took = recovery(&lab);
        assert!(took <= Duration::from_secs(2) + bound, "{fault:?} for {seconds} s: {took:?} until a login succeeded again");
        for login in &mut waiting {
            terminate(login);
        }
    }
    unharmed(&lab, bound);
}

#[test]
fn an_endpoint_that_speaks_no_tls_or_has_no_name_is_told() {
    let mut lab = forgetful();
    let bound = bound(&lab);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = stream.unwrap().write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    // One that speaks TLS, with a certificate of its own making.
    let (untrusted, _server) = self_signed(&lab);
    let good = std::fs::read_to_string(lab.path("broker.toml")).unwrap();
    for endpoint in [
        format!("https://{address}"),
        format!("https://localhost:{untrusted}"),
        "https://no-such-host.invalid".to_owned(),
        "https://127.0.0.1:1".to_owned(),
    ] {
        private(&lab.path("broker.toml"), good.replace(&lab.endpoint.url(), &endpoint).as_bytes());
        lab.restart_broker();
        let started = Instant::now();
        let out = lab.run(&["ins-a", "true"]);
        assert!(text(&out.stderr).contains("[api-unavailable, ref "), "{endpoint}: {}", text(&out.stderr));
        assert!(started.elapsed() < Duration::from_secs(20) + bound);
    }
    private(&lab.path("broker.toml"), good.as_bytes());
    lab.restart_broker();
    good_login(&lab);
}

/// The files of a key and of a certificate for this name that nobody has signed but itself.
pub fn certificate(lab: &Lab, name: &str) -> [PathBuf; 2] {
    let (key, certificate) = (lab.path("tls.key"), lab.path("tls.crt"));
    let mut made = lab.program(20, "openssl");
    made.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"]);
    made.args(["-subj", &format!("/CN={name}"), "-addext", &format!("subjectAltName=DNS:{name}")]);
    // Who is told to trust it takes it for its own issuer; else it were no server's.
    made.args(["-addext", "basicConstraints=critical,CA:FALSE"]).arg("-keyout").arg(&key).arg("-out").arg(&certificate);
    succeeded(&made.output().unwrap());
    [key, certificate]
}

/// A TLS server whose certificate nobody has signed but itself; its port.
fn self_signed(lab: &Lab) -> (u16, Process) {
    let [key, certificate] = certificate(lab, "localhost");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    // Not under `timeout`, which would be killed alone and leave it running.
    let mut server = Command::new("openssl");
    server.args(["s_server", "-quiet", "-accept", &format!("127.0.0.1:{port}")]).arg("-key").arg(&key).arg("-cert").arg(&certificate);
    let server = server.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(50));
    }
    (port, Process::from(server))
}

#[test]
fn clocks_that_differ_keep_nobody_out() {
    let lab = forgetful();
    let bound = bound(&lab);
    let mut running = Echo::long(&lab);
    for minutes in [4, -4, 6, -6, 0, 60, -60] {
        lab.endpoint.set_clock_ahead(minutes * 60);
        let took = good_login(&lab);
        assert!(took <= 2 * bound, "{minutes} minutes: {took:?}");
        running.assert_alive();
    }
    unharmed(&lab, bound);
}
