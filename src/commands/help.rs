use serde_json::{Value, json};

use super::answer::{Answer, Exit, Report};
use super::table::Table;
use super::words::{ENTRIES, Entry};

fn entries(administrator: bool) -> impl Iterator<Item = &'static Entry> {
    ENTRIES.iter().filter(move |entry| administrator || !entry.for_administrators)
}

/// As it is shown to this operator.
pub(super) fn page(administrator: bool) -> String {
    let section = |title: &str, for_administrators: bool| {
        let mut table = Table::bare();
        for entry in entries(administrator).filter(|entry| entry.for_administrators == for_administrators) {
            table.row([format!("{} {}", entry.word, entry.arguments), entry.does.to_owned()]);
        }
        format!("{title}\n{}", table.lines("  "))
    };
    let mut page = section("ssh broker COMMAND [--json]", false);
    if administrator {
        page.push_str(&section("For administrators:", true));
    }
    page
}

#[derive(serde::Serialize)]
struct Help {
    commands: Vec<Value>,
    #[serde(skip)]
    administrator: bool,
}

impl Report for Help {
    fn page(&self) -> String {
        page(self.administrator)
    }
}

pub(super) fn help(administrator: bool) -> Answer {
    let shown = |entry: &Entry| json!({"word": entry.word, "arguments": entry.arguments, "does": entry.does});
    Answer::of(&Help { commands: entries(administrator).map(shown).collect(), administrator }, Exit::Done)
}
