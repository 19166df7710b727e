use super::Service;

/// What `systemctl status` shows: the counts of now, and what went wrong last.
#[derive(Debug, Default)]
pub(super) struct Status {
    pub(super) trouble: Option<String>,
    last: String,
}

impl Status {
    pub(super) fn line(&mut self, service: &Service) -> String {
        let connections = service.door.connections();
        let mut line = format!(
            "{} sessions, {} connections ({} not logged in)",
            service.live.list().len(),
            connections.proven + connections.unproven,
            connections.unproven
        );
        if !service.leases.cloud().stats().is_asked {
            line.push_str("; the cloud API does not answer");
        }
        if service.audit.health().is_failing {
            line.push_str("; the audit cannot be written");
        }
        if let Some(trouble) = &self.trouble {
            line.push_str("; ");
            // One line, of bounded length.
            line.extend(trouble.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }));
        }
        self.last.clone_from(&line);
        line
    }

    /// The line, when it is another one than the last.
    pub(super) fn changed(&mut self, service: &Service) -> Option<String> {
        let last = std::mem::take(&mut self.last);
        let line = self.line(service);
        (line != last).then_some(line)
    }
}
