use super::Service;

impl Service {
    /// What it cannot serve without, and how each of it is.
    pub(super) fn needs(&self) -> [(&'static str, Result<(), String>); 4] {
        let audit = self.audit.health();
        let audit = match (audit.is_failing, audit.waiting < audit.queue) {
            (true, _) => Err("the last event could not be written".to_owned()),
            (false, false) => Err("the queue is full".to_owned()),
            (false, true) => Ok(()),
        };
        let api = match self.leases.cloud().stats().is_asked {
            true => Ok(()),
            false => Err("it did not answer, and is not asked for a while".to_owned()),
        };
        let accepting = match self.door.closing().is_accepting() {
            true => Ok(()),
            false => Err("draining".to_owned()),
        };
        let keys = self.certificates.certify(&["ins-readiness"]).map(drop);
        [("keys", keys), ("audit", audit), ("api", api), ("accepting", accepting)]
    }
}
