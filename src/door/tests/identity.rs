//! Who is let in, and who is told no.

use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_known_key_is_let_in_over_aes_gcm_and_everybody_else_is_told_the_same() {
    let world = World::new(|_| {}).await;
    keygen(world.dir.path(), "mallory", &["-t", "ed25519"]);
    let started = Instant::now();
    let (out, log) = world.echo("alice", "alice", &["-v"]).await;
    println!("ssh -W in {:?}", started.elapsed());
    assert_eq!(out, "hello\n", "{log}");
    assert!(log.contains("cipher: aes128-gcm@openssh.com") && log.contains("remote software version ssh-broker"), "{log}");
    println!("{}", log.lines().filter(|line| line.contains("kex: ")).collect::<Vec<_>>().join("\n"));
    let answer =
        |log: String| log.lines().filter(|line| line.contains("denied")).map(|line| line.replace("nobody", "alice")).collect::<Vec<_>>();
    let (_, unknown_key) = world.echo("alice", "mallory", &[]).await;
    let (_, unknown_operator) = world.echo("nobody", "mallory", &[]).await;
    assert_eq!(answer(unknown_key), answer(unknown_operator.clone()));
    assert!(unknown_operator.contains("Permission denied (publickey)"), "{unknown_operator}");
    let (_, no_name) = world.echo("../alice", "alice", &[]).await;
    assert!(no_name.contains("Permission denied (publickey)"), "{no_name}");
    let events = world.audited(4).await;
    assert_eq!(events[0]["event"], "operator.authenticated");
    assert_eq!(events[0]["operator"], "alice");
    assert!(
        events[0]["key"].as_str().unwrap().starts_with("SHA256:") && events[0]["client"].as_str().unwrap().starts_with("SSH-2.0-OpenSSH")
    );
    for (event, claimed) in events[1..].iter().zip(["alice", "nobody", "../alice"]) {
        assert_eq!((&event["event"], &event["claimed"]), (&"operator.refused".into(), &claimed.into()), "{event}");
        assert!(event["reason"] == "no such key" && event.get("operator").is_none(), "{event}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_each_kind_and_the_options_before_them_count() {
    let world = World::new(|config| config.revoked_keys = Some(PathBuf::new())).await;
    for (name, kind) in [
        ("rsa", &["-t", "rsa", "-b", "2048"][..]),
        ("p256", &["-t", "ecdsa"]),
        ("p521", &["-t", "ecdsa", "-b", "521"]),
        ("weak", &["-t", "rsa", "-b", "1024"]),
    ] {
        keygen(world.dir.path(), name, kind);
        world.authorize(name, "", name);
        assert_eq!(world.works(name, name).await, name != "weak", "{name}");
    }
    let sha1 = ["-o", "PubkeyAcceptedAlgorithms=ssh-rsa"];
    assert_eq!(world.echo("rsa", "rsa", &sha1).await.0, "");
    for (options, works) in [
        ("from=\"127.0.0.0/8\"", true),
        ("from=\"192.0.2.*\"", false),
        ("expiry-time=\"20990101Z\"", true),
        ("expiry-time=\"20200101\"", false),
        ("command=\"true\"", false),
        ("restrict,pty", true),
    ] {
        world.authorize("alice", options, "alice");
        assert_eq!(world.works("alice", "alice").await, works, "{options}");
    }
    assert!(world.echo.restrictions.lock().unwrap().last().unwrap().no_agent_forwarding);
    std::fs::copy(world.path("alice.pub"), world.path("revoked")).unwrap();
    assert!(!world.works("alice", "alice").await);
    std::fs::write(world.path("revoked"), "").unwrap();
    std::fs::set_permissions(world.config.authorized_keys_dir.join("alice"), PermissionsExt::from_mode(0o666)).unwrap();
    assert!(!world.works("alice", "alice").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_counts_when_everything_in_it_does() {
    let world = World::new(|config| {
        config.trusted_user_ca = Some(PathBuf::new());
        config.revoked_keys = Some(PathBuf::new());
    })
    .await;
    std::fs::remove_file(world.config.authorized_keys_dir.join("alice")).unwrap();
    keygen(world.dir.path(), "other", &["-t", "ed25519"]);
    for (name, ca, arguments, works) in [
        ("good", "ca", &["-n", "bob,alice", "-V", "+1h", "-z", "7", "-O", "no-pty"][..], true),
        ("plain", "other", &["-n", "alice"], false),
        ("expired", "ca", &["-n", "alice", "-V", "-2h:-1h"], false),
        ("early", "ca", &["-n", "alice", "-V", "+1h:+2h"], false),
        ("bob", "ca", &["-n", "bob"], false),
        ("anyone", "ca", &[], false),
        ("host-cert", "ca", &["-h", "-n", "alice"], false),
        ("here", "ca", &["-n", "alice", "-O", "source-address=127.0.0.0/8"], true),
        ("there", "ca", &["-n", "alice", "-O", "source-address=192.0.2.0/24"], false),
        ("forced", "ca", &["-n", "alice", "-O", "force-command=true"], false),
        ("critical", "ca", &["-n", "alice", "-O", "critical:frobnicate=1"], false),
    ] {
        certify(&world, name, ca, arguments);
        assert_eq!(world.works("alice", name).await, works, "{name}");
    }
    let restrictions = world.echo.restrictions.lock().unwrap()[0];
    assert!(restrictions.no_pty && !restrictions.no_agent_forwarding);
    let events = world.audited(11).await;
    let key = events[0]["key"].as_str().unwrap();
    assert!(key.contains(" (cert \"alice ?laptop?\", serial 7, CA SHA256:"), "{key}");
    let reasons: Vec<_> = events.iter().filter_map(|event| event["reason"].as_str()).collect();
    for told in ["authority is not trusted", "wrong principals", "no principal", "source-address", "force-command", "frobnicate"] {
        assert!(reasons.iter().any(|reason| reason.contains(told)), "{told}: {reasons:#?}");
    }
    // A cert-authority line trusts another authority for one operator, by the principals that it names.
    world.authorize("carol", "cert-authority,principals=\"alice\"", "other");
    assert!(world.works("carol", "plain").await);
    assert!(!world.works("alice", "plain").await);
    std::fs::copy(world.path("ca.pub"), world.path("revoked")).unwrap();
    assert!(!world.works("alice", "good").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_full_of_other_keys_gets_in_with_its_last() {
    let world = World::new(|_| {}).await;
    let mut arguments = Vec::new();
    for name in ["k1", "k2", "k3", "k4", "k5"] {
        keygen(world.dir.path(), name, &["-t", "ed25519"]);
        arguments.extend(["-i".to_owned(), world.path(name).display().to_string()]);
    }
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut command =
        world.ssh("alice", "k1", &[&arguments[2..], &["-i", world.path("alice").to_str().unwrap(), "-W", "ins-echo:22"]].concat());
    let output = run(&mut command, b"hello\n".to_vec()).await;
    assert_eq!(output.stdout, b"hello\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_without_aes_gcm_get_in() {
    let world = World::new(|_| {}).await;
    // OpenSSH with AES-GCM switched off cannot be told by its version: it is let in when it comes again.
    let without_gcm = ["-c", "aes256-ctr,chacha20-poly1305@openssh.com"];
    let (_, error) = world.echo("alice", "alice", &without_gcm).await;
    assert!(error.contains("no matching cipher"), "{error}");
    let (out, error) = world.echo("alice", "alice", &without_gcm).await;
    assert_eq!(out, "hello\n", "{error}");

    let converted = std::process::Command::new("dropbearconvert")
        .args(["openssh", "dropbear"])
        .args([world.path("alice"), world.path("dropbear")])
        .output();
    if converted.is_err() {
        return eprintln!("no dropbear here: not tried");
    }
    let mut command = Command::new("dbclient");
    command.arg("-y").arg("-y").arg("-i").arg(world.path("dropbear")).args(["-p", &world.at.port().to_string()]);
    command.args(["-B", "ins-echo:22", "alice@127.0.0.1"]).env("HOME", world.dir.path());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = run(&mut command, b"hello\n".to_vec()).await;
    assert_eq!(output.stdout, b"hello\n", "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_login_that_cannot_be_recorded_is_none() {
    struct Stuck(std::sync::mpsc::Receiver<()>);
    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            let _ = self.0.recv();
            Ok(())
        }
    }
    let world = World::new(|_| {}).await;
    let (release, stuck) = std::sync::mpsc::channel();
    let (audit, thread) = Audit::with_sink(Box::new(Stuck(stuck)), 1);
    while audit.try_record(&crate::audit::Subject::default(), crate::audit::Event::TargetDenied { typed: "x".into() }).is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let host_key = ssh_key::PrivateKey::read_openssh_file(world.path("host")).unwrap();
    let door = Door::new(&world.config, &host_key, audit, world.echo.clone()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let world = World { at: listener.local_addr().unwrap(), ..world };
    let running = tokio::spawn(async move { door.run(vec![listener], CancellationToken::new()).await });
    assert!(!world.works("alice", "alice").await);
    assert_eq!(world.echo.open.load(Ordering::SeqCst), 0);
    drop(release);
    running.abort();
    let _ = running.await;
    drop(thread);
}
