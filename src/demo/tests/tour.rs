//! The tour without a broker: the client's side of it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ssh_key::LineEnding;

use crate::access::{FleetId, InstanceId, Target};
use crate::audit::{Audit, Event, Subject};
use crate::demo::{BrokerFacts, ClientHome, Credential, Ended, Instance, InstanceConfig, Tour, ed25519, feed};

fn line(key: &ssh_key::PrivateKey) -> String {
    key.public_key().to_openssh().unwrap()
}

#[test]
fn a_real_ssh_reads_the_configuration_as_meant_and_nothing_is_left() {
    let home = ClientHome::create().unwrap();
    let (host, ca) = (line(&ed25519("host").unwrap()), line(&ed25519("ca").unwrap()));
    home.write_config(&BrokerFacts { address: "127.0.0.1:2299".parse().unwrap(), host_key: &host, ca_key: &ca }).unwrap();
    let path = home.path().to_owned();
    let mode = |name: &str| std::fs::metadata(path.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("id_ed25519"), mode("ssh_config"), mode("known_hosts")), (0o700, 0o600, 0o600, 0o600));
    let parsed = |target: &str| {
        let output = Command::new("ssh").arg("-F").arg(home.config()).args(["-G", target]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let instance = parsed("ins-demo1");
    for expected in ["proxyjump broker", "hostname ins-demo1", "port 22", "stricthostkeychecking true", "identitiesonly yes"] {
        assert!(instance.lines().any(|line| line == expected), "{expected} in {instance}");
    }
    let broker = parsed("broker");
    let key = format!("identityfile {}", path.join("id_ed25519").display());
    for expected in ["hostname 127.0.0.1", "port 2299", "user demo", &key] {
        assert!(broker.lines().any(|line| line == expected), "{expected} in {broker}");
    }
    assert!(!broker.contains("proxyjump"));
    // The jump's own client reads the same configuration; nothing listens on the port it names.
    let jump = Command::new("ssh").arg("-F").arg(home.config()).args(["-v", "ins-demo1", "true"]).output().unwrap();
    let said = String::from_utf8_lossy(&jump.stderr).into_owned();
    assert!(said.contains(&format!("-F {}", home.config().display())) && said.contains("port 2299"), "{said}");
    // Both lines of known_hosts are found.
    let found = |host: &str| {
        Command::new("ssh-keygen").arg("-F").arg(host).arg("-f").arg(path.join("known_hosts")).output().unwrap().status.success()
    };
    assert!(found("[127.0.0.1]:2299") && found("ins-demo1") && !found("example.org"));
    home.close().unwrap();
    assert!(!path.exists());
}

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

async fn instance(name: &str, key: &ssh_key::PrivateKey) -> Instance {
    Instance::start(InstanceConfig {
        name: name.into(),
        address: "127.0.0.1:0".parse().unwrap(),
        login: "root".into(),
        credential: Credential::Key(key.public_key().clone()),
        host_key: ed25519("host").unwrap(),
        rekey_after: None,
    })
    .await
    .unwrap()
}

/// The stops' own ssh, with a configuration that leads straight to the instances: all is as promised but the refusal, which only a
/// broker can say.
#[tokio::test]
async fn the_tour_checks_what_it_promises_and_shows_the_audit_s_times() {
    let home = ClientHome::create().unwrap();
    let key = ed25519("operator").unwrap();
    key.write_openssh_file(home.path().join("direct"), LineEnding::LF).unwrap();
    let mut config = format!(
        "Host *\nUser root\nIdentityFile {}/direct\nIdentityAgent none\nStrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n\
         LogLevel ERROR\nHost ins-demo*\nHostName 127.0.0.1\n",
        home.path().display()
    );
    let mut instances = Vec::new();
    for name in ["ins-demo1", "ins-demo2"] {
        let instance = instance(name, &key).await;
        config.push_str(&format!("Host {name}\nPort {}\n", instance.address().port()));
        instances.push(instance);
    }
    config.push_str("Host ins-nonesuch\nHostName 127.0.0.1\nPort 1\n");
    std::fs::write(home.config(), config).unwrap();

    let (sink, opened) = feed();
    let (audit, thread) = Audit::with_sink(Box::new(sink), 8);
    let recorder = tokio::spawn({
        let audit = audit.clone();
        async move {
            let mut subject = Subject::default();
            loop {
                for name in ["ins-demo1", "ins-demo2"] {
                    subject.set_target(&Target { fleet: FleetId::parse("fleet-a").unwrap(), instance: InstanceId::parse(name).unwrap() });
                    audit.record(&subject, Event::TargetDenied { typed: "x".into(), reason: "x".into() }).await.unwrap();
                    audit.record(&subject, event()).await.unwrap();
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let page = Page::default();
    let mut out = page.clone();
    let mut tour = Tour::new(&home, opened, &mut out);
    let ended = tokio::time::timeout(Duration::from_secs(60), tour.show()).await.unwrap().unwrap();
    let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
    assert_eq!(ended, Ended::Exit(1), "{text}");
    assert!(text.contains("5 of 6 as promised") && text.contains("! the refusal lacks"), "{text}");
    assert!(text.contains("ins-demo2, Linux") && text.contains("4194304 bytes came back"), "{text}");
    assert_eq!(text.matches("resolve 1.5, quota 0.0, api 12.2").count(), 5, "{text}");
    assert!(text.contains("exit status 7, first byte after "), "{text}");

    let command = ["exit".to_owned(), "9".to_owned()];
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), tour.run("ins-demo1", &command)).await.unwrap().unwrap(), Ended::Exit(9));
    recorder.abort();
    assert!(recorder.await.unwrap_err().is_cancelled());
    drop(audit);
    thread.join().unwrap();
}

fn event() -> Event {
    Event::SessionOpened {
        client: "c".into(),
        server: "s".into(),
        downstream: "d".into(),
        upstream: "u".into(),
        weak: Vec::new(),
        resolve_ms: 1.5,
        quota_ms: 0.0,
        api_ms: 12.25,
        connect_ms: 0.5,
        kex_ms: 3.0,
        auth_ms: 2.0,
        total_ms: 20.0,
    }
}
