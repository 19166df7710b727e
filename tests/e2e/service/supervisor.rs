//! What systemd is to the broker: a socket that is told how it is, and which process it is.

use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::lab::{Lab, Plan};

/// Long enough for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Supervisor {
    dir: TempDir,
    socket: UnixDatagram,
    main: Option<u32>,
    /// Every process that was the main one.
    pids: Vec<u32>,
}

impl Supervisor {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        Self { dir, socket, main: None, pids: Vec::new() }
    }

    /// A lab whose broker tells this supervisor; it is ready.
    pub fn lab(&mut self, mut plan: Plan) -> Lab {
        plan.environment.push(("NOTIFY_SOCKET", self.dir.path().join("notify").display().to_string()));
        let lab = Lab::with(plan);
        self.become_main(lab.broker().id());
        self.hear("READY=1");
        lab
    }

    pub fn become_main(&mut self, pid: u32) {
        self.main = Some(pid);
        self.pids.push(pid);
    }

    pub fn main(&self) -> u32 {
        self.main.unwrap()
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.main() as i32).unwrap(), signal).unwrap();
    }

    /// Listens until something is said that contains this, and returns it.
    pub fn hear(&mut self, wanted: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            self.socket.set_read_timeout(Some(left)).unwrap();
            let mut said = [0; 4096];
            let len = self.socket.recv(&mut said).unwrap_or_else(|error| panic!("{wanted} was not said: {error}"));
            let said = String::from_utf8(said[..len].to_vec()).unwrap();
            if let Some(pid) = said.lines().find_map(|line| line.strip_prefix("MAINPID=")) {
                self.become_main(pid.parse().unwrap());
            }
            if said.contains(wanted) {
                return said;
            }
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        for pid in &self.pids {
            // Only what is still a broker: a number may be another process's by now.
            let is_ours = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("ssh-broker"));
            if is_ours && let Some(pid) = Pid::from_raw(*pid as i32) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
    }
}
