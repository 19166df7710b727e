//! Each case runs twice, straight to the instance and through the broker, and what the operator's side can see must be the same:
//! bytes, their order, exit codes, errors. What a case is about is asserted for the direct run, so that two equal failures do not pass.

mod agent;
mod commands;
mod display;
mod forwards;
mod load;
mod oldest;
mod raw;
mod sharing;
mod streams;
mod terminal;
mod timing;

use std::fmt;
use std::process::{Command, Output, Stdio};

use crate::lab::{Lab, exchange, text};

/// The names of one instance in the lab's `ssh_config`: as its own host, and as a target of the broker's.
pub const WAYS: [&str; 2] = ["direct", "ins-a"];

/// What the operator's side sees of a run.
#[derive(PartialEq, Eq, Clone)]
pub struct Outcome {
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Outcome {
    /// Of a program that ran; the name of the way it took is written as TARGET.
    pub fn of(out: &Output) -> Self {
        let named = ["ins-a", "127.0.0.1", "direct"].iter().fold(text(&out.stderr), |text, name| text.replace(name, "TARGET"));
        Self { code: out.status.code(), stdout: out.stdout.clone(), stderr: named }
    }

    /// Of a case that tells what it saw in words.
    pub fn told(words: impl Into<String>) -> Self {
        Self { code: Some(0), stdout: words.into().into_bytes(), stderr: String::new() }
    }

    pub fn shown(&self) -> String {
        text(&self.stdout)
    }
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = |bytes: &[u8]| text(bytes.get(..2000).unwrap_or(bytes));
        let (code, len) = (self.code, self.stdout.len());
        write!(f, "code {code:?}\nstdout ({len} bytes): {}\nstderr: {}", head(&self.stdout), head(self.stderr.as_bytes()))
    }
}

/// Runs a case both ways; gives the one outcome of both.
#[track_caller]
pub fn same(name: &str, run: impl Fn(&str) -> Outcome) -> Outcome {
    let [direct, broker] = WAYS.map(run);
    assert!(direct == broker, "{name}\n--- direct: {direct:?}\n--- through the broker: {broker:?}");
    direct
}

/// A command, with what is given to it and how it must end.
pub struct Case {
    pub name: &'static str,
    pub options: &'static [&'static str],
    pub command: &'static str,
    pub stdin: Vec<u8>,
    pub code: i32,
}

impl Case {
    pub const fn new(name: &'static str, command: &'static str) -> Self {
        Self { name, options: &[], command, stdin: Vec::new(), code: 0 }
    }

    pub const fn options(mut self, options: &'static [&'static str]) -> Self {
        self.options = options;
        self
    }

    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    pub const fn code(mut self, code: i32) -> Self {
        self.code = code;
        self
    }

    #[track_caller]
    pub fn check(&self, lab: &Lab) -> Outcome {
        let outcome = same(self.name, |way| {
            let arguments = [self.options, &[way, self.command]].concat();
            Outcome::of(&exchange(&mut lab.ssh(&arguments), &self.stdin))
        });
        assert_eq!(outcome.code, Some(self.code), "{}: {outcome:?}", self.name);
        outcome
    }
}

/// A master connection of one way, ended with its owner.
pub struct Master<'a> {
    lab: &'a Lab,
    way: &'a str,
    path: String,
}

impl<'a> Master<'a> {
    pub fn start(lab: &'a Lab, way: &'a str, options: &[&str]) -> Self {
        let path = lab.path(&format!("{way}.master")).display().to_string();
        let control = format!("ControlPath={path}");
        // It goes to the background once it is authenticated, and holds no pipe of ours.
        let mut ssh = lab.program(150, "ssh");
        ssh.arg("-F").arg(lab.path("ssh_config")).args(["-f", "-N", "-o", "ControlMaster=yes", "-o", &control]).args(options).arg(way);
        let status = ssh.stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success(), "{way}: {status}: {}", lab.log());
        Self { lab, way, path }
    }

    pub fn ssh(&self, options: &[&str], command: &str) -> Command {
        let control = format!("ControlPath={}", self.path);
        self.lab.ssh(&[&["-o", &control], options, &[self.way, command]].concat())
    }
}

impl Drop for Master<'_> {
    fn drop(&mut self) {
        let control = format!("ControlPath={}", self.path);
        let _ = self.lab.run(&["-O", "exit", "-o", &control, self.way]);
    }
}
