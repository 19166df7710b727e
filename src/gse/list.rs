//! `DescribeInstances` page by page: what instances there are.

use std::sync::Arc;

use super::answer;
use super::client::Client;
use super::errors::Class;
use super::problem::Problem;
use super::resolve::Way;
use super::wire::{Action, Question};
use crate::access::{Code, Failure, FleetId};
use crate::broker::{Asker, BoxFuture, Catalogue, Listing, Scopes};

/// Instances in one answer. The API gives up to 100, but an answer may be of 64 KiB only, and nothing bounds what it says of an instance.
const PAGE: usize = 50;
/// Pages of one listing: half a minute's quota at 20 a second would be 600.
const MAX_PAGES: usize = 200;

impl Client {
    async fn listing_scopes(&self, asker: &Asker) -> Result<Scopes, Failure> {
        let way = match self.ways.known() {
            Some(way) => way,
            None => self.learn_way(asker).await.map_err(Problem::into_failure)?,
        };
        match way {
            Way::EveryFleet => Ok(Scopes::Whole),
            Way::FleetByFleet if self.fleets.is_empty() => self.list_fleets(asker).await.map(Scopes::Fleets).map_err(Problem::into_failure),
            Way::FleetByFleet => Ok(Scopes::Fleets(self.fleets.clone())),
            Way::AccessOnly => Err(Failure::new(
                Code::ApiOffline,
                "the cloud API of this site cannot list instances; name the one you want: ins-….fleet-…",
            )),
        }
    }

    /// Asks for one instance of any fleet, to see whether that may be asked.
    async fn learn_way(&self, asker: &Asker) -> Result<Way, Problem> {
        let question = Question { limit: Some(1), ..Question::default() };
        let way = match self.ask(Action::DescribeInstances, &question, asker).await {
            Ok(_) => Way::EveryFleet,
            Err(problem) => Way::instead(&problem).ok_or(problem)?,
        };
        self.ways.learn(way);
        Ok(way)
    }

    async fn all_pages(&self, fleet: Option<&FleetId>, asker: &Asker) -> Result<Listing, Problem> {
        let mut listing = Listing::default();
        for page in 0..MAX_PAGES {
            let question =
                Question { fleet: fleet.map(FleetId::as_str), offset: Some(page * PAGE), limit: Some(PAGE), ..Question::default() };
            let reply = match self.ask(Action::DescribeInstances, &question, asker).await {
                Ok(reply) => reply,
                // An empty fleet; or the last page went while it was turned.
                Err(problem) if problem.api_class() == Some(Class::NotFound) => return Ok(listing),
                Err(problem) => return Err(problem),
            };
            let (instances, on_page) = answer::listed(reply, fleet, PAGE);
            listing.instances.extend(instances);
            if on_page < PAGE {
                return Ok(listing);
            }
        }
        listing.cut = true;
        Ok(listing)
    }
}

impl Catalogue for Client {
    fn scopes<'a>(&'a self, asker: &'a Asker) -> BoxFuture<'a, Result<Scopes, Failure>> {
        Box::pin(self.listing_scopes(asker))
    }

    /// Sorted, each instance once: pages shift when instances come and go meanwhile.
    fn list<'a>(&'a self, fleet: Option<&'a FleetId>, asker: &'a Asker) -> BoxFuture<'a, Result<Arc<Listing>, Failure>> {
        Box::pin(async move {
            let mut listing = self.all_pages(fleet, asker).await.map_err(Problem::into_failure)?;
            listing.instances.sort_by(|a, b| (&a.target.instance, &a.target.fleet).cmp(&(&b.target.instance, &b.target.fleet)));
            listing.instances.dedup_by(|a, b| a.target == b.target);
            Ok(Arc::new(listing))
        })
    }
}
