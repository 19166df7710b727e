//! Commands: output, errors, status, signals, ends.

use super::{Case, Master, Outcome, same};
use crate::lab::{Lab, pattern};

#[test]
fn commands_end_alike() {
    commands_end(Lab::start());
}

pub fn commands_end(lab: Lab) {
    let all: Vec<u8> = (0..=255).collect();
    let cases = [
        Case::new("output, errors and a status", "echo out; echo err >&2; exit 3").code(3),
        Case::new("no output at all", "true"),
        Case::new("a command that is not there", "/nonexistent").code(127),
        Case::new("a terminal", "test -t 0 && stty -a && echo $TERM && echo err >&2; exit 4").options(&["-tt"]).code(4),
        Case::new("a terminal whose command dies", "kill -9 $$").options(&["-tt"]).code(255),
        Case::new("a shell without a terminal", "").options(&["-T"]).stdin("echo in\nexit 9\n").code(9),
        Case::new("no input", "wc -c").options(&["-n"]),
        Case::new("input with its end, output behind it", "wc -c; sleep 0.2; echo late; echo later >&2; exit 5")
            .stdin(pattern(100_000))
            .code(5),
        Case::new("output ends first, input goes on", "exec >&-; wc -c >&2; exit 6").stdin(pattern(100_000)).code(6),
        Case::new("the status comes before the last output", "(sleep 0.4; echo late) & exit 7").code(7),
        Case::new("the end of output with errors pending", "exec >&-; head -c 3000000 /dev/zero | tr '\\0' 'e' >&2; exit 8").code(8),
        Case::new("the end of errors with output pending", "exec 2>&-; head -c 3000000 /dev/zero; exit 8").code(8),
        Case::new("both at once", "for i in $(seq 3000); do echo $i; echo e$i >&2; done"),
        Case::new("every byte", "cat").stdin(all.clone()),
        Case::new("every byte on the errors", "cat >&2; exit 1").stdin((0..128).collect::<Vec<u8>>()).code(1),
        Case::new("64 KiB right behind the request", "cat").stdin(pattern(64 << 10)),
        Case::new("more than all windows", "cat").stdin(pattern(6 << 20)),
        Case::new("a long command", LONG),
        Case::new("a subsystem that is not there", "nothing").options(&["-s"]).code(255),
    ];
    for case in &cases {
        case.check(&lab);
    }
}

/// More than one read of most buffers.
const LONG: &str = concat!("sha256sum <<'LONG_END'\n", include_str!("mod.rs"), "\nLONG_END\n");

/// All 256 are asked for in raw.rs, on one connection; these are OpenSSH's own exit codes.
#[test]
fn exit_statuses_become_the_clients() {
    exit_statuses(Lab::start());
}

pub fn exit_statuses(lab: Lab) {
    let codes = same("exit statuses", |way| {
        let master = Master::start(&lab, way, &[]);
        let run = |status: i32| master.ssh(&[], &format!("exit {status}")).status().unwrap().code();
        Outcome::told(format!("{:?}", [1, 2, 126, 127, 128, 130, 254, 255].map(run)))
    });
    assert_eq!(codes.shown(), format!("{:?}", [1, 2, 126, 127, 128, 130, 254, 255].map(Some)));
}

#[test]
fn signals_end_commands_alike() {
    signals(Lab::start());
}

pub fn signals(lab: Lab) {
    for signal in ["HUP", "INT", "ABRT", "KILL", "USR1", "SEGV", "PIPE", "TERM"] {
        let outcome = same(signal, |way| Outcome::of(&lab.run(&[way, &format!("echo out; ulimit -c 0; kill -{signal} $$; sleep 5")])));
        assert_eq!((outcome.code, outcome.shown().as_str()), (Some(255), "out\n"), "{signal}: {outcome:?}");
    }
}

#[test]
fn the_environment_passes_or_not_alike() {
    let lab = Lab::start();
    let long = "x".repeat(20_000);
    let values = [("LAB_EMPTY", ""), ("LAB_LINES", "a\nb\n"), ("LAB_WORDS", "ä ö\t'\"$x"), ("LAB_LONG", &long), ("OTHER", "refused")];
    let outcome = same("environment", |way| {
        let mut ssh =
            lab.ssh(&["-o", "SendEnv=LAB_* OTHER", "-o", "SetEnv=LAB_SET=set", way, "env -0 | grep -zE '^(LAB_|OTHER)' | sort -z"]);
        // What `tests/run` sets has names like these.
        for name in ["LAB_VENV", "LAB_OPENSSH", "LAB_OLD_OPENSSH", "LAB_SERVERS"] {
            ssh.env_remove(name);
        }
        Outcome::of(&ssh.envs(values).output().unwrap())
    });
    let shown = outcome.shown();
    let mut names: Vec<_> = shown.split('\0').map(|line| line.split('=').next().unwrap()).collect();
    names.pop();
    assert_eq!(names, ["LAB_EMPTY", "LAB_LINES", "LAB_LONG", "LAB_SET", "LAB_WORDS"], "{outcome:?}");
}

#[test]
fn broken_pipes_break_alike() {
    broken_pipes(Lab::start());
}

pub fn broken_pipes(lab: Lab) {
    let config = lab.path("ssh_config").display().to_string();
    for (name, pipeline, ends) in [
        ("the reader of the output goes", "S 'cat /dev/zero; echo $? >&2' | head -c 1 | wc -c; echo ${PIPESTATUS[0]}", true),
        ("the reader of the input goes", "yes | S 'head -c 1'; echo ${PIPESTATUS[1]}", true),
        ("a command that reads no input", "head -c 20000000 /dev/zero | S 'exec <&-; echo in; exit 3'; echo ${PIPESTATUS[1]}", true),
        ("neither reads", "S 'exec <&-; yes' </dev/zero | head -c 1; echo ${PIPESTATUS[0]}", true),
    ] {
        let outcome = same(name, |way| {
            let script = format!("S() {{ ssh -F {config} {way} \"$@\"; }}; {pipeline}");
            Outcome::of(&lab.program(30, "bash").arg("-c").arg(script).output().unwrap())
        });
        assert_eq!(outcome.code == Some(0), ends, "{name}: {outcome:?}");
    }
}
