//! Arguments, settings, run, exit code: the only file that prints or exits.

use std::fmt::Display;
use std::io::{self, Write};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use ssh_broker::client_config::{BrokerHost, Paste};
use ssh_broker::demo;
use ssh_broker::keys::PublicKeys;
use ssh_broker::manual;
use ssh_broker::service::{self, Invocation, Predecessor, ServiceError, Sockets, Start, harden};
use ssh_broker::settings::{DEFAULT_FILE, Draft, Findings, LogFormat, Problem, Purpose, Settings};
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;
use zeroizing_alloc::ZeroAlloc;

/// Wipes what is freed: an instance's secret passes through buffers of HTTP and TLS that nobody else wipes.
#[global_allocator]
static ALLOCATOR: ZeroAlloc<std::alloc::System> = ZeroAlloc(std::alloc::System);

/// Something broke.
const FAILED: u8 = 1;
/// The configuration or the arguments are wrong (clap uses the same).
const REFUSED: u8 = 2;

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the broker
    Serve {
        #[command(flatten)]
        config: ConfigFile,
        /// Take over from the broker that started this one
        #[arg(long, hide = true)]
        successor: bool,
    },
    /// Validate the configuration and every file it names, offline. Exits with 2 when anything is wrong
    Check {
        #[command(flatten)]
        config: ConfigFile,
    },
    /// Print what an operator pastes into ~/.ssh/config and ~/.ssh/known_hosts
    ClientConfig {
        #[command(flatten)]
        config: ConfigFile,
        /// The name or address under which operators reach the broker
        #[arg(long, value_name = "HOST", value_parser = BrokerHost::parse)]
        host: BrokerHost,
        /// The port there, if it is not the one that the configuration listens on
        #[arg(long, value_name = "PORT")]
        port: Option<NonZeroU16>,
    },
    /// Show the main job on this machine: a simulated cloud and instances, a real broker, a real `ssh -J`. Leaves nothing behind
    Demo {
        /// Runs on the instance; without it a short tour, or on a terminal a shell
        #[arg(last = true, value_name = "COMMAND")]
        command: Vec<String>,
        /// Show the tour on a terminal too
        #[arg(long)]
        tour: bool,
    },
    /// Write manual pages and shell completions into a directory, for packages
    #[command(hide = true)]
    Generate {
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long = "config", default_value = DEFAULT_FILE, value_name = "FILE")]
    path: PathBuf,
}

fn main() -> ExitCode {
    let code = match Arguments::parse().command {
        Command::Serve { config, successor } => serve(config.path, successor),
        Command::Demo { command, tour } => demo(&command, tour),
        Command::Check { config } => check(&config.path),
        Command::Generate { dir } => ended(manual::write(Arguments::command(), &dir).map(|()| ExitCode::SUCCESS)),
        Command::ClientConfig { config, host, port } => print_client_config(&config.path, &host, port),
    };
    code.unwrap_or_else(|error| {
        // Whoever reads our output may be gone; then there is nobody to tell.
        let _ = writeln!(io::stderr(), "ssh-broker: failed to write: {error}");
        ExitCode::from(FAILED)
    })
}

fn serve(file: PathBuf, successor: bool) -> io::Result<ExitCode> {
    // Before there is a second thread: it changes the environment.
    let begun = if successor {
        Predecessor::meet().map(|(predecessor, sockets)| (Some(predecessor), sockets))
    } else {
        Sockets::from_systemd().map(|sockets| (None, sockets))
    };
    let (predecessor, sockets) = match begun {
        Ok(begun) => begun,
        Err(error) => return ended(Err(format!("cannot take the sockets that were handed over: {error}"))),
    };
    let (settings, warnings) = match Settings::load(&file, std::env::vars_os(), Purpose::Serve) {
        Ok(loaded) => loaded,
        Err(findings) => return refused(&findings),
    };
    print_warnings(&warnings)?;
    log_to_stderr("info", settings.process.log);
    // The door runs connections on threads of its own.
    let served = harden().and_then(|()| Invocation::of_this_process()).map_err(ServiceError::from).and_then(|invocation| {
        Builder::new_current_thread().enable_all().build()?.block_on(service::serve(Start {
            settings,
            file,
            invocation,
            sockets,
            predecessor,
        }))
    });
    ended(served.map(|()| ExitCode::SUCCESS))
}

fn demo(command: &[String], tour: bool) -> io::Result<ExitCode> {
    log_to_stderr("off", LogFormat::Text);
    let shell = command.is_empty() && !tour && demo::on_a_terminal();
    // A command's output stands alone on standard output; a tour is the output.
    let mut out: Box<dyn Write + Send> = if command.is_empty() && !shell { Box::new(io::stdout()) } else { Box::new(io::stderr()) };
    let ended_demo = Builder::new_multi_thread().enable_all().build()?.block_on(demo::run(command, shell, &mut out));
    ended(ended_demo.map(|ended| match ended {
        demo::Ended::Exit(code) => ExitCode::from(code),
        demo::Ended::Interrupted => ExitCode::from(FAILED),
    }))
}

fn ended(result: Result<ExitCode, impl Display>) -> io::Result<ExitCode> {
    result.or_else(|error| {
        writeln!(io::stderr(), "ssh-broker: {error}")?;
        Ok(ExitCode::from(FAILED))
    })
}

/// `RUST_LOG` decides what is logged; standard output belongs to the audit.
fn log_to_stderr(default: &str, format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).with_span_list(false).init(),
    }
}

fn check(file: &Path) -> io::Result<ExitCode> {
    let (settings, warnings) = match Settings::load(file, std::env::vars_os(), Purpose::Check) {
        Ok(loaded) => loaded,
        Err(findings) => return refused(&findings),
    };
    print_warnings(&warnings)?;
    writeln!(io::stdout(), "{}: ok: {}", file.display(), settings.summary())?;
    Ok(ExitCode::SUCCESS)
}

fn print_client_config(file: &Path, host: &BrokerHost, port: Option<NonZeroU16>) -> io::Result<ExitCode> {
    let settings = match Draft::read(file, std::env::vars_os()).finish() {
        Ok((settings, _)) => settings,
        Err(findings) => return refused(&findings),
    };
    let listens_on = || settings.door.addresses.first().and_then(|address| NonZeroU16::new(address.port()));
    let Some(port) = port.or_else(listens_on) else {
        writeln!(io::stderr(), "ssh-broker: listen.addresses names no fixed port: say with --port where operators reach the broker")?;
        return Ok(ExitCode::from(REFUSED));
    };
    match PublicKeys::load(&settings.state_dir).and_then(|keys| Paste::new(host, port, &keys)) {
        Ok(text) => write!(io::stdout(), "{text}").map(|()| ExitCode::SUCCESS),
        Err(error) => writeln!(io::stderr(), "ssh-broker: {error}").map(|()| ExitCode::from(FAILED)),
    }
}

fn refused(findings: &Findings) -> io::Result<ExitCode> {
    print_warnings(&findings.warnings)?;
    for error in &findings.errors {
        writeln!(io::stderr(), "{error}")?;
    }
    Ok(ExitCode::from(REFUSED))
}

fn print_warnings(warnings: &[Problem]) -> io::Result<()> {
    warnings.iter().try_for_each(|warning| writeln!(io::stderr(), "warning: {warning}"))
}
