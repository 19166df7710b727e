//! Two targets on one connection to the broker: what stands still on one leaves the other alone.

use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::lab::{Lab, Plan, Sshd, terminate, text};

/// A lab of two instances, and one connection to the broker for all that goes to them.
struct Shared {
    lab: Lab,
    master: Child,
}

impl Shared {
    fn start() -> Self {
        let instances = vec![Sshd::new("ins-a", "127.0.0.1"), Sshd::new("ins-b", "127.0.0.2")];
        let lab = Lab::with(Plan { instances, ..Default::default() });
        let socket = lab.path("outer");
        let master = lab.ssh(&["-M", "-N", "-o", &format!("ControlPath={}", socket.display()), "broker"]).spawn().unwrap();
        await_path(&socket);
        Self { lab, master }
    }

    /// `ssh -J broker ARGS`, by the shared connection.
    fn ssh(&self, arguments: &[&str]) -> Command {
        let (config, socket) = (self.lab.path("ssh_config"), self.lab.path("outer"));
        let proxy = format!("ProxyCommand=ssh -F {} -o ControlPath={} -W %h:%p broker", config.display(), socket.display());
        let mut all = vec!["-o", &proxy];
        all.extend(arguments);
        self.lab.ssh(&all)
    }

    /// That the other instance answers, again and again.
    fn assert_alive(&self, target: &str) {
        for _ in 0..3 {
            let started = Instant::now();
            let out = self.ssh(&[target, "echo alive"]).output().unwrap();
            assert_eq!(text(&out.stdout), "alive\n", "{}", text(&out.stderr));
            assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        terminate(&mut self.master);
    }
}

fn await_path(path: &std::path::Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !path.exists() {
        assert!(Instant::now() < deadline, "{} did not appear", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Writes zeros until nobody takes them any more.
fn feed(child: &mut Child) {
    let mut stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || {
        let block = vec![0; 1 << 16];
        while stdin.write_all(&block).is_ok() {}
    });
}

/// The processes of an instance's sshd that serve its sessions (not what those run), stopped until this is dropped.
struct Frozen(Vec<Pid>);

impl Frozen {
    fn stop(listener: u32) -> Self {
        let frozen = Self(descendants(listener).into_iter().filter_map(|pid| Pid::from_raw(pid as i32)).collect());
        frozen.signal(Signal::STOP);
        frozen
    }

    fn signal(&self, signal: Signal) {
        for pid in &self.0 {
            let _ = kill_process(*pid, signal);
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.signal(Signal::CONT);
    }
}

fn descendants(pid: u32) -> Vec<u32> {
    let is_sshd = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.starts_with("sshd"));
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok()).filter(is_sshd);
    children.flat_map(|child| [vec![child], descendants(child)].concat()).collect()
}

#[test]
fn a_reader_that_sleeps_on_one_target_leaves_the_other_alone() {
    let shared = Shared::start();
    let mut stalled = shared.ssh(&["ins-a", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    feed(&mut stalled);
    std::thread::sleep(Duration::from_secs(2));
    shared.assert_alive("ins-b");
    terminate(&mut stalled);
}

/// An instance that stands still with more in flight than all buffers on the way hold.
#[test]
fn an_instance_that_takes_nothing_leaves_the_other_target_alone_and_memory_flat() {
    let shared = Shared::start();
    let socket = shared.lab.path("inner");
    let inner = format!("ControlPath={}", socket.display());
    let mut master = shared.ssh(&["-M", "-N", "-o", &inner, "ins-a"]).spawn().unwrap();
    await_path(&socket);
    let mut uploads: Vec<Child> = (0..24)
        .map(|_| shared.lab.ssh(&["-o", &inner, "ins-a", "cat > /dev/null"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap())
        .collect();
    shared.assert_alive("ins-b");
    let before = shared.lab.broker().rss();
    let frozen = Frozen::stop(shared.lab.sshds[0].id());
    uploads.iter_mut().for_each(feed);
    std::thread::sleep(Duration::from_secs(3));
    shared.assert_alive("ins-b");
    let grown = shared.lab.broker().rss().saturating_sub(before);
    assert!(grown < 12 * 1024, "{grown} KiB more than before");
    assert!(!frozen.0.is_empty());
    drop(frozen);
    // And all goes on.
    shared.assert_alive("ins-a");
    uploads.iter_mut().for_each(terminate);
    terminate(&mut master);
}
