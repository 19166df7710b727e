//! What happens on an operator's channels.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_on_the_way_to_a_slow_reader_and_back() {
    let world = World::new(|_| {}).await;
    let sent: Vec<u8> = (0..20_u32 << 20).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut child = world.ssh("alice", "alice", &["-W", "ins-echo:22"]).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let write = tokio::spawn({
        let sent = sent.clone();
        async move {
            stdin.write_all(&sent).await.unwrap();
        }
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    let mut stdout = child.stdout.take().unwrap();
    let mut read = Vec::new();
    let started = Instant::now();
    tokio::time::timeout(Duration::from_secs(60), stdout.read_to_end(&mut read)).await.unwrap().unwrap();
    println!("20 MiB there and back in {:?}", started.elapsed());
    assert!(read == sent, "{} of {} bytes came back", read.len(), sent.len());
    write.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stalled_target_leaves_the_others_of_its_connection_alone() {
    let world = World::new(|config| config.limits.sessions_per_connection = 2).await;
    let control = world.path("control");
    let control = format!("ControlPath={}", control.display());
    let mut master = world.ssh("alice", "alice", &["-N", "-M", "-o", &control]).spawn().unwrap();
    for _ in 0..300 {
        if world.path("control").exists() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut stalled = world.ssh("alice", "alice", &["-o", &control, "-W", "ins-stall:22"]).spawn().unwrap();
    let mut into_the_stalled = stalled.stdin.take().unwrap();
    // Less than a pipe: the client is not held back.
    into_the_stalled.write_all(&vec![b'x'; 400 << 10]).await.unwrap();
    let mut command = world.ssh("alice", "alice", &["-o", &control, "-W", "ins-echo:22"]);
    let output = run(&mut command, vec![b'y'; 4 << 20]).await;
    assert_eq!(output.stdout.len(), 4 << 20, "{}", String::from_utf8_lossy(&output.stderr));
    // The place of the session that has ended is free, and the third at once is told that there is none.
    let second = world.ssh("alice", "alice", &["-o", &control, "-W", "ins-stall:22"]).spawn().unwrap();
    while world.echo.open.load(Ordering::SeqCst) < 2 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let output = run(&mut world.ssh("alice", "alice", &["-o", &control, "-W", "ins-echo:22"]), Vec::new()).await;
    let sentence = String::from_utf8_lossy(&output.stdout);
    assert!(
        sentence.starts_with("ssh-broker: ins-echo: this connection has 2 sessions") && sentence.contains("[broker-busy,"),
        "{sentence}"
    );
    drop(second);
    master.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_targets_are_reached_and_what_is_no_target_is_told_so() {
    let world = World::new(|_| {}).await;
    let said = async |arguments: &[&str]| {
        let output = run(&mut world.ssh("alice", "alice", arguments), Vec::new()).await;
        (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (out, _) = said(&["-W", "www.example.com:22"]).await;
    assert!(out.starts_with("ssh-broker: www.example.com: not a target name") && out.contains("[target-name,"), "{out}");
    for refused in [&["-W", "ins-echo:2222"][..], &["-W", "127.0.0.1:80"], &["-T"], &["-s", "-T"]] {
        let (out, error) = said(refused).await;
        assert!(out.is_empty() && (error.contains("administratively prohibited") || error.contains("usage:")), "{refused:?}: {error}");
    }
    let (_, error) = said(&["-N", "-R", "0:127.0.0.1:22", "-o", "ExitOnForwardFailure=yes"]).await;
    assert!(error.contains("remote port forwarding failed"), "{error}");
    world.shutdown.cancel();
    tokio::time::timeout(Duration::from_secs(10), world.door.ended()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(TcpStream::connect(world.at).await.is_err());
}
