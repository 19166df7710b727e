use super::*;

#[tokio::test]
async fn with_all_actions_one_describe_finds_the_fleet() {
    let endpoint = Simulated::start(|_, _| Answer::instances(&[("fleet-other", "ins-other"), (FLEET, INSTANCE)])).await;
    let client = client(&endpoint, &["fleet-a", "fleet-b"]).await;
    for _ in 0..2 {
        let located = client.locate(&instance(), &[], &asker(Duration::from_secs(5))).await.unwrap();
        assert!(located.target == target() && located.lease.is_none());
    }
    let seen = endpoint.seen();
    assert!(seen.iter().all(|request| request.action == "DescribeInstances" && request.body == r#"{"InstanceId":"ins-gi2lxw"}"#));
    assert_eq!(seen.len(), 2);
    let nowhere = InstanceId::parse("ins-nowhere").unwrap();
    let failure = client.locate(&nowhere, &[], &asker(Duration::from_secs(5))).await.err().unwrap();
    assert_eq!((failure.code, failure.text), (Code::TargetRefused, Failure::target_refused().text));
}

#[tokio::test]
async fn of_several_fleets_only_those_count_in_which_the_asker_may_reach_it() {
    let endpoint = Simulated::start(|_, _| Answer::instances(&[("fleet-a", INSTANCE), ("fleet-b", INSTANCE)])).await;
    let client = client(&endpoint, &["fleet-a", "fleet-b", "fleet-c"]).await;
    let asker = asker(Duration::from_secs(5));
    let locate = async |candidates: &[&str]| {
        let candidates: Vec<_> = candidates.iter().map(|name| fleet(name)).collect();
        client.locate(&instance(), &candidates, &asker).await
    };
    // To whom none of them is open, it reads as an instance that is not there.
    for candidates in [&[][..], &["fleet-c"]] {
        let failure = locate(candidates).await.err().unwrap();
        assert_eq!((failure.code, failure.text), (Code::TargetRefused, Failure::target_refused().text));
    }
    let located = locate(&["fleet-b", "fleet-c"]).await.unwrap();
    assert!(located.target.fleet == fleet("fleet-b") && !located.for_all);
    let failure = locate(&["fleet-a", "fleet-b"]).await.err().unwrap();
    assert!(failure.code == Code::TargetName && failure.text.contains("name the fleet: ins-gi2lxw.fleet-"), "{}", failure.text);
}

/// A key that is scoped to fleets: `a` has nothing, the configured or listed FLEET has the instance.
fn scoped(request: &Request, _: usize) -> Answer {
    match request.action.as_str() {
        "ListFleets" => Answer::json(format!(r#"{{"Response":{{"FleetIds":["fleet-a",null,"bad id","{FLEET}"],"RequestId":"r"}}}}"#)),
        "DescribeInstances" if request.body.contains(FLEET) => Answer::instances(&[(FLEET, INSTANCE)]),
        "DescribeInstances" if request.body.contains("fleet-a") => Answer::error("ResourceNotFound"),
        "DescribeInstances" => Answer::error("UnauthorizedOperation.CamNoAuth"),
        _ => Answer::error("InternalError"),
    }
}

#[tokio::test]
async fn a_key_scoped_to_fleets_asks_in_each_and_remembers_it() {
    for (fleets, first, again) in [
        (vec!["fleet-a", FLEET], vec!["DescribeInstances"; 3], 2),
        (vec![], vec!["DescribeInstances", "ListFleets", "DescribeInstances", "DescribeInstances"], 2),
    ] {
        let endpoint = Simulated::start(scoped).await;
        let client = client(&endpoint, &fleets).await;
        let located = client.locate(&instance(), &[], &asker(Duration::from_secs(5))).await.unwrap();
        assert_eq!(located.target, target());
        assert_eq!(endpoint.actions(), first);
        client.locate(&instance(), &[], &asker(Duration::from_secs(5))).await.unwrap();
        assert_eq!(endpoint.seen().len(), first.len() + again);
        client.locate(&instance(), &[fleet(FLEET)], &asker(Duration::from_secs(5))).await.unwrap();
        assert_eq!(endpoint.seen().len(), first.len() + again + 1, "the likely fleet comes first");
    }
}

#[tokio::test]
async fn many_cold_logins_learn_the_way_from_one_refused_call() {
    let endpoint = Simulated::start(scoped).await;
    let client = client(&endpoint, &[FLEET]).await;
    let (asker, instance) = (asker(Duration::from_secs(5)), instance());
    let calls = (0..30).map(|_| client.locate(&instance, &[], &asker));
    for located in futures_util::future::join_all(calls).await {
        assert_eq!(located.unwrap().target, target());
    }
    assert_eq!(endpoint.seen().len(), 31);
}

#[tokio::test]
async fn a_key_that_may_look_nowhere_is_the_administrators_business() {
    let endpoint = Simulated::start(|_, _| Answer::error("UnauthorizedOperation")).await;
    let failure = client(&endpoint, &["fleet-a"]).await.locate(&instance(), &[], &asker(Duration::from_secs(5))).await.err().unwrap();
    assert!(failure.code == Code::ApiDenied && failure.text.contains("req-1"), "{}", failure.text);
}

/// The international site: `GetInstanceAccess` is all there is.
fn access_only(request: &Request, _: usize) -> Answer {
    match request.action.as_str() {
        "GetInstanceAccess" if request.body.contains(FLEET) => Answer::access(FLEET, INSTANCE),
        "GetInstanceAccess" => Answer::error("ResourceNotFound"),
        _ => Answer::error("InvalidAction"),
    }
}

#[tokio::test]
async fn where_only_leases_are_to_be_had_the_candidates_are_tried() {
    let time = Duration::from_secs(5);
    let endpoint = Simulated::start(access_only).await;
    let one = client(&endpoint, &["fleet-one"]).await;
    for _ in 0..2 {
        let located = one.locate(&instance(), &[], &asker(time)).await.unwrap();
        assert!(located.target.fleet == fleet("fleet-one") && located.lease.is_none());
    }
    assert_eq!(endpoint.actions(), ["DescribeInstances"], "refused once, then remembered; the circuit stays closed");

    let endpoint = Simulated::start(access_only).await;
    let several = client(&endpoint, &["fleet-a", "fleet-b", FLEET]).await;
    let located = several.locate(&instance(), &[fleet("fleet-a"), fleet(FLEET)], &asker(time)).await.unwrap();
    assert!(located.target == target() && located.lease.is_some());
    assert_eq!(endpoint.actions(), ["DescribeInstances", "GetInstanceAccess", "GetInstanceAccess"]);
    assert!(!endpoint.seen().iter().any(|request| request.body.contains("fleet-b")), "no lease for whom policy would deny it");
    let failure = several.locate(&instance(), &[fleet("fleet-a")], &asker(time)).await.err().unwrap();
    assert_eq!(failure.code, Code::TargetRefused);

    let none = client(&endpoint, &[]).await;
    let failure = none.locate(&instance(), &[], &asker(time)).await.err().unwrap();
    assert!(failure.code == Code::TargetName && failure.text.contains("ins-gi2lxw.fleet-"), "{}", failure.text);
}
