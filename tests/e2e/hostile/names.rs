//! A DNS of the test's own: the broker runs in a mount namespace whose resolver asks it alone, for the name of the API's endpoint too.

use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use ssh_broker::demo::InstanceRecord;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::client::runtime;
use super::cloud::{certificate, recovery};
use super::echo::Echo;
use super::{bound, plan, unharmed};
use crate::lab::{Lab, Plan, Process, terminate, text};

/// Of the endpoint.
const NAME: &str = "gse.test";
/// Of a login, less than it is by default.
const DEADLINE: Duration = Duration::from_secs(9);
const NEVER: u64 = u64::MAX;

/// Answers what is asked after a delay, until it is dropped with its test.
struct Dns {
    address: Ipv4Addr,
    /// In milliseconds.
    delay: Arc<AtomicU64>,
    asked: Arc<AtomicUsize>,
}

impl Dns {
    fn start() -> Self {
        // Of its own, as others may run on this machine at the same time.
        let [.., high, low] = std::process::id().to_be_bytes();
        let address = Ipv4Addr::new(127, 53, high, low.clamp(1, 254));
        let socket = Arc::new(UdpSocket::bind((address, 53)).unwrap());
        let (delay, asked) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
        let dns = Self { address, delay: delay.clone(), asked: asked.clone() };
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((len, from)) = socket.recv_from(&mut query) {
                asked.fetch_add(1, Ordering::SeqCst);
                let (answer, socket, delay) = (answer(&query[..len]), socket.clone(), delay.load(Ordering::SeqCst));
                if delay != NEVER {
                    std::thread::spawn(move || {
                        std::thread::sleep(Duration::from_millis(delay));
                        let _ = socket.send_to(&answer, from);
                    });
                }
            }
        });
        dns
    }

    fn answers_after(&self, delay: u64) {
        self.delay.store(delay, Ordering::SeqCst);
    }

    /// Has the lab's broker started where this is the only DNS and no file knows a name, with an endpoint that it has to ask for.
    fn put_before(&self, lab: &mut Lab) {
        std::fs::write(lab.path("resolv.conf"), format!("nameserver {}\n", self.address)).unwrap();
        std::fs::write(lab.path("nsswitch.conf"), "hosts: dns\n").unwrap();
        let (program, dir) = (lab.program_path(), lab.path(""));
        std::fs::remove_file(&program).unwrap();
        let script = format!(
            "#!/bin/sh\nexport SSL_CERT_FILE={0}/tls.crt\nexec unshare --mount sh -ec 'for name in resolv.conf nsswitch.conf; do mount --bind {0}/$name /etc/$name; done; exec \"$@\"' sh {1} \"$@\"\n",
            dir.display(),
            env!("CARGO_BIN_EXE_ssh-broker"),
        );
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let port = speak_tls(lab);
        lab.edit(|text| {
            let text = text.replace(&lab.endpoint.url(), &format!("https://{NAME}:{port}"));
            text.replace("[gse]\n", &format!("[gse]\ndeadline = \"{}s\"\n", DEADLINE.as_secs()))
        });
    }
}

/// Before the lab's endpoint, under the name; the port.
fn speak_tls(lab: &Lab) -> u16 {
    let [key, certificate] = certificate(lab, NAME);
    let (key, certificate) = (PrivateKeyDer::from_pem_file(key).unwrap(), CertificateDer::from_pem_file(certificate).unwrap());
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key).unwrap();
    let (acceptor, endpoint) = (TlsAcceptor::from(Arc::new(config)), lab.endpoint.address());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            listener.set_nonblocking(true).unwrap();
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut upstream = tokio::net::TcpStream::connect(endpoint).await?;
                    tokio::io::copy_bidirectional(&mut acceptor.accept(stream).await?, &mut upstream).await
                });
            }
        });
    });
    port
}

/// RFC 1035, 4.1: the question as it came, and for an address of version 4 that of loopback.
fn answer(query: &[u8]) -> Vec<u8> {
    let question = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let is_a = query[question - 4..question - 2] == [0, 1];
    let mut answer = [&query[..2], &[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0], &query[12..question]].concat();
    if is_a {
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 127, 0, 0, 1]);
    }
    answer
}

/// Whether this process may have a mount namespace; a container may not.
#[expect(clippy::print_stderr, reason = "a test that is skipped says so")]
fn may_mount() -> bool {
    let may = Command::new("unshare").args(["--mount", "mount", "--bind", "/etc/resolv.conf", "/etc/resolv.conf"]).output();
    let may = may.is_ok_and(|out| out.status.success()) && std::path::Path::new("/etc/nsswitch.conf").exists();
    if !may {
        eprintln!("skipped: a mount namespace, for a resolver of the test's own, needs root, and CAP_SYS_ADMIN where this is a container");
    }
    may
}

/// An instance that nobody has asked for yet, in the place of `ins-a`.
fn another(lab: &Lab, number: usize) -> String {
    let instance = format!("ins-n{number}");
    lab.endpoint.change(|inventory| {
        let known = inventory.instance_mut("ins-a").unwrap().clone();
        inventory.insert(InstanceRecord { instance: instance.clone(), ..known });
    });
    instance
}

fn threads(broker: &Process) -> usize {
    std::fs::read_dir(format!("/proc/{}/task", broker.id())).unwrap().count()
}

#[test]
fn a_dns_that_is_slow_or_silent_delays_at_most_who_asks_first_and_is_over_when_its_cause_is() {
    if !may_mount() {
        return;
    }
    let mut lab = Lab::with(Plan { extra: "[cache]\nnot_found_ttl = \"1ms\"\n".to_owned(), ..plan() });
    let dns = Dns::start();
    dns.put_before(&mut lab);

    // Slow, with nothing known: who asks gets in, late.
    lab.restart_broker();
    dns.answers_after(3000);
    let started = Instant::now();
    let out = lab.run(&["ins-a", "echo in"]);
    assert_eq!(text(&out.stdout), "in\n", "{}\n{}", text(&out.stderr), lab.log());
    let took = started.elapsed();
    assert!(took >= Duration::from_secs(3) && took < DEADLINE, "{took:?}; DNS was asked {} times", dns.asked.load(Ordering::SeqCst));
    // From then on the address is known: with DNS slow or silent others wait a second, and who has a lease or a session for nothing.
    let bound = bound(&lab);
    let mut running = Echo::long(&lab);
    for (number, delay) in [3000, NEVER, NEVER].into_iter().enumerate() {
        dns.answers_after(delay);
        let target = another(&lab, number);
        let started = Instant::now();
        let out = lab.run(&[&target, "echo in"]);
        assert_eq!(text(&out.stdout), "in\n", "{}\n{}", text(&out.stderr), lab.log());
        assert!(started.elapsed() < Duration::from_secs(2) + bound, "{:?}", started.elapsed());
        running.assert_alive();
        unharmed(&lab, bound);
    }
    drop(running);
    // Lookups that hang do not hold up the end.
    let mut broker = lab.broker.take().unwrap();
    broker.signal(Signal::TERM);
    let started = Instant::now();
    assert_eq!(broker.wait(Duration::from_secs(20)), Some(0));
    assert!(started.elapsed() < Duration::from_secs(3) + bound, "{:?}", started.elapsed());

    // Silent, with nothing known: a sentence for each, in time, and few threads.
    std::fs::remove_file(lab.path("audit.jsonl")).unwrap();
    lab.start_broker();
    let calm = threads(lab.broker());
    let targets: Vec<_> = (0..8).map(|number| another(&lab, number)).collect();
    let mut most = 0;
    std::thread::scope(|scope| {
        let logins: Vec<_> = targets
            .iter()
            .map(|target| {
                let lab = &lab;
                scope.spawn(move || {
                    let started = Instant::now();
                    (lab.run(&[target, "true"]), started.elapsed())
                })
            })
            .collect();
        while !logins.iter().all(|login| login.is_finished()) {
            most = most.max(threads(lab.broker()));
            std::thread::sleep(Duration::from_millis(50));
        }
        for login in logins {
            let (out, took) = login.join().unwrap();
            assert!(text(&out.stderr).contains("[api-unavailable, ref "), "{}", text(&out.stderr));
            assert!(took < DEADLINE + bound, "{took:?}");
        }
    });
    assert!(most <= calm + 40, "{most} threads, {calm} before");
    // While somebody waits again it comes back.
    let mut waiting =
        lab.ssh(&[&targets[0], "true"]).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(2500));
    dns.answers_after(0);
    let took = recovery(&lab);
    assert!(took <= Duration::from_secs(2) + bound, "{took:?} until a login succeeded again");
    terminate(&mut waiting);
    unharmed(&lab, bound);
}
