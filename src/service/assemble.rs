use std::sync::Arc;
use std::time::Duration;

use ssh_key::{Certificate, PrivateKey};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::ServiceError;
use crate::audit::Audit;
use crate::broker::Broker;
use crate::cache::Cache;
use crate::commands::{self, Console, NoReload, Reload};
use crate::door::Door;
use crate::gse::Client;
use crate::keys::{Keys, PublicKeys};
use crate::pins::Pins;
use crate::recording::Recorder;
use crate::session::{self, HostCertificates, Live, Runner, SessionRunner};
use crate::settings::Settings;
use crate::upstream::Dialer;

/// A host certificate is looked at once, when a session begins.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(3600);

/// What a broker is made of.
pub struct Parts {
    pub settings: Settings,
    pub keys: Keys,
    pub audit: Audit,
    /// How the configuration is read anew, where it can be.
    pub reload: Option<Arc<dyn Reload>>,
}

/// A broker, ready to take connections.
pub struct Service {
    pub(super) door: Door,
    pub(super) broker: Arc<Broker<Dialer>>,
    pub(super) pins: Pins,
    pub(super) leases: Arc<Cache<Client>>,
    pub(super) live: Arc<Live>,
    pub(super) audit: Audit,
    pub(super) certificates: Arc<dyn HostCertificates>,
}

impl Service {
    pub async fn assemble(parts: Parts) -> Result<Self, ServiceError> {
        let Parts { settings, keys, audit, reload } = parts;
        let fleets = settings.gse.fleets.clone();
        let cloud = Client::new(settings.gse).await?;
        let leases = Arc::new(Cache::new(cloud, settings.cache));
        let dialer = Dialer::new(settings.upstream)?;
        let pins = dialer.pins();
        let broker = Arc::new(Broker::new(settings.policy, fleets, leases.clone(), dialer));
        let host_key = keys.host.clone();
        let public_keys = PublicKeys { host: keys.host.public_key().clone(), ca: keys.ca.public_key().clone() };
        let certificates: Arc<dyn HostCertificates> = Arc::new(Certificates { session_key: Arc::new(keys.session.clone()), keys });
        let config = session::Config { open_deadline: settings.open_deadline, ..session::Config::default() };
        // Each session waits at its end until its recording is written, so the writer is not waited for.
        let (recorder, _writer) = Recorder::start(settings.recording)?;
        let runner = SessionRunner::new(broker.clone(), audit.clone(), recorder, certificates.clone(), config);
        let console = Console::new(commands::Parts {
            broker: broker.clone(),
            catalogue: leases.clone(),
            live: runner.live(),
            pins: pins.clone(),
            keys: public_keys,
            reload: reload.unwrap_or_else(|| Arc::new(NoReload)),
            audit: audit.clone(),
            deadline: settings.open_deadline,
        });
        let door =
            Door::new(settings.door, settings.aliases, host_key, audit.clone(), Arc::new(Runner(runner.clone())), Arc::new(console))?;
        Ok(Self { door, live: runner.live(), broker, pins, leases, audit, certificates })
    }

    /// Takes connections until `stop`; then every one ends.
    pub async fn run(&self, listeners: Vec<TcpListener>, stop: CancellationToken) {
        let stopping = async {
            stop.cancelled().await;
            self.door.closing().stop_serving();
        };
        tokio::join!(self.door.run(listeners), stopping);
    }
}

struct Certificates {
    keys: Keys,
    session_key: Arc<PrivateKey>,
}

impl HostCertificates for Certificates {
    fn session_key(&self) -> Arc<PrivateKey> {
        self.session_key.clone()
    }

    fn certify(&self, names: &[&str]) -> Result<Certificate, String> {
        self.keys.host_certificate(names, CERTIFICATE_LIFETIME).map_err(|error| error.to_string())
    }
}
