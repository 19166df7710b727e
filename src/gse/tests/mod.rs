mod list;
mod resolve;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::credentials::Places;
use super::simulated::{Answer, Request, Simulated};
use super::*;
use crate::access::{Code, Failure, InstanceId, OperatorName, Target};
use crate::broker::{Asker, Cloud};

const FLEET: &str = "fleet-qp3g3caa-iectl8nb";
const INSTANCE: &str = "ins-gi2lxw";

type Variables = Arc<Mutex<BTreeMap<String, String>>>;

/// A client whose API key is in the given variables.
async fn client_with(endpoint: &Simulated, fleets: &[&str], rate: u32, variables: Variables) -> Client {
    let config = Config {
        endpoint: format!("http://{}", endpoint.address),
        region: "ap-shanghai".to_owned(),
        credential_files: None,
        metadata_url: None,
        requests_per_second: rate,
        fleets: fleets.iter().map(|id| fleet(id)).collect(),
        call_timeout: Duration::from_millis(400),
        queue: 100,
    };
    let places = Places { files: None, variables: Arc::new(move |name| variables.lock().unwrap().get(name).cloned()), ini: Vec::new() };
    Client::with_places(config, places).await.unwrap()
}

fn variables(id: &str) -> Variables {
    let pairs = [("TENCENTCLOUD_SECRET_ID", id.to_owned()), ("TENCENTCLOUD_SECRET_KEY", format!("key-of-{id}"))];
    Arc::new(Mutex::new(pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()))
}

async fn client(endpoint: &Simulated, fleets: &[&str]) -> Client {
    client_with(endpoint, fleets, 200, variables("AKID1")).await
}

fn fleet(id: &str) -> FleetId {
    FleetId::parse(id).unwrap()
}

fn instance() -> InstanceId {
    InstanceId::parse(INSTANCE).unwrap()
}

fn target() -> Target {
    Target { fleet: fleet(FLEET), instance: instance() }
}

fn asker(time: Duration) -> Asker {
    Asker::new(OperatorName::parse("alice").unwrap(), Instant::now() + time)
}

async fn lease(client: &Client) -> Result<crate::access::Lease, Failure> {
    client.lease(&target(), &asker(Duration::from_secs(5))).await
}

/// Nothing that the API wrote, no address and no secret is in what the operator reads.
fn assert_clean(failure: &Failure) {
    for leak in ["10.1.2.3", "hunter2", "127.0.0.1", "key-of", "AKID"] {
        assert!(!failure.text.contains(leak), "{}", failure.text);
    }
}

#[tokio::test]
async fn a_lease_is_asked_for_as_documented_and_checked() {
    let endpoint = Simulated::start(|_, _| Answer::access(FLEET, INSTANCE)).await;
    let vars = variables("AKID1");
    vars.lock().unwrap().insert("TENCENTCLOUD_TOKEN".to_owned(), "the-token".to_owned());
    let client = client_with(&endpoint, &[], 20, vars).await;
    let lease = lease(&client).await.unwrap();
    assert_eq!((lease.login.as_str(), lease.secret.expose(), lease.request_id.as_str()), ("root", b"a\nb".as_slice(), "req-1"));
    assert_eq!((lease.address.to_string().as_str(), lease.operating_system.as_deref()), ("192.0.2.7", Some("centos6.7")));
    let [request] = endpoint.seen().try_into().unwrap();
    assert!(request.signed);
    assert_eq!((request.path.as_str(), request.action.as_str()), ("/", "GetInstanceAccess"));
    assert_eq!(request.body, r#"{"FleetId":"fleet-qp3g3caa-iectl8nb","InstanceId":"ins-gi2lxw"}"#);
    for (name, value) in [
        ("host", endpoint.address.to_string().as_str()),
        ("content-type", "application/json"),
        ("x-tc-version", "2019-11-12"),
        ("x-tc-region", "ap-shanghai"),
        ("x-tc-language", "en-US"),
        ("x-tc-token", "the-token"),
        ("x-tc-requestclient", concat!("ssh-broker-", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(request.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert_eq!(client.stats().calls, [Calls { action: Action::GetInstanceAccess, outcome: "ok", count: 1 }]);
}

#[tokio::test]
async fn every_error_class_is_acted_on() {
    for (code, wanted, text, calls) in [
        ("ResourceNotFound.Instance", Code::TargetRefused, "no such instance, or not yours to reach", 1),
        ("InvalidParameterValue.X", Code::ApiDenied, "the cloud API refused the request for this instance: InvalidParameterValue", 1),
        ("Made.Up", Code::ApiDenied, "the cloud API refused the request", 1),
        ("UnauthorizedOperation", Code::ApiDenied, "broker misconfigured", 1),
        ("AuthFailure.MFAFailure", Code::ApiDenied, "broker misconfigured", 1),
        ("AuthFailure.SignatureFailure", Code::ApiDenied, "broker misconfigured", 2),
        // Without a Date header there is no offset to take.
        ("AuthFailure.SignatureExpire", Code::ApiDenied, "broker misconfigured: its clock", 1),
        ("NoSuchProduct", Code::ApiOffline, "no longer offers", 1),
    ] {
        let endpoint = Simulated::start(move |_, _| Answer::error(code)).await;
        let client = client(&endpoint, &[]).await;
        let failure = lease(&client).await.err().unwrap();
        assert_eq!((failure.code, failure.request_id.as_deref()), (wanted, Some("req-1")), "{code}");
        assert!(failure.text.contains(text), "{code}: {}", failure.text);
        assert!(failure.chain().contains(code), "{}", failure.chain());
        assert_eq!(failure.text.contains("req-1"), text.starts_with("broker misconfigured"), "{}", failure.text);
        assert_clean(&failure);
        assert_eq!(endpoint.seen().len(), calls, "{code}");
    }
}

#[tokio::test]
async fn what_passes_is_tried_again() {
    let faults = [
        Answer::Http(500, String::new(), "oops".to_owned()),
        Answer::Http(302, "Location: http://127.0.0.1:1/\r\n".to_owned(), String::new()),
        Answer::Hang,
        Answer::Reset,
        Answer::Half,
        Answer::json("<html>"),
        Answer::json("{}"),
        Answer::json(r#"{"Response":{"InstanceAccess":"x"}}"#),
        Answer::error("InternalError"),
        Answer::error("RequestLimitExceeded"),
        Answer::error("ResourceUnavailable"),
    ];
    for fault in faults {
        let first = fault.clone();
        let endpoint = Simulated::start(move |_, before| if before == 0 { first.clone() } else { Answer::access(FLEET, INSTANCE) }).await;
        let client = client(&endpoint, &[]).await;
        let result = lease(&client).await;
        assert!(result.is_ok(), "{fault:?}: {:?}", result.err().map(|failure| failure.chain()));
        assert_eq!(endpoint.seen().len(), 2, "{fault:?}");
    }
}

#[tokio::test]
async fn what_does_not_fit_the_question_is_refused_and_not_asked_again() {
    let access = |credentials: &str, rest: &str| {
        Answer::json(format!(r#"{{"Response":{{"InstanceAccess":{{"Credentials":{credentials},{rest}}},"RequestId":"req-1"}}}}"#))
    };
    let ids = format!(r#""FleetId":"{FLEET}","InstanceId":"{INSTANCE}""#);
    let good = r#"{"UserName":"root","Secret":"hunter2"}"#;
    for answer in [
        Answer::access("fleet-other", INSTANCE),
        Answer::access(FLEET, "ins-other"),
        Answer::json(r#"{"Response":{"InstanceAccess":null,"RequestId":"req-1"}}"#),
        access("null", &format!(r#"{ids},"IpAddress":"192.0.2.7""#)),
        access(good, &format!(r#"{ids},"IpAddress":null"#)),
        access(good, &format!(r#"{ids},"IpAddress":"metadata.tencentyun.com""#)),
        access(good, r#""FleetId":null,"InstanceId":null,"IpAddress":"192.0.2.7""#),
        access(r#"{"UserName":"","Secret":"hunter2"}"#, &format!(r#"{ids},"IpAddress":"192.0.2.7""#)),
        access(r#"{"UserName":"root\n","Secret":"hunter2"}"#, &format!(r#"{ids},"IpAddress":"192.0.2.7""#)),
        access(r#"{"UserName":"root","Secret":" \n"}"#, &format!(r#"{ids},"IpAddress":"192.0.2.7""#)),
        access(r#"{"UserName":"root","Secret":null}"#, &format!(r#"{ids},"IpAddress":"192.0.2.7""#)),
        Answer::Huge(10),
    ] {
        let scripted = answer.clone();
        let endpoint = Simulated::start(move |_, _| scripted.clone()).await;
        let failure = lease(&client(&endpoint, &[]).await).await.err().unwrap();
        assert_eq!(failure.code, Code::ApiUnavailable, "{answer:?}");
        assert!(!failure.chain().contains("hunter2"));
        assert_clean(&failure);
        assert_eq!(endpoint.seen().len(), 1, "{answer:?}");
    }
}

#[tokio::test]
async fn a_rotated_key_is_read_again_once() {
    let endpoint = Simulated::start(|request: &Request, _| {
        let old = request.headers.get("authorization").is_some_and(|value| value.contains("AKID1"));
        if old { Answer::error("AuthFailure.SecretIdNotFound") } else { Answer::access(FLEET, INSTANCE) }
    })
    .await;
    let vars = variables("AKID1");
    let client = client_with(&endpoint, &[], 20, vars.clone()).await;
    *vars.lock().unwrap() = variables("AKID2").lock().unwrap().clone();
    // A key that was read this very second is not read again.
    tokio::time::sleep(Duration::from_millis(1050)).await;
    lease(&client).await.unwrap();
    lease(&client).await.unwrap();
    let seen = endpoint.seen();
    assert_eq!(seen.len(), 3);
    assert!(seen.iter().all(|request| request.signed));
}

#[tokio::test]
async fn a_wrong_clock_is_set_by_the_endpoints_date() {
    let date = "Date: Wed, 15 Nov 2023 22:13:20 GMT\r\n";
    let endpoint = Simulated::start(move |request: &Request, _| {
        let timestamp: i64 = request.headers["x-tc-timestamp"].parse().unwrap();
        if (timestamp - 1_700_086_400).abs() < 300 {
            Answer::access(FLEET, INSTANCE)
        } else if let Answer::Http(status, _, body) = Answer::error("AuthFailure.SignatureExpire") {
            Answer::Http(status, date.to_owned(), body)
        } else {
            Answer::Hang
        }
    })
    .await;
    let client = client(&endpoint, &[]).await;
    lease(&client).await.unwrap();
    lease(&client).await.unwrap();
    assert_eq!(endpoint.seen().len(), 3);
}

#[tokio::test]
async fn everything_ends_at_the_askers_deadline() {
    for (answer, code) in [(Answer::Hang, Code::ApiUnavailable), (Answer::error("RequestLimitExceeded"), Code::ApiThrottled)] {
        let endpoint = Simulated::start(move |_, _| answer.clone()).await;
        let client = client(&endpoint, &[]).await;
        let began = Instant::now();
        let failure = client.lease(&target(), &asker(Duration::from_millis(900))).await.err().unwrap();
        assert_eq!(failure.code, code);
        assert!(began.elapsed() < Duration::from_millis(1300), "{:?}", began.elapsed());
    }
    // And in the queue for the quota.
    let endpoint = Simulated::start(|_, _| Answer::access(FLEET, INSTANCE)).await;
    let client = client_with(&endpoint, &[], 1, variables("AKID1")).await;
    lease(&client).await.unwrap();
    let failure = client.lease(&target(), &asker(Duration::from_millis(100))).await.err().unwrap();
    assert_eq!(failure.code, Code::ApiThrottled);
    assert_eq!(endpoint.seen().len(), 1);
}

#[tokio::test]
async fn an_endpoint_that_fails_is_left_alone_and_found_again() {
    let broken = Arc::new(AtomicBool::new(true));
    let endpoint = Simulated::start({
        let broken = broken.clone();
        move |_, _| match broken.load(Ordering::SeqCst) {
            true => Answer::Http(503, String::new(), String::new()),
            false => Answer::access(FLEET, INSTANCE),
        }
    })
    .await;
    let client = client(&endpoint, &[]).await;
    for _ in 0..20 {
        assert_eq!(lease(&client).await.err().unwrap().code, Code::ApiUnavailable);
    }
    assert_eq!(endpoint.seen().len(), 5, "the circuit opened");
    broken.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_millis(2050)).await;
    lease(&client).await.unwrap();
}

#[tokio::test]
async fn retries_do_not_multiply_what_fails() {
    // Not 5xx, so that the circuit stays closed.
    let endpoint = Simulated::start(|_, _| Answer::error("InternalError")).await;
    let client = client(&endpoint, &[]).await;
    let (asker, target) = (asker(Duration::from_secs(20)), target());
    let calls = (0..60).map(|_| client.lease(&target, &asker));
    let failed = futures_util::future::join_all(calls).await.into_iter().filter(|result| result.is_err()).count();
    assert_eq!(failed, 60);
    assert!(endpoint.seen().len() <= 60 + 6 + 10, "{}", endpoint.seen().len());
}

#[tokio::test]
async fn the_endpoint_sees_at_most_the_rate_in_any_second() {
    let endpoint = Simulated::start(|_, _| Answer::access(FLEET, INSTANCE)).await;
    let client = client_with(&endpoint, &[], 20, variables("AKID1")).await;
    let (asker, target) = (asker(Duration::from_secs(20)), target());
    let began = Instant::now();
    let calls = (0..60).map(|_| client.lease(&target, &asker));
    for result in futures_util::future::join_all(calls).await {
        result.unwrap();
    }
    let took = began.elapsed().as_secs_f64();
    assert!((2.0..3.5).contains(&took), "{took}");
    let at: Vec<_> = endpoint.seen().into_iter().map(|request| request.at).collect();
    let busiest = at.iter().map(|start| at.iter().filter(|at| *at >= start && at.duration_since(*start).as_secs_f64() < 1.0).count()).max();
    assert!(busiest <= Some(20), "{busiest:?}");
}

#[tokio::test]
async fn the_queue_is_bounded() {
    let endpoint = Simulated::start(|_, _| Answer::access(FLEET, INSTANCE)).await;
    let client = client_with(&endpoint, &[], 1, variables("AKID1")).await;
    let (asker, target) = (asker(Duration::from_millis(300)), target());
    let busy = AtomicUsize::new(0);
    let calls = (0..110).map(|_| async {
        let failed = client.lease(&target, &asker).await.err();
        busy.fetch_add(usize::from(failed.is_some_and(|failure| failure.code == Code::BrokerBusy)), Ordering::SeqCst);
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(busy.into_inner(), 9);
    assert!(client.stats().quotas.iter().all(|quota| quota.waiting == 0));
}

#[tokio::test]
async fn settings_that_cannot_be_are_named() {
    let config = |endpoint: &str, region: &str, rate| Config {
        endpoint: endpoint.to_owned(),
        region: region.to_owned(),
        credential_files: None,
        metadata_url: Some("http://127.0.0.1:1/".to_owned()),
        requests_per_second: rate,
        fleets: Vec::new(),
        call_timeout: Duration::from_secs(1),
        queue: 1,
    };
    let places = || Places { files: None, variables: Arc::new(|_| None), ini: vec!["/nowhere/credentials".into()] };
    for (config, wanted) in [
        (config("http://gse.tencentcloudapi.com", "r", 1), "gse.endpoint"),
        (config("https://gse.example", "", 1), "gse.region"),
        (config("https://gse.example", "r", 0), "requests_per_second"),
        (
            config("https://gse.example", "r", 1),
            "TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY in the environment (not set), /nowhere/credentials",
        ),
    ] {
        let error = Client::with_places(config, places()).await.err().unwrap().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}
