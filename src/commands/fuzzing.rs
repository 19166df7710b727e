//! Fuzz target of the words; see [`crate::fuzzing`].

use super::answer::{Answer, Exit};
use super::words::{self, Spoken};
use crate::access::{FleetAliases, FleetId};

/// A command as a client sends it: whatever it is, a refusal is told in bytes that no terminal obeys, and in JSON that can be read.
pub fn command_words(data: &[u8]) {
    let mut aliases = FleetAliases::default();
    assert!(FleetId::parse("fleet-lab-1").is_ok_and(|fleet| aliases.insert("prod", fleet).is_ok()));
    let Spoken { command, .. } = words::read(data, &aliases);
    let answer = || match &command {
        Ok(command) => Answer::forbidden(command.word()),
        Err(usage) => Answer::usage(usage, true),
    };
    assert!(matches!(answer().exit, Exit::Forbidden | Exit::Usage));
    let (page, json) = (answer().said(false), answer().said(true));
    assert!(page.out.is_empty() && page.err.chars().all(|c| c == '\n' || !c.is_control()));
    assert!(json.err.is_empty() && json.out.bytes().all(|b| b == b'\n' || (b' '..=b'~').contains(&b)));
    assert!(serde_json::from_str::<serde_json::Value>(&json.out).is_ok_and(|value| value.get("error").is_some()));
    // What was understood is understood again in other spacing.
    if let (Ok(command), Ok(text)) = (&command, std::str::from_utf8(data))
        && data.len() < 1000
    {
        assert!(words::read(format!(" \t{text}\n --json ").as_bytes(), &aliases).command.as_ref() == Ok(command));
    }
}
