//! A session that shows whether it lives.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::lab::{Lab, terminate};

/// A session that gives back each line.
pub struct Echo(Child, BufReader<ChildStdout>);

impl Echo {
    /// By an `ssh` that runs `cat`.
    pub fn start(mut ssh: Command) -> Self {
        let mut child = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let mut echo = Self(child, out);
        echo.assert_alive();
        echo
    }

    /// For longer than other programs of the lab's may run.
    pub fn long(lab: &Lab) -> Self {
        let mut ssh = lab.program(170, "ssh");
        ssh.arg("-F").arg(lab.path("ssh_config")).args(["ins-a", "cat"]).stderr(Stdio::null());
        Self::start(ssh)
    }

    pub fn assert_alive(&mut self) {
        let mut line = String::new();
        self.0.stdin.as_mut().unwrap().write_all(b"alive\n").unwrap();
        self.1.read_line(&mut line).unwrap();
        assert_eq!(line, "alive\n");
    }

    pub fn ends_well(mut self) {
        self.assert_alive();
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        // Its number may be another process's once it has been waited for.
        if matches!(self.0.try_wait(), Ok(None)) {
            terminate(&mut self.0);
        }
    }
}
