use super::*;
use crate::broker::{Catalogue, Scopes};

/// A cloud of `count` instances in FLEET that turns pages; each name comes twice.
fn paged(count: usize) -> impl Fn(&Request, usize) -> Answer + Send + Sync {
    move |request, _| {
        let number = |name: &str| {
            let asked: serde_json::Value = serde_json::from_str(&request.body).unwrap();
            asked[name].as_u64().map(|number| usize::try_from(number).unwrap())
        };
        let (offset, limit) = (number("Offset").unwrap_or(0), number("Limit").unwrap_or(20));
        let names: Vec<String> = (offset..count.min(offset + limit)).rev().map(|i| format!("ins-{:04}", i / 2)).collect();
        Answer::instances(&names.iter().map(|name| (FLEET, name.as_str())).collect::<Vec<_>>())
    }
}

#[tokio::test]
async fn every_page_is_turned_and_each_instance_is_there_once_in_order() {
    for (count, instances, pages) in [(0, 0, 1), (7, 4, 1), (100, 50, 3), (130, 65, 3)] {
        let endpoint = Simulated::start(paged(count)).await;
        let listing = client(&endpoint, &[]).await.list(None, &asker(Duration::from_secs(5))).await.unwrap();
        let names: Vec<&str> = listing.instances.iter().map(|listed| listed.target.instance.as_str()).collect();
        assert!(names.is_sorted() && names.len() == instances && !listing.cut, "{names:?}");
        assert_eq!(endpoint.seen().len(), pages);
    }
}

#[tokio::test]
async fn a_cloud_without_end_is_cut() {
    let endpoint = Simulated::start(paged(usize::MAX)).await;
    let client = client_with(&endpoint, &[], 10_000, variables("AKID1")).await;
    let listing = client.list(None, &asker(Duration::from_secs(60))).await.unwrap();
    assert!(listing.cut);
    assert_eq!((listing.instances.len(), endpoint.seen().len()), (5000, 200));
}

#[tokio::test]
async fn what_the_cloud_says_of_an_instance_is_bounded_and_another_fleets_instances_are_passed_over() {
    let long = "x".repeat(500);
    let entry = |fleet: &str, instance: &str| format!(r#"{{"FleetId":"{fleet}","InstanceId":"{instance}","Status":"{long}"}}"#);
    let body = format!(
        r#"{{"Response":{{"Instances":[{},{},{},null,{{}}]}}}}"#,
        entry(FLEET, "ins-b"),
        entry("fleet-other", "ins-a"),
        entry(FLEET, "not an id")
    );
    let endpoint = Simulated::start(move |_, _| Answer::json(body.clone())).await;
    let client = client(&endpoint, &[]).await;
    let listing = client.list(Some(&fleet(FLEET)), &asker(Duration::from_secs(5))).await.unwrap();
    assert_eq!((listing.instances.len(), listing.instances[0].status.len()), (1, 64));
    assert_eq!(listing.instances[0].operating_system, "");
}

#[tokio::test]
async fn each_kind_of_key_and_endpoint_lists_as_it_can() {
    let whole = Simulated::start(paged(1)).await;
    let asker = asker(Duration::from_secs(5));
    assert_eq!(client(&whole, &["fleet-a"]).await.scopes(&asker).await.unwrap(), Scopes::Whole);

    let scoped = |request: &Request, _: usize| match request.action.as_str() {
        "ListFleets" => Answer::json(format!(r#"{{"Response":{{"FleetIds":["{FLEET}"]}}}}"#)),
        _ => Answer::error("UnauthorizedOperation.CamNoAuth"),
    };
    let scoped = Simulated::start(scoped).await;
    let client_of_two = client(&scoped, &["fleet-a", "fleet-b"]).await;
    for _ in 0..2 {
        assert_eq!(client_of_two.scopes(&asker).await.unwrap(), Scopes::Fleets(vec![fleet("fleet-a"), fleet("fleet-b")]));
    }
    assert_eq!(scoped.seen().len(), 1, "the way is remembered");
    assert_eq!(client(&scoped, &[]).await.scopes(&asker).await.unwrap(), Scopes::Fleets(vec![fleet(FLEET)]));

    let alone = Simulated::start(|_, _| Answer::error("InvalidAction")).await;
    let failure = client(&alone, &["fleet-a"]).await.scopes(&asker).await.unwrap_err();
    assert_eq!(failure.code, Code::ApiOffline);
    assert!(failure.text.contains("cannot list instances"), "{}", failure.text);
}
