use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use crate::access::Secret;

/// One instance as the simulated cloud knows it.
#[derive(Clone)]
pub struct InstanceRecord {
    pub fleet: String,
    pub instance: String,
    pub address: IpAddr,
    pub login: String,
    pub secret: Arc<Secret>,
    pub operating_system: String,
    /// Opaque text, such as `Active`.
    pub status: String,
}

/// What the simulated cloud knows. It may be changed while the endpoint runs.
#[derive(Clone, Default)]
pub struct Inventory {
    instances: Vec<InstanceRecord>,
    aliases: BTreeMap<String, String>,
}

impl Inventory {
    /// Adds an instance, or replaces the one of the same fleet and id.
    pub fn insert(&mut self, record: InstanceRecord) {
        self.instances.retain(|known| known.fleet != record.fleet || known.instance != record.instance);
        self.instances.push(record);
    }

    /// Whether there was one.
    pub fn remove(&mut self, instance: &str) -> bool {
        let before = self.instances.len();
        self.instances.retain(|record| record.instance != instance);
        self.instances.len() < before
    }

    /// `alias-…` → `fleet-…`, for ResolveAlias.
    pub fn insert_alias(&mut self, alias: impl Into<String>, fleet: impl Into<String>) {
        self.aliases.insert(alias.into(), fleet.into());
    }

    /// The first instance of this id, in whatever fleet, to be changed.
    pub fn instance_mut(&mut self, instance: &str) -> Option<&mut InstanceRecord> {
        self.instances.iter_mut().find(|record| record.instance == instance)
    }

    pub fn find(&self, fleet: &str, instance: &str) -> Option<&InstanceRecord> {
        self.instances.iter().find(|record| record.fleet == fleet && record.instance == instance)
    }

    pub fn instances(&self) -> impl Iterator<Item = &InstanceRecord> {
        self.instances.iter()
    }

    /// Every fleet once, in the order of its first instance.
    pub fn fleets(&self) -> Vec<&str> {
        let mut fleets: Vec<&str> = Vec::new();
        for record in &self.instances {
            if !fleets.contains(&record.fleet.as_str()) {
                fleets.push(&record.fleet);
            }
        }
        fleets
    }

    pub fn alias(&self, alias: &str) -> Option<&str> {
        self.aliases.get(alias).map(String::as_str)
    }
}
