//! Arguments, settings, run, exit code: the only file that prints or exits.

use std::io::{self, Write};
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ssh_broker::client_config::{BrokerHost, client_config};
use ssh_broker::keys::PublicKeys;
use ssh_broker::settings::{DEFAULT_FILE, Draft, Findings, Problem, Purpose, Settings};

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
}

#[derive(clap::Args)]
struct ConfigFile {
    /// The configuration file
    #[arg(long = "config", default_value = DEFAULT_FILE, value_name = "FILE")]
    path: PathBuf,
}

fn main() -> ExitCode {
    let code = match Arguments::parse().command {
        Command::Check { config } => check(&config.path),
        Command::ClientConfig { config, host, port } => print_client_config(&config.path, &host, port),
    };
    code.unwrap_or_else(|error| {
        // Whoever reads our output may be gone; then there is nobody to tell.
        let _ = writeln!(io::stderr(), "ssh-broker: failed to write: {error}");
        ExitCode::from(FAILED)
    })
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
    match PublicKeys::load(&settings.state_dir).and_then(|keys| client_config(host, port, &keys)) {
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
