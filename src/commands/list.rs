use std::time::SystemTime;

use serde::Serialize;

use super::Asked;
use super::answer::{Answer, Exit, Report};
use super::plain::plain;
use super::table::Table;
use crate::access::{Code, Failure, FleetId, Grant, TargetPattern};
use crate::broker::{Asker, Catalogue, Listed, Listing, Scopes};

/// Instances in one answer.
const MAX_ROWS: usize = 10_000;

#[derive(Serialize)]
struct Row {
    instance: String,
    fleet: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    alias: Option<String>,
    status: String,
    operating_system: String,
    allow: Vec<&'static str>,
}

#[derive(Serialize)]
struct List {
    instances: Vec<Row>,
    /// Whether this is all there is.
    complete: bool,
    /// What is missing, and why.
    notes: Vec<String>,
}

impl Report for List {
    fn page(&self) -> String {
        let mut page = String::new();
        if !self.instances.is_empty() {
            let mut table = Table::new(&["INSTANCE", "FLEET", "STATUS", "SYSTEM"]);
            for Row { instance, fleet, alias, status, operating_system, .. } in &self.instances {
                let fleet = alias.as_ref().map_or_else(|| fleet.clone(), |alias| format!("{fleet} ({alias})"));
                table.row([instance.clone(), fleet, plain(status), plain(operating_system)]);
            }
            page.push_str(&table.lines(""));
        } else {
            page.push_str("no instance that you may reach matches\n");
        }
        for note in &self.notes {
            page.push_str(&format!("note: {note}\n"));
        }
        page
    }
}

/// The instances that policy grants to the operator and the pattern takes.
pub(super) async fn list(catalogue: &dyn Catalogue, pattern: Option<TargetPattern>, asked: &Asked) -> Answer {
    let asker = asked.asker();
    match asked.in_time(&asker, gather(catalogue, pattern.as_ref(), asked, &asker)).await {
        Ok(list) => {
            let exit = if list.instances.is_empty() { Exit::No } else { Exit::Done };
            Answer::of(&list, exit)
        }
        Err(failure) => asked.failed("ls", &failure),
    }
}

async fn gather(catalogue: &dyn Catalogue, pattern: Option<&TargetPattern>, asked: &Asked, asker: &Asker) -> Result<List, Failure> {
    let mut list = List { instances: Vec::new(), complete: true, notes: Vec::new() };
    // Who may reach nothing costs no quota.
    if asked.policy.grants_of(&asked.operator.name).next().is_none() {
        return Ok(list);
    }
    match catalogue.scopes(asker).await? {
        Scopes::Whole => list.take(&*catalogue.list(None, asker).await?, pattern, asked),
        Scopes::Fleets(fleets) => {
            let mut failed = None;
            let mut listed = false;
            for fleet in fleets.iter().filter(|fleet| asked.policy.could_reach_in(&asked.operator.name, fleet)) {
                match catalogue.list(Some(fleet), asker).await {
                    Ok(listing) => {
                        listed = true;
                        list.take(&listing, pattern, asked);
                    }
                    // The API key may not look into this one; into others it may.
                    Err(failure) if failure.code == Code::ApiDenied => {
                        list.lack(format!("{fleet} cannot be listed [{}]", failure.code.as_str()));
                        failed = Some(failure);
                    }
                    Err(failure) => return Err(failure),
                }
            }
            if let Some(failure) = failed.filter(|_| !listed) {
                return Err(failure);
            }
        }
    }
    list.instances.sort_by(|a, b| (&a.instance, &a.fleet).cmp(&(&b.instance, &b.fleet)));
    Ok(list)
}

impl List {
    fn lack(&mut self, note: String) {
        self.complete = false;
        self.notes.push(note);
    }

    fn take(&mut self, listing: &Listing, pattern: Option<&TargetPattern>, asked: &Asked) {
        let wanted = |listed: &&Listed| pattern.is_none_or(|pattern| pattern.takes(&listed.target));
        let now = SystemTime::now();
        let granted = |listed: &Listed| {
            let grant = asked.policy.decide(&asked.operator, &listed.target, now).ok()?;
            Some(row(listed, &grant, asked))
        };
        let room = MAX_ROWS.saturating_sub(self.instances.len());
        let mut rows: Vec<Row> = listing.instances.iter().filter(wanted).filter_map(granted).take(room + 1).collect();
        let full = rows.len() > room;
        rows.truncate(room);
        self.instances.append(&mut rows);
        if full || listing.cut {
            self.lack(format!("there are more; a listing has at most {MAX_ROWS}"));
        }
    }
}

fn row(listed: &Listed, grant: &Grant, asked: &Asked) -> Row {
    let alias_of = |fleet: &FleetId| asked.aliases.iter().find(|(_, known)| *known == fleet).map(|(alias, _)| alias.to_owned());
    Row {
        instance: listed.target.instance.to_string(),
        fleet: listed.target.fleet.to_string(),
        alias: alias_of(&listed.target.fleet),
        status: listed.status.clone(),
        operating_system: listed.operating_system.clone(),
        allow: grant.capabilities().names(),
    }
}
