//! A person at a terminal: keys, sizes, escapes.

use super::raw::another_instance;
use super::{Outcome, same};
use crate::lab::{Lab, text};

/// A scene of terminal.py, played with `ssh` and these arguments in front of the way.
#[track_caller]
fn scene(lab: &Lab, scene: &str, ssh: &str, options: &[&str], command: &[&str]) -> Outcome {
    let outcome = same(scene, |way| {
        let mut python = lab.program(60, "python3");
        python.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/conformance/terminal.py")).args([scene, ssh]);
        python.arg("-F").arg(lab.path("ssh_config")).args(options).arg(way).args(command).env("TERM", "xterm");
        let out = python.output().unwrap();
        let shown = ["ins-a", "127.0.0.1", "direct"].iter().fold(text(&out.stdout), |text, name| text.replace(name, "TARGET"));
        Outcome { stdout: shown.into_bytes(), ..Outcome::of(&out) }
    });
    assert!(outcome.code == Some(0) && outcome.shown().ends_with("steps left 0\n"), "{outcome:?}");
    outcome
}

const SIZES: &str = "trap 'echo INT' INT; stty -echo size; echo ready; old='24 80'; while ! read -t 0.1 part; do line=$line$part; \
                     new=$(stty size); test \"$new\" = \"$old\" || echo $new; old=$new; done; eval \"$line$part\"";
const KEYS: &str = "stty -echo; trap 'echo INT' INT; trap 'echo QUIT' QUIT; trap 'echo TSTP' TSTP; echo ready; \
                    while IFS= read -r line || [ $? -gt 128 ]; do test -z \"$line\" || echo \"<$line>\"; line=; done; echo ended";
const ECHO: &str = "echo ready; read -r line; read -r line2; echo \"<$line$line2>\"";

/// One argument of the instance's shell.
fn bash(script: &str) -> String {
    format!("exec bash -c '{}'", script.replace('\'', r"'\''"))
}

#[test]
fn sizes_and_keys_arrive() {
    let lab = Lab::start();
    sizes_and_keys(&lab);
    scene(&lab, "suspicious", "ssh", &["-t"], &[&bash(ECHO)]);
    let closed = scene(&lab, "escape", "ssh", &["-t"], &[&bash(ECHO)]);
    assert!(closed.shown().contains("status 255"), "{closed:?}");
    let mut lab = lab;
    another_instance(&mut lab);
    let broken = scene(&lab, "break", "ssh", &["-t"], &["events"]);
    assert!(broken.shown().contains("break 1000"), "{broken:?}");
}

pub fn sizes_and_keys(lab: &Lab) {
    scene(lab, "sizes", "ssh", &["-t"], &[&bash(SIZES)]);
    scene(lab, "keys", "ssh", &["-t"], &[&bash(KEYS)]);
}

#[test]
fn a_shell_is_a_shell() {
    shell(Lab::start());
}

pub fn shell(lab: Lab) {
    let shell = scene(&lab, "shell", "ssh", &["-t"], &["exec env -i PS1='# ' TERM=dumb bash --norc --noprofile -i"]);
    assert!(shell.shown().contains("24 80") && shell.shown().contains("status 7"), "{shell:?}");
}
