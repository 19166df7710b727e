//! What an operator says to the broker itself, with real clients.

use std::fs;
use std::io::Read;
use std::process::{Output, Stdio};

use ssh_broker::demo::{Action, Fault, InstanceRecord, Mode, Times};

use crate::lab::{FLEET, Lab, Plan, Sshd, exchange, installed, succeeded, text};

/// alice may reach `ins-a` and `ins-a2` and looks after the broker; bob may reach `ins-b…` of one fleet.
const POLICY: &str = "[operators.groups]\noncall = [\"bob\"]\n\n[[grants]]\noperators = [\"alice\"]\ntargets = [\"ins-a*\"]\n\n\
                      [[grants]]\noperators = [\"@oncall\"]\ntargets = [\"fleet-lab-*/ins-b*\"]\nallow = [\"shell\", \"agent\"]\n";

fn lab_with(mode: Mode, operators: &str) -> Lab {
    let lab = Lab::with(Plan { mode, extra: POLICY.to_owned(), ..Plan::default() });
    for (fleet, instance, status) in
        [(FLEET, "ins-a2", "Busy"), (FLEET, "ins-b1", "Active"), ("fleet-other", "ins-b2", "Active\x1b[2J\r\n")]
    {
        add(&lab, fleet, instance, status);
    }
    let mut lab = lab;
    let file = lab.path("broker.toml");
    let settings = fs::read_to_string(&file).unwrap().replace("[operators]\n", &format!("[operators]\n{operators}\n"));
    fs::write(&file, settings).unwrap();
    lab.restart_broker();
    lab
}

fn lab() -> Lab {
    lab_with(Mode::AllActions, "administrators = [\"alice\"]")
}

fn add(lab: &Lab, fleet: &str, instance: &str, status: &str) {
    lab.endpoint.change(|inventory| {
        let known = inventory.find(FLEET, "ins-a").unwrap().clone();
        inventory.insert(InstanceRecord { fleet: fleet.to_owned(), instance: instance.to_owned(), status: status.to_owned(), ..known });
    });
}

fn run(lab: &Lab, operator: &str, words: &str) -> Output {
    lab.run(&["-T", "-l", operator, "broker", words])
}

fn json(out: &Output) -> serde_json::Value {
    assert!(out.stderr.is_empty(), "{}", text(&out.stderr));
    assert_eq!(out.stdout.iter().filter(|byte| **byte == b'\n').count(), 1);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|error| panic!("{error}: {}", text(&out.stdout)))
}

/// Exit status, standard output, standard error.
fn parts(out: &Output) -> (i32, String, String) {
    (out.status.code().unwrap(), text(&out.stdout), text(&out.stderr))
}

#[test]
fn without_a_command_there_is_a_greeting_and_no_shell() {
    let lab = lab();
    let (exit, out, err) = parts(&lab.run(&["-T", "broker"]));
    assert_eq!((exit, err.as_str()), (0, ""));
    for expected in ["Hello alice.", "  ins-a*  shell exec sftp\n", "ssh -J broker ins-", "forget-host INSTANCE"] {
        assert!(out.contains(expected), "{expected:?} in {out}");
    }
    assert!(!out.contains('\r'));
    // A terminal needs the other line ends; what is typed is not waited for.
    let (exit, out, _) = parts(&lab.run(&["-tt", "-l", "bob", "broker"]));
    assert_eq!(exit, 0);
    assert!(out.contains("Hello bob.") && !out.contains("forget-host"), "{out}");
    assert_eq!(out.matches('\n').count(), out.matches("\r\n").count());
    // Whatever comes in is of no consequence.
    let out = exchange(&mut lab.ssh(&["-T", "broker", "whoami"]), &vec![b'x'; 8 << 20]);
    assert!(succeeded(&out).contains("operator       alice"));
    // Nobody without a grant costs a call.
    assert_eq!(parts(&run(&lab, "bob", "help")).0, 0);
    assert_eq!(lab.endpoint.calls(Action::DescribeInstances), 0);
}

#[test]
fn ls_shows_what_the_operator_may_reach_from_the_api_once() {
    for (mode, fleets) in [(Mode::AllActions, ""), (Mode::FleetScopedKey, ""), (Mode::FleetScopedKey, "fleets = [\"fleet-lab-1\"]")] {
        let mut lab = lab_with(mode, "");
        if !fleets.is_empty() {
            let file = lab.path("broker.toml");
            let settings = fs::read_to_string(&file).unwrap().replace("[gse]\n", &format!("[gse]\n{fleets}\n"));
            fs::write(&file, settings).unwrap();
            lab.restart_broker();
        }
        let (exit, out, err) = parts(&run(&lab, "alice", "ls"));
        assert_eq!((exit, err.as_str()), (0, ""), "{mode:?}");
        let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["INSTANCE", "FLEET", "STATUS", "SYSTEM"]);
        assert_eq!(lines[1][..4], ["ins-a", FLEET, "(prod)", "Active"], "{out}");
        assert_eq!(lines[2][..4], ["ins-a2", FLEET, "(prod)", "Busy"], "{out}");
        assert_eq!(lines.len(), 3);
        let calls = lab.endpoint.calls(Action::DescribeInstances);
        let listed = json(&run(&lab, "bob", "ls --json"));
        assert_eq!(listed["instances"].as_array().unwrap().len(), 1);
        assert_eq!(listed["instances"][0]["instance"], "ins-b1");
        assert_eq!(listed["instances"][0]["allow"], serde_json::json!(["shell", "agent"]));
        assert_eq!(listed["complete"], true);
        let (exit, out, _) = parts(&run(&lab, "alice", "ls '*/ins-?2'"));
        assert_eq!((exit, out.lines().count()), (0, 2), "{out}");
        assert_eq!(parts(&run(&lab, "alice", "ls ins-none")).0, 1);
        assert_eq!(lab.endpoint.calls(Action::DescribeInstances), calls, "the listing is remembered: {mode:?}");
        // What the cloud says goes to no terminal as it is; addresses go nowhere.
        assert!(!out.contains("127.0.0.1") && !out.contains('\x1b'));
    }
}

#[test]
fn ls_turns_pages_and_shows_no_control_byte_of_the_clouds() {
    let lab = Lab::start();
    for i in 0..120 {
        add(&lab, FLEET, &format!("ins-m{i:03}"), "Act\x1b[31mive\r\n\u{202e}x");
    }
    let (exit, out, _) = parts(&run(&lab, "alice", "ls ins-m*"));
    assert_eq!((exit, out.lines().count()), (0, 121));
    assert!(out.chars().all(|c| c == '\n' || (' '..='~').contains(&c)), "{out:?}");
    assert!(out.contains("Act\\u{1b}[31mive\\u{d}\\u{a}\\u{202e}x"));
    let out = run(&lab, "alice", "ls --json");
    assert!(out.stdout.iter().all(|byte| *byte == b'\n' || (b' '..=b'~').contains(byte)));
    assert_eq!(json(&out)["instances"][1]["status"], "Act\x1b[31mive\r\n\u{202e}x");
}

#[test]
fn where_nothing_can_be_listed_a_sentence_says_so() {
    let lab = lab_with(Mode::GetInstanceAccessAlone, "");
    let (exit, out, err) = parts(&run(&lab, "alice", "ls"));
    assert_eq!((exit, out.as_str()), (4, ""));
    assert!(
        err.starts_with("ssh-broker: ls: the cloud API of this site cannot list instances") && err.contains("[api-offline, ref "),
        "{err}"
    );
    let failing = lab_with(Mode::AllActions, "");
    failing.endpoint.fault(Action::DescribeInstances, Fault::Error("InternalError".to_owned()), Times::Next(100));
    let failed = run(&failing, "alice", "ls --json");
    assert_eq!((failed.status.code(), &json(&failed)["code"]), (Some(4), &"api-unavailable".into()));
}

#[test]
fn whoami_tells_key_groups_restrictions_and_grants() {
    let lab = lab();
    let key = fs::read_to_string(lab.path("operator.pub")).unwrap();
    crate::lab::private(&lab.path("operators/bob"), format!("restrict,port-forwarding {key}").as_bytes());
    let told = json(&run(&lab, "bob", "whoami --json"));
    assert_eq!((&told["operator"], &told["administrator"]), (&"bob".into(), &false.into()));
    assert!(told["key"].as_str().unwrap().starts_with("SHA256:") && told["source"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(told["groups"], serde_json::json!(["oncall"]));
    assert_eq!(told["restrictions"], serde_json::json!(["no-pty", "no-agent-forwarding", "no-x11-forwarding"]));
    assert_eq!(told["grants"], serde_json::json!([{"targets": ["fleet-lab-*/ins-b*"], "allow": ["shell", "agent"]}]));
    let (exit, out, _) = parts(&run(&lab, "bob", "whoami"));
    assert!(exit == 0 && out.contains("restrictions   no-pty no-agent-forwarding no-x11-forwarding\n"), "{out}");
    // The key gets no terminal: a client that insists on one leaves.
    let (exit, _, err) = parts(&lab.run(&["-tt", "-l", "bob", "broker", "whoami"]));
    assert!(exit == 255 && err.contains("PTY allocation request failed"), "{err}");
}

/// The text without what differs in every answer.
fn without_reference(out: &Output) -> (i32, String, String) {
    let (exit, out, err) = parts(out);
    let mask = |text: String| match text.split_once("ref ") {
        Some((before, after)) => format!("{before}ref {}", after.get(6..).unwrap_or_default()),
        None => text,
    };
    (exit, mask(out), mask(err))
}

#[test]
fn why_tells_the_steps_and_an_unknown_instance_from_a_forbidden_one_to_administrators_alone() {
    let lab = lab();
    let (exit, out, _) = parts(&run(&lab, "alice", "why ins-a"));
    assert_eq!(exit, 0);
    for expected in ["1 of yours could match: ins-a*", FLEET, "yes: shell exec sftp"] {
        assert!(out.contains(expected), "{expected} in {out}");
    }
    assert_eq!(json(&run(&lab, "alice", "why ins-a.prod --json"))["allow"], serde_json::json!(["shell", "exec", "sftp"]));
    // bob's grant is for other fleets than the one that ins-b2 is in, and ins-b9 is nowhere.
    let told = |words: &str, instance: &str| {
        let (exit, out, err) = without_reference(&run(&lab, "bob", words));
        (exit, out.replace(instance, "INSTANCE"), err)
    };
    for command in ["why", "doctor"] {
        let forbidden = told(&format!("{command} ins-b2"), "ins-b2");
        assert_eq!(forbidden, told(&format!("{command} ins-b9"), "ins-b9"));
        assert!(
            forbidden.0 == 1 && forbidden.1.contains("no such instance, or not yours to reach [target-refused, ref ]"),
            "{forbidden:?}"
        );
    }
    let calls = lab.endpoint.calls(Action::DescribeInstances);
    assert!(told("why ins-a", "ins-a").1.contains("none of yours is for such a name"));
    assert_eq!(lab.endpoint.calls(Action::DescribeInstances), calls, "policy denies the name in every fleet");
    // Nothing was leased for any of it.
    assert_eq!(lab.endpoint.calls(Action::GetInstanceAccess), 0);

    let lab = lab_with(Mode::AllActions, "administrators = [\"@oncall\"]");
    assert!(text(&run(&lab, "bob", "why ins-b2").stdout).contains("it is in fleet-other"));
    assert!(text(&run(&lab, "bob", "why ins-b9").stdout).contains("no fleet has it"));
}

#[test]
fn doctor_goes_the_whole_way_without_a_session_and_names_where_it_ends() {
    let mut lab = lab();
    let told = json(&run(&lab, "alice", "doctor ins-a --json"));
    let phases: Vec<&str> = told["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["resolve", "quota", "api", "connect", "kex", "host key", "auth"]);
    assert!(told["phases"].as_array().unwrap().iter().all(|phase| phase["ok"] == true && phase["ms"].is_number()), "{told}");
    assert_eq!((&told["ok"], &told["fleet"]), (&true.into(), &FLEET.into()));
    lab.await_event(|event| event["event"] == "command.run");
    let events: Vec<String> = lab.audit().iter().map(|event| event["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(events, ["operator.authenticated", "doctor.started", "lease.fetched", "host_key.pinned", "command.run"]);
    let (exit, out, _) = parts(&run(&lab, "alice", "doctor ins-a"));
    assert!(exit == 0 && out.contains("remembered") && out.ends_with("ins-a: a session would open\n"), "{out}");

    lab.rebuild(0, &Sshd::new("ins-a", "127.0.0.1"));
    let (exit, out, _) = parts(&run(&lab, "alice", "doctor ins-a"));
    assert!(exit == 1 && out.contains("host key  failed") && out.contains("[instance-hostkey, ref "), "{out}");
    let (exit, out, _) = parts(&run(&lab, "alice", "forget-host ins-a"));
    assert!(exit == 0 && out.starts_with("forgotten: SHA256:"), "{out}");
    lab.await_event(|event| event["event"] == "host_key.forgotten" && event["target"] == "ins-a");
    assert_eq!(parts(&run(&lab, "alice", "forget-host ins-a")).0, 1);
    assert!(text(&run(&lab, "alice", "doctor ins-a").stdout).contains("is pinned now"));
    assert!(lab.run(&["ins-a", "true"]).status.success());

    lab.sshds.clear();
    let failed = run(&lab, "alice", "doctor ins-a --json");
    let told = json(&failed);
    assert_eq!((failed.status.code(), &told["code"]), (Some(1), &"instance-unreachable".into()));
    assert_eq!(told["phases"].as_array().unwrap().last().unwrap()["phase"], "connect");
    assert!(!told.to_string().contains("127.0.0.1"), "{told}");
}

#[test]
fn ssh_config_is_what_client_config_prints() {
    let lab = lab();
    let (exit, out, _) = parts(&run(&lab, "alice", &format!("ssh-config 127.0.0.1 {}", lab.address.port())));
    assert_eq!(exit, 0);
    let binary = env!("CARGO_BIN_EXE_ssh-broker");
    let printed = lab.program(20, binary).args(["client-config", "--host", "127.0.0.1", "--config"]).arg(lab.path("broker.toml")).output();
    assert_eq!(out, succeeded(&printed.unwrap()));
    let guessed = text(&run(&lab, "alice", "ssh-config").stdout);
    assert!(guessed.ends_with(&out) && guessed.starts_with("# HostName is the address"), "{guessed}");
    // What it says works.
    let pasted = json(&run(&lab, "alice", "ssh-config --json"));
    fs::write(lab.path("pasted"), pasted["ssh_config"].as_str().unwrap()).unwrap();
    fs::write(lab.path("pasted_hosts"), pasted["known_hosts"].as_str().unwrap()).unwrap();
    let mut config = fs::read_to_string(lab.path("pasted")).unwrap();
    let dir = lab.path("").display().to_string();
    config.push_str(&format!(
        "Host *\n  User alice\n  BatchMode yes\n  IdentityFile {dir}/operator\n  UserKnownHostsFile {dir}/pasted_hosts\n  GlobalKnownHostsFile /dev/null\n"
    ));
    fs::write(lab.path("pasted"), config).unwrap();
    let out = lab.program(30, "ssh").arg("-F").arg(lab.path("pasted")).args(["ins-a", "echo in"]).output().unwrap();
    assert_eq!(text(&out.stdout), "in\n", "{}", text(&out.stderr));
}

#[test]
fn administrators_see_and_end_sessions_and_others_do_not() {
    let lab = lab();
    for words in ["sessions", "kill 123456", "reload", "forget-host ins-b1"] {
        let (exit, out, err) = parts(&run(&lab, "bob", words));
        assert_eq!((exit, out.as_str()), (3, ""), "{words}");
        assert!(err.contains("is for this broker's administrators"), "{err}");
    }
    assert_eq!(parts(&run(&lab, "alice", "sessions")), (0, "no session runs\n".to_owned(), String::new()));
    let session = lab.ssh(&["ins-a", "echo started; sleep 60"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let opened = lab.await_event(|event| event["event"] == "channel.opened");
    let sessions = json(&run(&lab, "alice", "sessions --json"));
    let told = &sessions["sessions"][0];
    assert_eq!(
        (&told["ref"], &told["operator"], &told["target"], &told["login"]),
        (&opened["ref"], &"alice".into(), &"ins-a".into(), &"root".into())
    );
    let reference = told["ref"].as_str().unwrap();
    let listed = text(&run(&lab, "alice", "sessions").stdout);
    assert!(listed.lines().nth(1).unwrap().starts_with(reference), "{listed}");
    let (exit, out, _) = parts(&run(&lab, "alice", &format!("kill {reference}")));
    assert_eq!((exit, out.as_str()), (0, "ended: alice on ins-a\n"));
    let ended = session.wait_with_output().unwrap();
    assert!(!ended.status.success());
    assert!(text(&ended.stderr).contains("the administrator alice has ended this session [session-ended, ref "), "{}", text(&ended.stderr));
    lab.await_event(|event| event["event"] == "session.closed");
    assert_eq!(parts(&run(&lab, "alice", &format!("kill {reference}"))).0, 1);
    // The same words from one who may: each is in the audit with who said it and how it ended.
    let ran = lab.await_event(|event| event["event"] == "command.run" && event["words"] == format!("kill {reference}"));
    assert_eq!((&ran["operator"], &ran["exit_status"]), (&"alice".into(), &0.into()));
    lab.await_event(|event| {
        event["event"] == "command.run" && event["words"] == "sessions" && event["operator"] == "bob" && event["exit_status"] == 3
    });
}

#[test]
fn other_words_get_help_and_wrong_arguments_a_sentence() {
    let lab = lab();
    let (exit, out, err) = parts(&run(&lab, "bob", "lss"));
    assert_eq!((exit, out.as_str()), (2, ""));
    assert!(err.contains("did you mean ls?") && err.contains("ssh broker COMMAND [--json]") && !err.contains("sessions"), "{err}");
    let (exit, _, err) = parts(&run(&lab, "bob", "why"));
    assert_eq!((exit, err.as_str()), (2, "ssh-broker: usage: why INSTANCE [--json]\n"));
    let (exit, out, err) = parts(&run(&lab, "bob", "why 10.0.0.1 --json"));
    assert!(exit == 2 && err.is_empty() && out.contains("not a target name"), "{out}{err}");
    let long = "x".repeat(10_000);
    assert!(text(&run(&lab, "bob", &long).stderr).contains("the command is too long: 4096 bytes at the most"));
    // Copying to the broker itself, as scp and sftp and rsync do it, fails like any other word.
    fs::write(lab.path("file"), b"x").unwrap();
    for arguments in [["-O", "file", "broker:/tmp/x"], ["-s", "file", "broker:/tmp/x"]] {
        let out = lab.program(20, "scp").arg("-F").arg(lab.path("ssh_config")).args(arguments).current_dir(lab.path("")).output().unwrap();
        assert!(!out.status.success());
    }
    let (exit, _, err) = parts(&run(&lab, "bob", "\x1b]0;x\x07 \u{202e}"));
    assert!(exit == 2 && err.chars().all(|c| c == '\n' || !c.is_control()), "{err:?}");
    let ran = lab.await_event(|event| event["event"] == "command.run" && event["words"].as_str().is_some_and(|words| words.len() > 4000));
    assert_eq!(ran["exit_status"], 2);
}

#[test]
fn commands_run_over_one_shared_connection_beside_sessions() {
    let lab = lab();
    let control = format!("ControlPath={}", lab.path("mux").display());
    let mut master = lab.ssh(&["-M", "-N", "-o", &control, "broker"]).stderr(Stdio::null()).spawn().unwrap();
    let ready = || lab.run(&["-o", &control, "-O", "check", "broker"]).status.success();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !ready() {
        assert!(std::time::Instant::now() < deadline, "no control connection");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let many: Vec<_> = (0..10)
        .map(|_| lab.ssh(&["-o", &control, "broker", "whoami", "--json"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
        .collect();
    for one in many {
        assert_eq!(json(&one.wait_with_output().unwrap())["operator"], "alice");
    }
    for round in 0..15 {
        let (exit, out, _) = parts(&lab.run(&["-o", &control, "-tt", "broker", "why ins-a"]));
        assert!(exit == 0 && out.contains("\r\n"), "{round}: {out}");
    }
    let proxy = format!("ProxyCommand=ssh -F {} -o {control} -W %h:%p broker", lab.path("ssh_config").display());
    let out = lab.run(&["-o", "ProxyJump=none", "-o", &proxy, "ins-a", "echo in"]);
    assert_eq!(text(&out.stdout), "in\n", "{}", text(&out.stderr));
    assert_eq!(lab.audit().iter().filter(|event| event["event"] == "operator.authenticated").count(), 1);
    crate::lab::terminate(&mut master);
}

#[test]
fn plink_runs_commands_too() {
    let [plink, puttygen] = ["plink", "puttygen"].map(installed);
    let lab = lab();
    let key = lab.path("operator.ppk").display().to_string();
    succeeded(&lab.program(20, &puttygen).arg(lab.path("operator")).args(["-O", "private", "-o", &key]).output().unwrap());
    let door = crate::lab::fingerprint(&lab.path("state/host_ed25519.pub"));
    let run = |pty: &str, words: &[&str]| {
        let mut command = lab.program(30, &plink);
        command.args(["-batch", "-noagent", "-hostkey", &door, "-i", &key, "-P", &lab.address.port().to_string(), pty, "alice@127.0.0.1"]);
        command.args(words).output().unwrap()
    };
    assert_eq!(json(&run("-T", &["whoami", "--json"]))["operator"], "alice");
    let (exit, out, _) = parts(&run("-t", &["ls"]));
    assert!(exit == 0 && out.contains("ins-a2"), "{out}");
    let (exit, out, _) = parts(&run("-T", &[]));
    assert!(exit == 0 && out.contains("Hello alice."), "{out}");
    assert_eq!(parts(&run("-T", &["nonsense"])).0, 2);
}

#[test]
fn a_client_that_takes_nothing_holds_up_nobody() {
    let lab = lab();
    for i in 0..600 {
        add(&lab, FLEET, &format!("ins-a-many-{i:04}-with-a-long-name-so-that-it-fills-a-pipe"), "Active");
    }
    let mut stuck = lab.ssh(&["-T", "broker", "ls", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert!(lab.run(&["ins-a", "true"]).status.success());
    assert_eq!(parts(&run(&lab, "alice", "whoami")).0, 0);
    let mut out = String::new();
    stuck.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    assert!(stuck.wait().unwrap().success());
    let listed: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(listed["instances"].as_array().unwrap().len(), 602);
}

#[test]
fn an_operator_has_so_many_commands_at_once_and_no_more() {
    let lab = lab();
    // Each waits for an answer until its deadline; the seventeenth does not.
    lab.endpoint.fault(Action::DescribeInstances, Fault::Hang, Times::Next(1000));
    let start = || lab.ssh(&["-T", "broker", "why ins-a"]).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut waiting: Vec<_> = (0..17).map(|_| start()).collect();
    let refused = lab.await_event(|event| event["event"] == "command.run");
    assert_eq!((&refused["words"], &refused["exit_status"]), (&"why ins-a".into(), &4.into()));
    let (exit, _, err) = parts(&run(&lab, "alice", "whoami"));
    assert!(exit == 4 && err.contains("16 commands running already") && err.contains("[broker-busy]"), "{err}");
    assert_eq!(parts(&run(&lab, "bob", "whoami")).0, 0);
    waiting.iter_mut().for_each(crate::lab::terminate);
}
