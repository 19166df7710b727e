use serde::Serialize;

use super::Asked;
use super::answer::{Answer, Exit, Report};
use super::help;
use super::whoami::{GrantShown, grant_lines, grants};

#[derive(Serialize)]
struct Greeting<'a> {
    operator: &'a str,
    grants: Vec<GrantShown>,
    #[serde(skip)]
    administrator: bool,
}

impl Report for Greeting<'_> {
    fn page(&self) -> String {
        let mut page = format!("Hello {}. This is ssh-broker: it gives no shell of its own, it takes you to instances.\n\n", self.operator);
        match self.grants.is_empty() {
            true => page.push_str("You may reach none yet: no grant is for you. Ask this broker's administrators.\n"),
            false => {
                page.push_str("You may reach:\n");
                page.push_str(&grant_lines(&self.grants, "  "));
                page.push_str("\nOnto an instance (with `ssh broker ssh-config` pasted, plain `ssh ins-…` does the same):\n");
                page.push_str("  ssh -J broker ins-…\n");
            }
        }
        page.push_str("\nMore:\n");
        page + &help::page(self.administrator)
    }
}

/// For who asks for no command: there is no shell here.
pub(super) fn greeting(asked: &Asked) -> Answer {
    let report = Greeting { operator: asked.operator.name.as_str(), grants: grants(asked), administrator: asked.administrator };
    Answer::of(&report, Exit::Done)
}
