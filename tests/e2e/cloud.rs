//! Quota, cache and resolution against an endpoint that enforces the real one's rules.

use std::process::Stdio;
use std::time::{Duration, Instant};

use ssh_broker::demo::{Action, Fault, InstanceRecord, Mode, Times};

use crate::lab::{FLEET, Lab, Plan, text};

/// Makes `count` more names for the one sshd of the lab.
fn add_instances(lab: &Lab, count: usize) {
    lab.endpoint.change(|inventory| {
        for i in 0..count {
            let known = inventory.find(FLEET, "ins-a").unwrap();
            let record = InstanceRecord {
                fleet: known.fleet.clone(),
                instance: format!("ins-m{i}"),
                address: known.address,
                login: known.login.clone(),
                secret: known.secret.clone(),
                operating_system: known.operating_system.clone(),
                status: known.status.clone(),
            };
            inventory.insert(record);
        }
    });
}

#[test]
fn sixty_cold_logins_to_sixty_instances_all_succeed_and_nothing_is_throttled() {
    let lab = Lab::start();
    add_instances(&lab, 60);
    let started = Instant::now();
    let logins: Vec<_> = (0..60)
        .map(|i| lab.ssh(&[&format!("ins-m{i}"), &format!("echo {i}")]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let mut told = 0;
    for (i, login) in logins.into_iter().enumerate() {
        let out = login.wait_with_output().unwrap();
        assert_eq!(text(&out.stdout), format!("{i}\n"), "{}", text(&out.stderr));
        told += usize::from(text(&out.stderr).contains("waiting for the cloud API, behind"));
    }
    let took = started.elapsed();
    assert_eq!(lab.endpoint.throttled(), 0);
    for action in [Action::GetInstanceAccess, Action::DescribeInstances] {
        assert_eq!(lab.endpoint.calls(action), 60);
        assert!(lab.endpoint.max_in_any_second(action) <= 20);
    }
    // Each action's 60 calls take two seconds at 20 a second; the two actions follow each other.
    assert!(took < Duration::from_secs(15), "{took:?}");
    eprintln!("60 cold logins in {took:?}, {told} operators were told that they wait");
}

#[test]
fn a_wait_for_the_quota_is_told_once_with_the_number_ahead() {
    // All of them come from one address.
    let extra = "[limits]\nstartups_per_source = 200\n".to_owned();
    let mut lab = Lab::with(Plan { extra, ..Plan::default() });
    // Fewer than a busy machine begins.
    lab.edit(|text| text.replace("[gse]\n", "[gse]\nrequests_per_second = 3\n"));
    lab.restart_broker();
    add_instances(&lab, 20);
    let logins: Vec<_> = (0..20)
        .map(|i| lab.ssh(&[&format!("ins-m{i}.prod"), "true"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    let texts: Vec<String> = logins.into_iter().map(|login| text(&login.wait_with_output().unwrap().stderr)).collect();
    let told = texts.iter().filter(|text| text.contains("waiting for the cloud API, behind")).count();
    assert!(told > 0, "{texts:?}");
    assert!(texts.iter().all(|text| text.matches("waiting for the cloud API").count() <= 1));
    assert_eq!(lab.endpoint.throttled(), 0);
}

#[test]
fn many_at_once_to_one_instance_cost_one_call_and_a_second_login_none() {
    let lab = Lab::start();
    let logins: Vec<_> = (0..10).map(|_| lab.ssh(&["ins-a", "true"]).stderr(Stdio::piped()).spawn().unwrap()).collect();
    for login in logins {
        assert!(login.wait_with_output().unwrap().status.success());
    }
    assert!(lab.run(&["ins-a", "true"]).status.success());
    assert_eq!(lab.endpoint.calls(Action::GetInstanceAccess), 1);
    assert_eq!(lab.endpoint.calls(Action::DescribeInstances), 1);
}

#[test]
fn a_rotated_secret_costs_nobody_an_error() {
    let lab = Lab::start();
    assert!(lab.run(&["ins-a", "true"]).status.success());
    lab.rotate("ins-a");
    let out = lab.run(&["ins-a", "echo in"]);
    assert_eq!(text(&out.stdout), "in\n", "{}", text(&out.stderr));
    assert_eq!(lab.endpoint.calls(Action::GetInstanceAccess), 2);
}

#[test]
fn a_changed_address_costs_nobody_an_error() {
    let mut lab = Lab::start();
    assert!(lab.run(&["ins-a", "true"]).status.success());
    // The same instance, with the same host key, at another address; the lease at hand still names the old one.
    lab.move_to(0, "ins-a", "127.0.0.2");
    let out = lab.run(&["ins-a", "echo in"]);
    assert_eq!(text(&out.stdout), "in\n", "{}", text(&out.stderr));
    assert_eq!(lab.endpoint.calls(Action::GetInstanceAccess), 2);
}

#[test]
fn resolution_works_with_every_kind_of_key_and_endpoint() {
    for (mode, fleets) in [(Mode::FleetScopedKey, true), (Mode::FleetScopedKey, false), (Mode::GetInstanceAccessAlone, true)] {
        let lab = Lab::with(Plan { mode, ..Plan::default() });
        let mut lab = lab;
        if fleets {
            let file = lab.path("broker.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            std::fs::write(&file, text.replace("[gse]\n", &format!("[gse]\nfleets = [\"{FLEET}\"]\n"))).unwrap();
            lab.broker = None;
            lab.start_broker();
        }
        let out = lab.run(&["ins-a", "echo in"]);
        assert_eq!(text(&out.stdout), "in\n", "{mode:?} {fleets}: {}", text(&out.stderr));
        assert!(lab.run(&["ins-a.prod", "true"]).status.success());
        assert!(text(&lab.run(&["ins-none", "true"]).stderr).contains("[target-refused"));
    }
}

#[test]
fn throttling_from_outside_slows_and_passes() {
    let lab = Lab::start();
    lab.endpoint.fault(Action::GetInstanceAccess, Fault::Error("RequestLimitExceeded".to_owned()), Times::Next(3));
    let out = lab.run(&["ins-a", "echo in"]);
    assert_eq!(text(&out.stdout), "in\n", "{}", text(&out.stderr));
    assert_eq!(lab.endpoint.calls(Action::GetInstanceAccess), 4);
}
