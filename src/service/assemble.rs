use std::sync::Arc;
use std::time::Duration;

use ssh_key::{Certificate, PrivateKey};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::ServiceError;
use crate::audit::Audit;
use crate::broker::Broker;
use crate::cache::Cache;
use crate::commands::{self, Console, NoReload};
use crate::door::Door;
use crate::gse::Client;
use crate::keys::{Keys, PublicKeys};
use crate::recording::Recorder;
use crate::session::{self, HostCertificates, Runner, SessionRunner};
use crate::settings::Settings;
use crate::upstream::Dialer;

/// A host certificate is looked at once, when a session begins.
const CERTIFICATE_LIFETIME: Duration = Duration::from_secs(3600);

/// What a broker is made of.
pub struct Parts {
    pub settings: Settings,
    pub keys: Keys,
    pub audit: Audit,
}

/// A broker, ready to take connections.
pub struct Service {
    door: Door,
}

impl Service {
    pub async fn assemble(parts: Parts) -> Result<Self, ServiceError> {
        let Parts { settings, keys, audit } = parts;
        let fleets = settings.gse.fleets.clone();
        let cloud = Client::new(settings.gse).await?;
        let leases = Arc::new(Cache::new(cloud, settings.cache));
        let dialer = Dialer::new(settings.upstream)?;
        let pins = dialer.pins();
        let broker = Arc::new(Broker::new(settings.policy, fleets, leases.clone(), dialer));
        let host_key = keys.host.clone();
        let public_keys = PublicKeys { host: keys.host.public_key().clone(), ca: keys.ca.public_key().clone() };
        let certificates = Arc::new(Certificates { session_key: Arc::new(keys.session.clone()), keys });
        let config = session::Config { open_deadline: settings.open_deadline, ..session::Config::default() };
        // Each session waits at its end until its recording is written, so the writer is not waited for.
        let (recorder, _writer) = Recorder::start(settings.recording)?;
        let runner = SessionRunner::new(broker.clone(), audit.clone(), recorder, certificates, config);
        let console = Console::new(commands::Parts {
            broker,
            catalogue: leases,
            live: runner.live(),
            pins,
            keys: public_keys,
            reload: Arc::new(NoReload),
            audit: audit.clone(),
            deadline: settings.open_deadline,
        });
        let door = Door::new(settings.door, settings.aliases, host_key, audit, Arc::new(Runner(runner)), Arc::new(console))?;
        Ok(Self { door })
    }

    /// Takes connections until `stop`.
    pub async fn run(&self, listeners: Vec<TcpListener>, stop: CancellationToken) {
        self.door.run(listeners, stop).await;
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
