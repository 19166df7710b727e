use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use pty_process::{OwnedReadPty, OwnedWritePty, Size};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

/// The variable by which an instance knows its processes again, wherever they went.
pub(super) const MARK: &str = "SSH_BROKER_DEMO_MARK";

/// What a channel asked to run.
pub(super) enum Program<'a> {
    /// A login shell.
    Shell,
    /// A command line for the shell.
    Command(&'a [u8]),
    /// The SFTP server.
    Sftp,
}

/// The circumstances of a process.
#[derive(Default)]
pub(super) struct Surroundings {
    pub(super) environment: Vec<(String, String)>,
    /// The size of its terminal, if it has one.
    pub(super) terminal: Option<Size>,
}

/// A process of this machine, leader of its own process group.
///
/// **Invariant**: dropping it kills the group.
pub(super) struct Process {
    child: Child,
    group: Group,
}

/// The ends of a process's input and output.
pub(super) enum Streams {
    Pipes { stdin: ChildStdin, stdout: ChildStdout, stderr: ChildStderr },
    Terminal { keyboard: OwnedWritePty, screen: OwnedReadPty },
}

struct Group(Option<Pid>);

/// Where OpenSSH keeps its SFTP server, by distribution.
const SFTP_SERVERS: [&str; 4] =
    ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server", "/usr/lib/ssh/sftp-server", "/usr/libexec/sftp-server"];

/// A terminal's master is without close-on-exec for a moment, and would stay open in a process spawned in that moment.
static SPAWNING: Mutex<()> = Mutex::new(());

impl Process {
    /// How long a process may take to end after it was hung up.
    const HANG_UP: Duration = Duration::from_millis(500);

    /// Runs `program` as the current user, with an environment of its own (nothing of the broker's gets into it but the user's name,
    /// home, shell and PATH).
    ///
    /// # Errors
    /// When it cannot be started; for [`Program::Sftp`] also when this machine has no SFTP server.
    pub(super) fn spawn(program: Program<'_>, surroundings: &Surroundings) -> io::Result<(Self, Streams)> {
        use std::ffi::OsStr;
        use std::os::unix::ffi::OsStrExt;
        let shell = std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into());
        let mut command = match program {
            Program::Shell => {
                let mut command = Command::new(&shell);
                let name = std::path::Path::new(&shell).file_name().unwrap_or(&shell);
                let mut login_name = std::ffi::OsString::from("-");
                login_name.push(name);
                command.arg0(login_name);
                command
            }
            Program::Command(line) => {
                let mut command = Command::new(&shell);
                command.arg("-c").arg(OsStr::from_bytes(line));
                command
            }
            Program::Sftp => {
                let server = SFTP_SERVERS.iter().find(|path| std::path::Path::new(path).exists());
                Command::new(server.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "this machine has no sftp-server"))?)
            }
        };
        command.env_clear().kill_on_drop(true);
        for kept in ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "TMPDIR"] {
            if let Some(value) = std::env::var_os(kept) {
                command.env(kept, value);
            }
        }
        command.envs(surroundings.environment.iter().map(|(name, value)| (name, value)));
        if let Some(home) = std::env::var_os("HOME").filter(|home| std::path::Path::new(home).is_dir()) {
            command.current_dir(home);
        }
        let _one_at_a_time = SPAWNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match surroundings.terminal {
            Some(size) => Self::spawn_on_terminal(command, size),
            None => Self::spawn_on_pipes(command),
        }
    }

    fn spawn_on_pipes(mut command: Command) -> io::Result<(Self, Streams)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn()?;
        let (Some(stdin), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
            return Err(io::Error::other("the process has no pipes"));
        };
        Ok((Self::new(child), Streams::Pipes { stdin, stdout, stderr }))
    }

    /// The process is the leader of its own session (setsid), so of its own group as well.
    fn spawn_on_terminal(command: Command, size: Size) -> io::Result<(Self, Streams)> {
        let (terminal, inside) = pty_process::open().map_err(io::Error::other)?;
        terminal.resize(size).map_err(io::Error::other)?;
        let child = pty_process::Command::from(command).spawn(inside).map_err(io::Error::other)?;
        let (screen, keyboard) = terminal.into_split();
        Ok((Self::new(child), Streams::Terminal { keyboard, screen }))
    }

    fn new(child: Child) -> Self {
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Self { child, group: Group(leader) }
    }

    pub(super) async fn wait(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Another hand on the same process group, to send it signals.
    pub(super) fn signaller(&self) -> impl Fn(Signal) + Send + use<> {
        let group = self.group.0;
        move |signal| send(group, signal)
    }

    /// Ends the process and its group: hangs up, waits a moment, kills.
    pub(super) async fn end(mut self) {
        send(self.group.0, Signal::HUP);
        send(self.group.0, Signal::CONT);
        // Dropping the group kills whatever the moment was too short for.
        let _ = tokio::time::timeout(Self::HANG_UP, self.child.wait()).await;
    }
}

/// A group whose last member is gone cannot be told from one that never was; that is as well.
fn send(group: Option<Pid>, signal: Signal) {
    if let Some(group) = group {
        let _ = kill_process_group(group, signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        send(self.0, Signal::KILL);
    }
}

/// Kills every process of this user whose environment holds `mark` as [`MARK`]: those that left their process group. Needs `/proc`; does
/// nothing without it.
pub(super) fn sweep(mark: &str) {
    let wanted = format!("{MARK}={mark}");
    // A process may fork while it is looked for.
    for _ in 0..5 {
        let mut found = false;
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else { continue };
            let Ok(environment) = std::fs::read(entry.path().join("environ")) else { continue };
            if environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes()) {
                found = true;
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        if !found {
            return;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
