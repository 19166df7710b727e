//! The simulated endpoint as an HTTP client sees it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::access::Secret;
use crate::demo::keys::hex;
use crate::demo::{Action, ApiKey, Endpoint, EndpointConfig, Fault, InstanceRecord, Inventory, Mode, Times};

const ID: &str = "AKIDtest";
const KEY: &str = "correct horse";

fn record(fleet: &str, instance: &str, last: u8) -> InstanceRecord {
    InstanceRecord {
        fleet: fleet.into(),
        instance: instance.into(),
        address: IpAddr::from([127, 0, 0, last]),
        login: "root".into(),
        secret: Arc::new(Secret::new(format!("secret \"of\"\n{instance}").into_bytes())),
        operating_system: "centos6.7".into(),
        status: "Active".into(),
    }
}

async fn endpoint(mode: Mode) -> Endpoint {
    let mut inventory = Inventory::default();
    for last in 1..=30 {
        inventory.insert(record(if last % 2 == 0 { "fleet-even" } else { "fleet-odd" }, &format!("ins-{last}"), last));
    }
    inventory.insert_alias("alias-prod", "fleet-odd");
    let key = ApiKey { id: ID.into(), key: Secret::new(KEY.into()), token: None };
    Endpoint::start(EndpointConfig { key, region: "ap-shanghai".into(), requests_per_second: 20, inventory, mode }).await.unwrap()
}

fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(2)).redirect(reqwest::redirect::Policy::none()).build().unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn mac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

fn request(client: &reqwest::Client, endpoint: &Endpoint, action: &str, body: &Value, at: u64, key: &str) -> reqwest::RequestBuilder {
    let (body, host) = (body.to_string(), endpoint.address().to_string());
    let date = jiff::Timestamp::from_second(at as i64).unwrap().strftime("%Y-%m-%d").to_string();
    let canonical =
        format!("POST\n/\n\ncontent-type:application/json\nhost:{host}\n\ncontent-type;host\n{}", hex(&Sha256::digest(body.as_bytes())));
    let to_sign = format!("TC3-HMAC-SHA256\n{at}\n{date}/gse/tc3_request\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let signing = mac(&mac(&mac(format!("TC3{key}").as_bytes(), &date), "gse"), "tc3_request");
    let signature = hex(&mac(&signing, &to_sign));
    client
        .post(endpoint.url())
        .header("Content-Type", "application/json")
        .header("X-TC-Action", action)
        .header("X-TC-Version", "2019-11-12")
        .header("X-TC-Timestamp", at.to_string())
        .header("X-TC-Region", "ap-shanghai")
        .header(
            "Authorization",
            format!("TC3-HMAC-SHA256 Credential={ID}/{date}/gse/tc3_request, SignedHeaders=content-type;host, Signature={signature}"),
        )
        .body(body)
}

async fn call(client: &reqwest::Client, endpoint: &Endpoint, action: &str, body: Value) -> Value {
    let answer = request(client, endpoint, action, &body, now(), KEY).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let mut answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["Response"]["RequestId"].as_str().unwrap().len(), 36);
    answer["Response"].take()
}

fn code(answer: &Value) -> &str {
    answer["Error"]["Code"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

#[tokio::test]
async fn the_four_actions_answer_from_the_inventory() {
    let (client, endpoint) = (client(), endpoint(Mode::AllActions).await);
    let access = call(&client, &endpoint, "GetInstanceAccess", json!({"FleetId": "fleet-odd", "InstanceId": "ins-7"})).await;
    let access = &access["InstanceAccess"];
    assert_eq!(access["Credentials"], json!({"UserName": "root", "Secret": "secret \"of\"\nins-7"}));
    assert_eq!((&access["IpAddress"], &access["InstanceId"]), (&json!("127.0.0.7"), &json!("ins-7")));

    let found = call(&client, &endpoint, "DescribeInstances", json!({"InstanceId": "ins-8"})).await;
    assert_eq!((&found["TotalCount"], &found["Instances"][0]["FleetId"]), (&json!(1), &json!("fleet-even")));
    let page = call(&client, &endpoint, "DescribeInstances", json!({"FleetId": "fleet-odd", "Offset": 10, "Limit": 100})).await;
    assert_eq!((page["Instances"].as_array().unwrap().len(), &page["TotalCount"]), (5, &json!(15)));
    let all = call(&client, &endpoint, "DescribeInstances", json!({})).await;
    assert_eq!(all["Instances"].as_array().unwrap().len(), 20);
    assert_eq!(call(&client, &endpoint, "ListFleets", json!({})).await["FleetIds"], json!(["fleet-odd", "fleet-even"]));
    assert_eq!(call(&client, &endpoint, "ResolveAlias", json!({"AliasId": "alias-prod"})).await["FleetId"], "fleet-odd");

    for (action, body, expected) in [
        ("GetInstanceAccess", json!({"FleetId": "fleet-even", "InstanceId": "ins-7"}), "ResourceNotFound"),
        ("GetInstanceAccess", json!({"FleetId": "fleet-even"}), "MissingParameter"),
        ("GetInstanceAccess", json!({"FleetId": "fleet-even", "InstanceId": 7}), "InvalidParameter"),
        ("DescribeInstances", json!({"Fleet": "fleet-even"}), "UnknownParameter"),
        ("DescribeInstances", json!({"Limit": 101}), "InvalidParameterValue"),
        ("ResolveAlias", json!({"AliasId": "alias-x"}), "ResourceNotFound"),
        ("DeleteFleet", json!({}), "InvalidAction"),
    ] {
        assert_eq!(code(&call(&client, &endpoint, action, body).await), expected);
    }
    endpoint.change(|inventory| inventory.instance_mut("ins-7").unwrap().address = Ipv4Addr::new(127, 9, 9, 9).into());
    let moved = call(&client, &endpoint, "GetInstanceAccess", json!({"FleetId": "fleet-odd", "InstanceId": "ins-7"})).await;
    assert_eq!(moved["InstanceAccess"]["IpAddress"], "127.9.9.9");
    endpoint.shutdown().await;
}

#[tokio::test]
async fn signature_time_headers_and_mode_are_enforced() {
    let (client, endpoint) = (client(), endpoint(Mode::AllActions).await);
    let body = json!({"FleetId": "fleet-odd", "InstanceId": "ins-7"});
    let refused = async |request: reqwest::RequestBuilder| {
        let answer: Value = request.send().await.unwrap().json().await.unwrap();
        code(&answer["Response"]).to_owned()
    };
    let good = || request(&client, &endpoint, "GetInstanceAccess", &body, now(), KEY);
    assert_eq!(refused(request(&client, &endpoint, "GetInstanceAccess", &body, now(), "wrong")).await, "AuthFailure.SignatureFailure");
    assert_eq!(refused(request(&client, &endpoint, "GetInstanceAccess", &body, now() - 310, KEY)).await, "AuthFailure.SignatureExpire");
    assert_eq!(refused(good().body("{}")).await, "AuthFailure.SignatureFailure");
    assert_eq!(refused(good().header("X-TC-Token", "t")).await, "AuthFailure.TokenFailure");
    assert_eq!(refused(client.post(endpoint.url())).await, "UnsupportedProtocol");

    // The answer's Date header is the way back from a wrong clock.
    endpoint.set_clock_ahead(3_600);
    let answer = good().send().await.unwrap();
    let date = jiff::fmt::rfc2822::parse(answer.headers()["date"].to_str().unwrap()).unwrap().timestamp().as_second();
    assert!((3_590..3_610).contains(&(date - now() as i64)));
    assert_eq!(code(&answer.json::<Value>().await.unwrap()["Response"]), "AuthFailure.SignatureExpire");
    let corrected = request(&client, &endpoint, "GetInstanceAccess", &body, date as u64, KEY).send().await.unwrap();
    assert!(corrected.json::<Value>().await.unwrap()["Response"]["InstanceAccess"].is_object());
    endpoint.set_clock_ahead(0);

    endpoint.set_key(ApiKey { id: ID.into(), key: Secret::new(KEY.into()), token: Some(Secret::new(b"t".to_vec())) });
    assert_eq!(refused(good()).await, "AuthFailure.TokenFailure");
    assert!(good().header("X-TC-Token", "t").send().await.unwrap().text().await.unwrap().contains("InstanceAccess"));
    endpoint.set_key(ApiKey { id: ID.into(), key: Secret::new(KEY.into()), token: None });

    endpoint.set_mode(Mode::FleetScopedKey);
    assert_eq!(code(&call(&client, &endpoint, "DescribeInstances", json!({"InstanceId": "ins-7"})).await), "UnauthorizedOperation");
    let scoped = call(&client, &endpoint, "DescribeInstances", json!({"InstanceId": "ins-7", "FleetId": "fleet-odd"})).await;
    assert_eq!(scoped["TotalCount"], 1);
    endpoint.set_mode(Mode::GetInstanceAccessAlone);
    assert_eq!(code(&call(&client, &endpoint, "ListFleets", json!({})).await), "InvalidAction");
    assert!(call(&client, &endpoint, "GetInstanceAccess", body.clone()).await["InstanceAccess"].is_object());
}

#[tokio::test]
async fn the_twenty_first_call_of_a_second_is_throttled_and_counted() {
    let (client, endpoint) = (client(), endpoint(Mode::AllActions).await);
    let calls = (0..30).map(|_| call(&client, &endpoint, "ListFleets", json!({})));
    let answers = tokio::time::timeout(Duration::from_secs(10), futures_util::future::join_all(calls)).await.unwrap();
    let refused = answers.iter().filter(|answer| answer["Error"]["Code"] == "RequestLimitExceeded").count() as u64;
    // On a stalled machine the thirty may take more than a second; then fewer are refused, by this very count.
    assert_eq!((endpoint.calls(Action::ListFleets), endpoint.throttled()), (30, refused));
    assert!(endpoint.max_in_any_second(Action::ListFleets) < 30 || refused == 10, "{refused}");
    // The other actions have their own budget.
    assert!(call(&client, &endpoint, "DescribeInstances", json!({})).await["Instances"].is_array());
    assert_eq!(endpoint.calls(Action::DescribeInstances), 1);
}

#[tokio::test]
async fn faults_come_as_scripted() {
    let (client, endpoint) = (client(), endpoint(Mode::AllActions).await);
    let action = Action::GetInstanceAccess;
    let body = json!({"FleetId": "fleet-odd", "InstanceId": "ins-7"});
    let send = || request(&client, &endpoint, "GetInstanceAccess", &body, now(), KEY).send();

    endpoint.fault(action, Fault::Error("InternalError.Db".into()), Times::Next(2));
    endpoint.fault(action, Fault::Status(500), Times::Next(1));
    for _ in 0..2 {
        assert_eq!(code(&call(&client, &endpoint, "GetInstanceAccess", body.clone()).await), "InternalError.Db");
    }
    assert_eq!(send().await.unwrap().status(), 500);
    assert!(send().await.unwrap().text().await.unwrap().contains("InstanceAccess"));

    endpoint.fault(action, Fault::Redirect("http://127.0.0.1:9/".into()), Times::Next(1));
    assert_eq!(send().await.unwrap().status(), 302);
    endpoint.fault(action, Fault::WrongIds, Times::Next(1));
    assert_eq!(call(&client, &endpoint, "GetInstanceAccess", body.clone()).await["InstanceAccess"]["FleetId"], "fleet-someother");
    endpoint.fault(action, Fault::HalfBody, Times::Next(1));
    assert!(send().await.unwrap().bytes().await.is_err());
    endpoint.fault(action, Fault::HugeBody(3_000_000), Times::Next(1));
    let huge: Value = send().await.unwrap().json().await.unwrap();
    assert!(huge["Response"]["Padding"].as_str().unwrap().len() >= 3_000_000);
    endpoint.fault(action, Fault::Body("[]".into()), Times::Next(1));
    assert_eq!(send().await.unwrap().text().await.unwrap(), "[]");
    // hyper retries a reset on a connection that was kept alive, so this fault must last.
    endpoint.fault(action, Fault::Reset, Times::UntilCleared);
    assert!(send().await.is_err());
    endpoint.clear_faults();

    endpoint.set_latency(action, Duration::from_millis(120));
    let start = std::time::Instant::now();
    send().await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(120));
    endpoint.fault(action, Fault::Hang, Times::UntilCleared);
    let hanging = request(&client, &endpoint, "GetInstanceAccess", &body, now(), KEY).timeout(Duration::from_millis(400)).send();
    assert!(hanging.await.unwrap_err().is_timeout());
    // A hanging answer does not hold up the end.
    tokio::time::timeout(Duration::from_secs(2), endpoint.shutdown()).await.unwrap();
}
