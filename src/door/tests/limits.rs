//! What is bounded, and how it ends.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn draining_refuses_new_sessions_and_disconnecting_ends_them_all() {
    let world = World::new(|_| {}).await;
    let control = format!("ControlPath={}", world.path("control").display());
    let master = world.ssh("alice", "alice", &["-N", "-M", "-o", &control]).spawn().unwrap();
    while !world.path("control").exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    world.shutdown.cancel();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let output = run(&mut world.ssh("alice", "alice", &["-o", &control, "-W", "ins-echo:22"]), Vec::new()).await;
    assert!(String::from_utf8_lossy(&output.stdout).contains("[broker-draining,"), "{output:?}");
    world.door.disconnect();
    tokio::time::timeout(Duration::from_secs(20), world.door.ended()).await.unwrap();
    let output = tokio::time::timeout(Duration::from_secs(5), master.wait_with_output()).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("the broker is going down"), "{output:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_proves_nothing_is_gone_after_the_grace_whatever_it_sends() {
    let grace = Duration::from_millis(1200);
    let world = World::new(|config| {
        config.login_grace = grace;
        config.limits.startups_per_source = 3;
    })
    .await;
    let started = Instant::now();
    let mut silent = TcpStream::connect(world.at).await.unwrap();
    let mut identified = TcpStream::connect(world.at).await.unwrap();
    identified.write_all(b"SSH-2.0-OpenSSH_9.9\r\n").await.unwrap();
    let (mut flooder, mut flood) = TcpStream::connect(world.at).await.unwrap().into_split();
    // SSH_MSG_IGNORE before any key exchange, twenty a second.
    let ignore = [0, 0, 0, 12, 6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    tokio::spawn(async move {
        let _ = flood.write_all(b"SSH-2.0-dropbear_2022.83\r\n").await;
        while flood.write_all(&ignore).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    // A fourth from the same source finds no place.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut fourth = TcpStream::connect(world.at).await.unwrap();
    assert_eq!(fourth.read(&mut [0; 64]).await.unwrap_or(0), 0);
    let mut sink = Vec::new();
    let _ = silent.read_to_end(&mut sink).await;
    let _ = identified.read_to_end(&mut sink).await;
    let _ = flooder.read_to_end(&mut sink).await;
    let took = started.elapsed();
    assert!(took >= grace && took < grace + Duration::from_millis(800), "{took:?}");
    // None of them said a name, so none of them is an event; and the places are free again.
    assert!(world.works("alice", "alice").await);
    assert_eq!(world.audited(1).await.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn no_error_of_accept_ends_the_loop() {
    use std::task::{Context, Poll};
    struct Starved(Arc<AtomicUsize>);
    impl crate::door::listener::Accept for Starved {
        fn poll_accept(&self, _: &mut Context<'_>) -> Poll<std::io::Result<(TcpStream, SocketAddr)>> {
            // EMFILE, ENFILE, ENOMEM, ECONNABORTED in turn.
            let turn = self.0.fetch_add(1, Ordering::SeqCst);
            Poll::Ready(Err(std::io::Error::from_raw_os_error([24, 23, 12, 103][turn % 4])))
        }
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let (admission, shutdown) = (crate::door::admission::Admission::new(LIMITS), CancellationToken::new());
    let running = crate::door::listener::run(vec![Starved(calls.clone())], &admission, &shutdown, |_| {});
    let stop = async {
        tokio::time::sleep(Duration::from_secs(60)).await;
        shutdown.cancel();
    };
    tokio::join!(running, stop);
    let calls = calls.load(Ordering::SeqCst);
    assert!((60..120).contains(&calls), "{calls} calls of accept in a minute");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_logins_at_once_all_get_in() {
    let world = Arc::new(World::new(|_| {}).await);
    let started = Instant::now();
    let logins: Vec<_> = (0..50)
        .map(|_| {
            let world = world.clone();
            tokio::spawn(async move { world.echo("alice", "alice", &[]).await })
        })
        .collect();
    for login in logins {
        let (out, error) = login.await.unwrap();
        assert_eq!(out, "hello\n", "{error}");
    }
    println!("50 logins at once in {:?}", started.elapsed());
}
