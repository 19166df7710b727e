use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout};

use super::client_home::ClientHome;
use super::opened::{Opened, OpenedEvents};
use super::stop::Stop;

/// How the demo ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// With the exit code of the command, or of the tour: 0 when all was as promised.
    Exit(u8),
    /// By SIGINT, SIGTERM or SIGHUP; the caller still has to clean up.
    Interrupted,
}

/// Shows a real `ssh` going through a broker.
pub struct Tour<'a> {
    home: &'a ClientHome,
    opened: OpenedEvents,
    out: &'a mut (dyn Write + Send),
}

/// One stop at one target ended.
struct Visit {
    status: ExitStatus,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    /// From starting `ssh` to the first byte of its output.
    first_byte: Option<Duration>,
    whole: Duration,
}

impl<'a> Tour<'a> {
    /// One stop of the tour.
    const DEADLINE: Duration = Duration::from_secs(30);
    /// Output of one stop that is kept.
    const MAX_OUTPUT: u64 = 16 << 20;

    /// `home` holds the configuration already. All that is to be read goes to `out`, which should not be standard output when a command
    /// of the user's runs.
    pub fn new(home: &'a ClientHome, opened: OpenedEvents, out: &'a mut (dyn Write + Send)) -> Self {
        Self { home, opened, out }
    }

    /// Runs `command` on `target` with the standard streams of this process (no command: a shell), then tells each phase's time.
    ///
    /// # Errors
    /// When `ssh` cannot be run, or `out` not be written.
    pub async fn run(&mut self, target: &str, command: &[String]) -> io::Result<Ended> {
        self.opened.drain();
        let mut interrupt = Interrupt::listen()?;
        let mut ssh = self.home.ssh();
        ssh.arg("--").arg(target).args(command);
        let mut child = ssh.spawn().map_err(no_ssh)?;
        let mut interrupted = false;
        // A terminal's ^C reaches ssh as well, and then ssh ends; a signal to this process alone must end it.
        let status = loop {
            tokio::select! {
                status = child.wait() => break status?,
                () = interrupt.wait() => {
                    interrupted = true;
                    if timeout(Duration::from_secs(1), child.wait()).await.is_err() {
                        child.kill().await?;
                    }
                }
            }
        };
        if interrupted {
            return Ok(Ended::Interrupted);
        }
        if let Some(opened) = self.opened.next(target).await {
            writeln!(self.out, "{}", phases(&opened))?;
        }
        Ok(Ended::Exit(code(status)))
    }

    /// The default tour.
    ///
    /// # Errors
    /// When `ssh` cannot be run, or `out` not be written.
    pub async fn show(&mut self) -> io::Result<Ended> {
        let mut interrupt = Interrupt::listen()?;
        tokio::select! {
            ended = self.visit_all() => ended,
            () = interrupt.wait() => Ok(Ended::Interrupted),
        }
    }

    async fn visit_all(&mut self) -> io::Result<Ended> {
        let stops = Stop::default_tour();
        let mut kept = 0;
        for stop in &stops {
            writeln!(self.out, "\n# {}\n$ {}", stop.what, stop.shown())?;
            self.out.flush()?;
            kept += usize::from(self.visit(stop).await?);
        }
        writeln!(self.out, "\n{kept} of {} as promised.", stops.len())?;
        self.out.flush()?;
        Ok(Ended::Exit(u8::from(kept < stops.len())))
    }

    /// Whether all was as promised.
    async fn visit(&mut self, stop: &Stop) -> io::Result<bool> {
        self.opened.drain();
        let mut ssh = self.home.ssh();
        ssh.arg("-T").arg("--").arg(stop.target).arg(stop.command);
        let Ok(visit) = timeout(Self::DEADLINE, attend(ssh, &stop.stdin)).await else {
            writeln!(self.out, "! no end after {:?}", Self::DEADLINE)?;
            return Ok(false);
        };
        let visit = visit?;
        if stop.stdin.is_empty() {
            self.quote(&visit.stdout)?;
        } else {
            let rate = visit.stdout.len() as f64 / visit.whole.as_secs_f64() / 1e6;
            writeln!(self.out, "  {} bytes came back, {rate:.0} MB/s with the login", visit.stdout.len())?;
        }
        self.quote(&visit.stderr)?;
        if stop.opens {
            match self.opened.next(stop.target).await {
                Some(opened) => writeln!(self.out, "  {}", phases(&opened))?,
                None => writeln!(self.out, "  (the broker's audit names no session)")?,
            }
        }
        let first_byte = visit.first_byte.unwrap_or(visit.whole);
        let status = code(visit.status);
        writeln!(self.out, "  exit status {status}, first byte after {}, end after {}", ms(first_byte), ms(visit.whole))?;
        let wrong = stop.broken_promise(status, &visit.stdout, &visit.stderr);
        if let Some(wrong) = wrong {
            writeln!(self.out, "! {wrong}")?;
        }
        Ok(wrong.is_none())
    }

    /// Prints what a command said, indented and without control characters.
    fn quote(&mut self, said: &[u8]) -> io::Result<()> {
        for line in String::from_utf8_lossy(said).lines().take(20) {
            let line: String = line.chars().filter(|c| !c.is_control()).take(200).collect();
            writeln!(self.out, "  {line}")?;
        }
        Ok(())
    }
}

/// Runs `ssh` to its end.
async fn attend(mut ssh: Command, stdin: &[u8]) -> io::Result<Visit> {
    let start = Instant::now();
    let mut child = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(no_ssh)?;
    let (Some(mut input), Some(stdout), Some(stderr)) = (child.stdin.take(), child.stdout.take(), child.stderr.take()) else {
        return Err(io::Error::other("ssh has no pipes"));
    };
    let give = async move {
        // A command may end without reading all of it.
        let _ = input.write_all(stdin).await;
    };
    let ((), stdout, stderr, status) = tokio::join!(give, collect(stdout), collect(stderr), child.wait());
    let ((stdout, first), (stderr, _)) = (stdout?, stderr?);
    Ok(Visit { status: status?, stdout, stderr, first_byte: first.map(|at| at - start), whole: start.elapsed() })
}

/// All of it, up to a limit, and when it began.
async fn collect(mut from: impl AsyncRead + Unpin) -> io::Result<(Vec<u8>, Option<Instant>)> {
    let mut all = Vec::new();
    let first = (from.read_buf(&mut all).await? > 0).then(Instant::now);
    (&mut from).take(Tour::MAX_OUTPUT).read_to_end(&mut all).await?;
    Ok((all, first))
}

fn no_ssh(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("failed to run ssh (the demo needs an OpenSSH client on the PATH): {error}"))
}

/// As a shell says it: a signal is 128 and its number.
fn code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255)
}

fn ms(time: Duration) -> String {
    format!("{:.0} ms", time.as_secs_f64() * 1e3)
}

fn phases(opened: &Opened) -> String {
    let Opened { target: _, resolve_ms, quota_ms, api_ms, connect_ms, kex_ms, auth_ms, total_ms } = opened;
    format!(
        "broker, ms: resolve {resolve_ms:.1}, quota {quota_ms:.1}, api {api_ms:.1}, connect {connect_ms:.1}, kex {kex_ms:.1}, \
         auth {auth_ms:.1}; in all {total_ms:.1}"
    )
}

/// The signals that end the demo. While this lives they do not end the process, so that it can clean up.
struct Interrupt([Signal; 3]);

impl Interrupt {
    fn listen() -> io::Result<Self> {
        Ok(Self([signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?]))
    }

    async fn wait(&mut self) {
        let [interrupt, terminate, hang_up] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hang_up.recv() => {}
        }
    }
}
