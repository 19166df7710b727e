use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ssh_key::PublicKey;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{BrokerFacts, ClientHome, Ended, Tour, World, WorldConfig, feed};
use crate::audit::Audit;
use crate::keys::{Keys, KeysError};
use crate::service::{Parts, Service, ServiceError};
use crate::settings::{Findings, Purpose, Settings};

#[derive(Debug, Error)]
pub enum DemoError {
    #[error("the demo's own settings were refused: {}", .0.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Settings(Findings),
    #[error(transparent)]
    Keys(#[from] KeysError),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// `ssh-broker demo [-- COMMAND…]`: a simulated cloud and two instances, a real broker before them, and a real `ssh -J` through it.
/// COMMAND runs on the first instance; without one, a terminal gets a shell there and anything else the tour.
pub async fn run(command: &[String], shell: bool, out: &mut (dyn Write + Send)) -> Result<Ended, DemoError> {
    let world = World::start(WorldConfig::default()).await?;
    let home = ClientHome::create()?;
    let ended = with_broker(&world, &home, command, shell, out).await;
    home.close()?;
    world.shutdown().await;
    ended
}

/// Whether `demo` without a command should be a shell: somebody sits there.
pub fn on_a_terminal() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

async fn with_broker(
    world: &World,
    home: &ClientHome,
    command: &[String],
    shell: bool,
    out: &mut (dyn Write + Send),
) -> Result<Ended, DemoError> {
    let file = configure(world, home)?;
    let (settings, _) = Settings::load(&file, [], Purpose::Serve).map_err(DemoError::Settings)?;
    let keys = Keys::load_or_create(&settings.state_dir)?;
    let public = |key: &PublicKey| key.to_openssh().map_err(io::Error::other);
    let (host_key, ca_key) = (public(keys.host.public_key())?, public(keys.ca.public_key())?);
    let (sink, opened) = feed();
    let (audit, writer) = Audit::with_sink(Box::new(sink), settings.audit.queue);
    let service = Service::assemble(Parts { settings, keys, audit, reload: None }).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    home.write_config(&BrokerFacts { address: listener.local_addr()?, host_key: &host_key, ca_key: &ca_key })?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let stop = stop.clone();
        async move { service.run(vec![listener], stop).await }
    });
    let mut tour = Tour::new(home, opened, out);
    let ended = if command.is_empty() && !shell { tour.show().await } else { tour.run("ins-demo1", command).await };
    stop.cancel();
    let _ = serving.await;
    let _ = tokio::task::spawn_blocking(move || writer.join()).await;
    Ok(ended?)
}

/// The configuration of a real broker, below the private directory.
fn configure(world: &World, home: &ClientHome) -> io::Result<std::path::PathBuf> {
    let dir = home.path().join("broker");
    let (state, operators) = (dir.join("state"), dir.join("operators"));
    for path in [&dir, &state, &operators] {
        fs::create_dir(path)?;
    }
    private_file(&operators.join(ClientHome::OPERATOR), format!("{}\n", home.public_key()).as_bytes())?;
    private_file(&dir.join("secret_id"), world.key().id.as_bytes())?;
    private_file(&dir.join("secret_key"), world.key().key.expose())?;
    let ports: Vec<String> = world.ssh_ports().iter().map(|(fleet, port)| format!("\"{fleet}\" = {port}")).collect();
    let text = format!(
        r#"
state_dir = "{state}"

[operators]
authorized_keys_dir = "{operators}"

[[grants]]
operators = ["{operator}"]
targets = ["ins-demo*"]
allow = ["shell", "exec", "sftp", "forward-local"]

[gse]
endpoint = "{endpoint}"
region = "{region}"
secret_id_file = "{dir}/secret_id"
secret_key_file = "{dir}/secret_key"
ssh_ports = {{ {ports} }}

[upstream]
allowed_networks = ["127.0.0.0/8"]
"#,
        state = state.display(),
        operators = operators.display(),
        operator = ClientHome::OPERATOR,
        endpoint = world.endpoint().url(),
        region = world.region(),
        dir = dir.display(),
        ports = ports.join(", "),
    );
    let file = dir.join("broker.toml");
    private_file(&file, text.as_bytes())?;
    Ok(file)
}

fn private_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)
}
