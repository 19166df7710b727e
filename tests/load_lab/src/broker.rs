use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;

use crate::operator::OPERATORS;

const START: Duration = Duration::from_secs(20);

/// The broker under load, with its default limits. It ends when this is dropped.
pub struct Broker {
    child: Child,
    pub address: SocketAddr,
    pub metrics: SocketAddr,
    log: PathBuf,
    _dir: TempDir,
}

/// What the broker asks and dials.
pub struct Cloud<'a> {
    pub endpoint: &'a str,
    pub ssh_port: u16,
    pub key_id: &'a str,
    pub key: &'a str,
}

impl Broker {
    pub async fn start(program: &Path, cloud: &Cloud<'_>, operator: &str) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix("load.").tempdir()?;
        let (address, metrics) = (free_address()?, free_address()?);
        write(dir.path(), &configuration(dir.path(), address, metrics, cloud), cloud, operator)?;
        let log = dir.path().join("broker.log");
        let child = Command::new(program)
            .args(["serve", "--config"])
            .arg(dir.path().join("broker.toml"))
            .env("RUST_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(OpenOptions::new().create(true).append(true).open(&log)?)
            .spawn()
            .map_err(|error| io::Error::other(format!("{}: {error}", program.display())))?;
        let broker = Self { child, address, metrics, log, _dir: dir };
        let deadline = tokio::time::Instant::now() + START;
        while TcpStream::connect(address).await.is_err() {
            if tokio::time::Instant::now() > deadline {
                return Err(io::Error::other(format!("the broker did not start: {}", broker.log())));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(broker)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it warned of.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

fn configuration(dir: &Path, address: SocketAddr, metrics: SocketAddr, cloud: &Cloud<'_>) -> String {
    let (dir, endpoint, port) = (dir.display(), cloud.endpoint, cloud.ssh_port);
    format!(
        "state_dir = \"{dir}/state\"\n[listen]\naddresses = [\"{address}\"]\n[operators]\nauthorized_keys_dir = \"{dir}/operators\"\n\
         [[grants]]\noperators = [\"*\"]\ntargets = [\"ins-*\"]\n[gse]\nendpoint = \"{endpoint}\"\nregion = \"ap-shanghai\"\n\
         secret_id_file = \"{dir}/secret_id\"\nsecret_key_file = \"{dir}/secret_key\"\nssh_port = {port}\n[audit]\n\
         path = \"{dir}/audit.jsonl\"\n[metrics]\naddress = \"{metrics}\"\n[upstream]\nallowed_networks = [\"127.0.0.0/8\"]\n"
    )
}

fn write(dir: &Path, configuration: &str, cloud: &Cloud<'_>, operator: &str) -> io::Result<()> {
    let private = |name: &str, text: &str| {
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(dir.join(name))?.write_all(text.as_bytes())
    };
    for name in ["state", "operators"] {
        fs::create_dir(dir.join(name))?;
    }
    for number in 0..OPERATORS {
        private(&format!("operators/operator{number}"), operator)?;
    }
    private("secret_id", cloud.key_id)?;
    private("secret_key", cloud.key)?;
    private("broker.toml", configuration)
}
