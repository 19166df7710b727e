use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::access::RecordMode;
use crate::door::{ByteStream, PendingChannel, Refusal};

/// A channel of a connection that takes no answer.
struct Unanswered {
    refused: Arc<AtomicBool>,
}

impl PendingChannel for Unanswered {
    fn accept(self: Box<Self>) -> BoxFuture<'static, Box<dyn ByteStream>> {
        Box::pin(std::future::pending())
    }

    fn refuse(self: Box<Self>, _: Refusal, _: String) -> BoxFuture<'static, ()> {
        self.refused.store(true, Ordering::SeqCst);
        Box::pin(std::future::pending())
    }
}

/// A forward by such a channel to a port where somebody listens.
struct Asked {
    ends: JoinHandle<()>,
    listener: TcpListener,
    gone: CancellationToken,
    refused: Arc<AtomicBool>,
}

async fn forward(house: &House) -> Asked {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (gone, refused) = (CancellationToken::new(), Arc::<AtomicBool>::default());
    let forward = Forward {
        operator: operator("alice"),
        client_version: "SSH-2.0-x".to_owned(),
        typed: "ins-a".to_owned(),
        name: TargetName::parse("ins-a", &FleetAliases::default()).map_err(|_| unreachable!()),
        port: listener.local_addr().unwrap().port(),
        channel: Box::new(Unanswered { refused: refused.clone() }),
        gone: gone.clone(),
    };
    Asked { ends: tokio::spawn(house.runner.forward(forward)), listener, gone, refused }
}

/// A broker with a cloud that leases.
fn leasing(handshake: Duration) -> House {
    build(false, true, Recording::default(), Config { handshake, ..Config::default() })
}

/// Looks until it is so.
async fn until(mut is_so: impl FnMut() -> bool) {
    let looking = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looking).await.unwrap();
}

async fn ended(ends: JoinHandle<()>) {
    tokio::time::timeout(Duration::from_secs(30), ends).await.unwrap().unwrap();
}

async fn the_one_that_runs(house: &House) -> Arc<Running> {
    let live = house.runner.0.live();
    until(|| live.list().len() == 1).await;
    live.list()[0].clone()
}

/// Why the forward ended.
async fn reason(house: &House) -> String {
    until(|| house.lines.events().last().is_some_and(|event| event == "forward.closed")).await;
    let text = String::from_utf8(house.lines.bytes.lock().unwrap().clone()).unwrap();
    let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    last["reason"].as_str().unwrap().to_owned()
}

/// The sink of the audit takes nothing more, and its queue is full.
fn stall(audit: &Audit, lines: &Lines) {
    let filler = || audit.try_record(&Subject::default(), Event::ConnectionCrashed {});
    lines.blocks.store(true, Ordering::SeqCst);
    filler().unwrap();
    while audit.health().waiting > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    while filler().is_ok() {}
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_waited_for_until_somebody_ends_it() {
    let house = leasing(Duration::from_secs(600));
    let Asked { ends, listener: _listener, .. } = forward(&house).await;
    the_one_that_runs(&house).await.end(&Failure::new(Code::SessionEnded, "an administrator ended it"));
    ended(ends).await;
    assert_eq!(reason(&house).await, "broker: session-ended: an administrator ended it");

    let Asked { ends, gone, listener: _listener, .. } = forward(&house).await;
    the_one_that_runs(&house).await;
    gone.cancel();
    ended(ends).await;
    assert_eq!(reason(&house).await, "operator: closed the channel");
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_not_waited_for_for_ever() {
    let house = leasing(Duration::from_millis(20));
    let Asked { ends, listener: _listener, .. } = forward(&house).await;
    ended(ends).await;
    assert_eq!(reason(&house).await, "operator: the connection did not take the answer in time");
    // The same for a refusal.
    let Asked { ends, listener, refused, .. } = forward(&house).await;
    drop(listener);
    ended(ends).await;
    assert!(refused.load(Ordering::SeqCst));
}

#[tokio::test]
async fn what_the_audit_keeps_from_beginning_was_never_open_and_its_recording_ends() {
    let recording = Recording { mode: RecordMode::Required, input: false };
    let house = build(false, true, recording, Config { handshake: Duration::from_millis(20), ..Config::default() });
    let (audit, lines) = (house.audit.clone(), house.lines.clone());
    *house.at_lease.lock().unwrap() = Some(Box::new(move || stall(&audit, &lines)));
    let Asked { ends, refused, listener: _listener, .. } = forward(&house).await;
    until(|| refused.load(Ordering::SeqCst)).await;
    house.lines.blocks.store(false, Ordering::SeqCst);
    ended(ends).await;
    until(|| house.audit.health().waiting == 0 && house.lines.events().last().is_some_and(|event| event == "recording.ended")).await;
    let mut events = house.lines.events();
    events.retain(|event| event != "connection.crashed");
    assert_eq!(events, ["session.started", "lease.fetched", "recording.started", "target.failed", "recording.ended"]);
}

#[tokio::test]
async fn one_that_waits_for_the_audit_at_its_end_is_alive() {
    let house = leasing(Duration::from_secs(600));
    let Asked { ends, listener: _listener, .. } = forward(&house).await;
    let running = the_one_that_runs(&house).await;
    stall(&house.audit, &house.lines);
    running.end(&Failure::new(Code::SessionEnded, "an administrator ended it"));
    for round in 1..=3 {
        // It has ended all that it has to end meanwhile.
        tokio::time::sleep(Duration::from_millis(50)).await;
        running.ask(round);
        until(|| running.answered() >= round).await;
    }
    assert!(!ends.is_finished());
    house.lines.blocks.store(false, Ordering::SeqCst);
    ended(ends).await;
}
