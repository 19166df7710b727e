//! The same cases with the oldest OpenSSH that runs here (7.5) at either end, or at both.

use super::{Outcome, agent, commands, display, forwards, same, sharing, streams, terminal};
use crate::lab::{Lab, Plan, Sshd, exchange, oldest_openssh, pattern, succeeded, text};

fn client() -> Plan {
    Plan { client: Some(oldest_openssh()), ..Plan::default() }
}

fn instance(options: &[&str]) -> Plan {
    let sshd = Sshd::new("ins-a", "127.0.0.1").run_by(oldest_openssh().join("sshd"));
    Plan { instances: vec![options.iter().fold(sshd, |sshd, line| sshd.option(line))], ..Plan::default() }
}

fn both() -> Lab {
    Lab::with(Plan { client: Some(oldest_openssh()), ..instance(&[]) })
}

#[test]
fn it_is_what_it_says() {
    let lab = both();
    let out = lab.run(&["-v", "direct", "true"]);
    let said = text(&out.stderr);
    assert!(said.starts_with("OpenSSH_7.5p1") && said.contains("remote software version OpenSSH_7.5p1"), "{said}");
    let out = lab.run(&["-v", "ins-a", "true"]);
    let said = text(&out.stderr);
    // Both connections, for it jumps with the ssh that is first in PATH.
    assert!(said.starts_with("OpenSSH_7.5p1") && said.matches("OpenSSH_7.5p1, ").count() == 2, "{said}");
}

#[test]
fn commands_end_alike_with_the_oldest_client() {
    commands::commands_end(Lab::with(client()));
}

#[test]
fn commands_end_alike_with_the_oldest_instance() {
    commands::commands_end(Lab::with(instance(&[])));
}

#[test]
fn commands_end_alike_with_the_oldest_at_both_ends() {
    commands::commands_end(both());
}

#[test]
fn statuses_signals_and_pipes() {
    commands::exit_statuses(both());
    commands::signals(both());
    commands::broken_pipes(both());
}

#[test]
fn bytes_of_every_value() {
    streams::first_packets(both());
    streams::every_value_on_a_terminal(both());
}

#[test]
fn terminals() {
    terminal::shell(both());
    terminal::sizes_and_keys(&both());
}

#[test]
fn two_hundred_channels() {
    sharing::two_hundred_channels(both());
}

#[test]
fn agent_and_display() {
    agent::an_agent(both());
    display::a_display(both());
}

#[test]
fn forwards_carry_and_are_refused() {
    forwards::local_forwards(both());
    forwards::remote_forwards(both());
    forwards::socks_forwards(both());
    forwards::standard_input_and_output(both());
    forwards::refused_forwards(both());
}

#[test]
fn new_keys_from_both_sides() {
    let limit = "RekeyLimit 512K";
    for plan in [client(), instance(&[limit]), Plan { client: Some(oldest_openssh()), ..instance(&[limit]) }] {
        let lab = Lab::with(plan);
        let given = pattern(8 << 20);
        for cipher in ["aes128-gcm@openssh.com", "aes256-ctr", "chacha20-poly1305@openssh.com"] {
            let outcome = exchange(&mut lab.ssh(&["-v", "-c", cipher, "-o", "RekeyLimit=512K", "ins-a", "cat; exit 3"]), &given);
            let said = text(&outcome.stderr);
            assert!(outcome.status.code() == Some(3) && outcome.stdout == given, "{cipher}: {said}");
            assert!(said.matches("SSH2_MSG_NEWKEYS received").count() > 8, "{cipher}: {said}");
        }
    }
}

/// `scp` of that time has one protocol, and it knows no option that names it.
#[test]
fn files_are_copied() {
    let lab = both();
    let (file, copy, back) = (lab.path("file"), lab.path("copy"), lab.path("back"));
    std::fs::write(&file, pattern(3 << 20)).unwrap();
    let scp = |from: &str, to: &str| {
        let mut scp = lab.program(60, "scp");
        succeeded(&scp.args(["-q", "-p", "-F"]).arg(lab.path("ssh_config")).args([from, to]).output().unwrap());
    };
    let remote = format!("ins-a:{}", copy.display());
    scp(&file.display().to_string(), &remote);
    scp(&remote, &back.display().to_string());
    assert!(std::fs::read(&back).unwrap() == pattern(3 << 20));
    // Today's, by both protocols, to and from the old instance.
    let lab = Lab::with(instance(&[]));
    for protocol in ["-s", "-O"] {
        let scp = |from: &str, to: &str| {
            let mut scp = lab.program(60, "scp");
            succeeded(&scp.args(["-q", protocol, "-F"]).arg(lab.path("ssh_config")).args([from, to]).output().unwrap());
        };
        let remote = format!("ins-a:{}", lab.path(protocol).display());
        scp(&file.display().to_string(), &remote);
        scp(&remote, &lab.path("back").display().to_string());
        assert!(std::fs::read(lab.path("back")).unwrap() == pattern(3 << 20), "{protocol}");
    }
}

/// What a client that knows no `ProxyJump` (before 7.3) or no `-W` (before 5.4) writes.
#[test]
fn ways_in_without_a_jump() {
    let lab = both();
    let config = lab.path("ssh_config").display().to_string();
    let through = |option: &str| {
        let out = lab.run(&["-o", option, "ins-a", "echo in; exit 7"]);
        assert_eq!((out.status.code(), text(&out.stdout)), (Some(7), "in\n".to_owned()), "{option}: {}", text(&out.stderr));
    };
    through(&format!("ProxyCommand=ssh -F {config} -W %h:%p broker"));
    // With what OpenSSH 6.5 has of the algorithms that the broker takes, on both connections.
    let of_2014 = ["KexAlgorithms=curve25519-sha256@libssh.org", "Ciphers=aes128-gcm@openssh.com", "HostKeyAlgorithms=ssh-ed25519"];
    let of_2014 = of_2014.map(|option| format!("-o {option}")).join(" ");
    let key = std::fs::read_to_string(lab.path("state/session_ed25519.pub")).unwrap();
    let known = std::fs::read_to_string(lab.path("known_hosts")).unwrap();
    std::fs::write(lab.path("known_plain"), format!("{known}ins-a {key}")).unwrap();
    let trust = format!("-o UserKnownHostsFile={}", lab.path("known_plain").display());
    let script = format!("ssh -F {config} {of_2014} {trust} -o 'ProxyCommand=ssh -F {config} {of_2014} -W %h:%p broker' ins-a 'exit 9'");
    let out = lab.program(30, "sh").args(["-c", &script]).output().unwrap();
    assert_eq!(out.status.code(), Some(9), "{}", text(&out.stderr));
    let out = same("a forwarded port", |way| match way {
        "direct" => Outcome::of(&lab.run(&[way, "echo in; exit 7"])),
        _ => forwards::through_a_forwarded_port(&lab, "ins-a", "echo in; exit 7"),
    });
    assert_eq!(out.code, Some(7));
}
