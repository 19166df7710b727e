use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ssh_key::LineEnding;

use super::cloud::Mode;
use super::endpoint::{Endpoint, EndpointConfig};
use super::instance::{Credential, Instance, InstanceConfig};
use super::inventory::{InstanceRecord, Inventory};
use super::keys::{ed25519, random_hex, random_password};
use super::signature::ApiKey;
use crate::access::Secret;

/// What kind of secret the cloud keeps for an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretKind {
    Password,
    /// ed25519, in OpenSSH's PEM form.
    Key,
}

#[derive(Debug, Clone)]
pub struct InstanceSpec {
    pub name: String,
    pub fleet: String,
    pub secret: SecretKind,
}

pub struct WorldConfig {
    pub instances: Vec<InstanceSpec>,
    pub region: String,
    pub requests_per_second: usize,
    /// See [`InstanceConfig::rekey_after`].
    pub rekey_after: Option<usize>,
}

impl Default for WorldConfig {
    /// `ins-demo1` with a key and `ins-demo2` with a password, each alone in its fleet, so that every port is free to choose.
    fn default() -> Self {
        let spec = |name: &str, fleet: &str, secret| InstanceSpec { name: name.to_owned(), fleet: fleet.to_owned(), secret };
        Self {
            instances: vec![
                spec("ins-demo1", "fleet-demo-keys", SecretKind::Key),
                spec("ins-demo2", "fleet-demo-words", SecretKind::Password),
            ],
            region: "ap-shanghai".to_owned(),
            requests_per_second: 20,
            rekey_after: None,
        }
    }
}

/// An endpoint and its instances, with fresh random credentials. Dropping it stops everything.
pub struct World {
    endpoint: Endpoint,
    instances: Vec<Instance>,
    ports: BTreeMap<String, u16>,
    key: Arc<ApiKey>,
    region: String,
}

impl World {
    /// Starts everything on loopback. Instances of one fleet share a port, as the configuration of a broker has it, on addresses of their
    /// own from 127.0.0.1 up.
    ///
    /// # Errors
    /// When nothing can be bound. Only Linux has more than one loopback address without further ado, so a fleet of several instances
    /// fails elsewhere.
    pub async fn start(config: WorldConfig) -> io::Result<Self> {
        const ATTEMPTS: usize = 8;
        let mut attempt = 1;
        loop {
            match Self::attempt(&config).await {
                // The first instance's port was taken on a later one's address.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempt < ATTEMPTS => attempt += 1,
                done => return done,
            }
        }
    }

    async fn attempt(config: &WorldConfig) -> io::Result<Self> {
        let mut inventory = Inventory::default();
        let mut instances = Vec::new();
        let mut ports = BTreeMap::new();
        let mut addresses = BTreeMap::new();
        for spec in &config.instances {
            let last: &mut u32 = addresses.entry(spec.fleet.clone()).or_insert_with(|| u32::from(Ipv4Addr::LOCALHOST) - 1);
            *last += 1;
            let address = IpAddr::V4(Ipv4Addr::from(*last));
            let port = ports.get(&spec.fleet).copied().unwrap_or_default();
            let (credential, secret) = credential(spec.secret)?;
            let instance = Instance::start(InstanceConfig {
                name: spec.name.clone(),
                address: SocketAddr::new(address, port),
                login: "root".to_owned(),
                credential,
                host_key: ed25519(&spec.name)?,
                rekey_after: config.rekey_after,
            })
            .await?;
            ports.insert(spec.fleet.clone(), instance.address().port());
            inventory.insert(InstanceRecord {
                fleet: spec.fleet.clone(),
                instance: spec.name.clone(),
                address,
                login: "root".to_owned(),
                secret,
                operating_system: "Ubuntu Server 22.04".to_owned(),
                status: "Active".to_owned(),
            });
            instances.push(instance);
        }
        let (id, key) = (format!("AKIDdemo{}", random_hex::<12>()?), random_hex::<16>()?);
        let copy = |key: &str| Secret::new(key.as_bytes().to_vec());
        let endpoint = Endpoint::start(EndpointConfig {
            key: ApiKey { id: id.clone(), key: copy(&key), token: None },
            region: config.region.clone(),
            requests_per_second: config.requests_per_second,
            inventory,
            mode: Mode::AllActions,
        })
        .await?;
        let key = Arc::new(ApiKey { id, key: Secret::new(key.into_bytes()), token: None });
        Ok(Self { endpoint, instances, ports, key, region: config.region.clone() })
    }

    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub fn instances(&self) -> &[Instance] {
        &self.instances
    }

    pub fn instance(&self, name: &str) -> Option<&Instance> {
        self.instances.iter().find(|instance| instance.name() == name)
    }

    /// Fleet → SSH port, as `gse.ssh_ports` of a broker must say it.
    pub fn ssh_ports(&self) -> &BTreeMap<String, u16> {
        &self.ports
    }

    /// The API key that the endpoint accepts.
    pub fn key(&self) -> &Arc<ApiKey> {
        &self.key
    }

    pub fn region(&self) -> &str {
        &self.region
    }

    /// Gives an instance a new secret, in the cloud and on the instance. Whether there is such an instance.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn rotate(&self, name: &str, kind: SecretKind) -> io::Result<bool> {
        let Some(instance) = self.instance(name) else { return Ok(false) };
        let (credential, secret) = credential(kind)?;
        instance.set_credential(credential);
        Ok(self.endpoint.change(|inventory| inventory.instance_mut(name).map(|record| record.secret = secret).is_some()))
    }

    /// Stops everything and waits until it is gone.
    pub async fn shutdown(self) {
        for instance in self.instances {
            instance.shutdown().await;
        }
        self.endpoint.shutdown().await;
    }
}

/// A fresh credential: what the instance checks, and what the cloud keeps.
fn credential(kind: SecretKind) -> io::Result<(Credential, Arc<Secret>)> {
    match kind {
        SecretKind::Password => {
            let password = random_password()?;
            let copy = Secret::new(password.expose().to_vec());
            Ok((Credential::Password(copy), Arc::new(password)))
        }
        SecretKind::Key => {
            let key = ed25519("")?;
            let pem = key.to_openssh(LineEnding::LF).map_err(io::Error::other)?;
            Ok((Credential::Key(key.public_key().clone()), Arc::new(Secret::new(pem.as_bytes().to_vec()))))
        }
    }
}
