use std::num::NonZeroU16;

use crate::access::{FleetAliases, InstanceId, Reference, TargetName, TargetPattern};
use crate::client_config::BrokerHost;
use crate::door::CommandLine;

/// Words of one command at the most.
const MAX_WORDS: usize = 16;

/// What can be said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Greeting,
    Help,
    List(Option<TargetPattern>),
    WhoAmI,
    Why(TargetName),
    Doctor(TargetName),
    SshConfig { host: Option<BrokerHost>, port: Option<NonZeroU16> },
    Sessions,
    Kill(Reference),
    Reload,
    ForgetHost(InstanceId),
}

/// A word with what may follow it, as the help shows it.
pub(super) struct Entry {
    pub(super) word: &'static str,
    pub(super) arguments: &'static str,
    pub(super) does: &'static str,
    pub(super) for_administrators: bool,
}

pub(super) const ENTRIES: [Entry; 10] = [
    entry("ls", "[GLOB]", "the instances that you may reach, from the cloud API"),
    entry("whoami", "", "who you are here: key, groups, restrictions, grants"),
    entry("why", "INSTANCE", "whether you may reach it, step by step"),
    entry("doctor", "INSTANCE", "goes the whole way to it without a session, each phase timed"),
    entry("ssh-config", "[HOST [PORT]]", "what to paste into ~/.ssh/config and ~/.ssh/known_hosts"),
    entry("help", "", "what can be said here"),
    Entry { for_administrators: true, ..entry("sessions", "", "the sessions that run now") },
    Entry { for_administrators: true, ..entry("kill", "REF", "ends one of them, with a sentence") },
    Entry { for_administrators: true, ..entry("reload", "", "reads the configuration anew") },
    Entry { for_administrators: true, ..entry("forget-host", "INSTANCE", "forgets its host key: the next one is pinned") },
];

const fn entry(word: &'static str, arguments: &'static str, does: &'static str) -> Entry {
    Entry { word, arguments, does, for_administrators: false }
}

impl Command {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Greeting | Self::Help => "help",
            Self::List(_) => "ls",
            Self::WhoAmI => "whoami",
            Self::Why(_) => "why",
            Self::Doctor(_) => "doctor",
            Self::SshConfig { .. } => "ssh-config",
            Self::Sessions => "sessions",
            Self::Kill(_) => "kill",
            Self::Reload => "reload",
            Self::ForgetHost(_) => "forget-host",
        }
    }

    pub(super) fn is_for_administrators(&self) -> bool {
        ENTRIES.iter().any(|entry| entry.word == self.word() && entry.for_administrators)
    }
}

/// Why words are no command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Usage {
    /// No such word: the help is what follows.
    Unknown(String),
    /// The word is right, what follows it is not.
    Arguments(String),
}

impl Usage {
    pub(super) fn sentence(&self) -> &str {
        match self {
            Self::Unknown(sentence) | Self::Arguments(sentence) => sentence,
        }
    }

    pub(super) fn wants_help(&self) -> bool {
        matches!(self, Self::Unknown(_))
    }
}

/// Words that were read.
#[derive(Debug)]
pub(super) struct Spoken {
    pub(super) command: Result<Command, Usage>,
    pub(super) json: bool,
}

/// Reads what a client sent as its command. There is no shell: words are separated by blanks, and quotes keep blanks in a word.
pub(super) fn read(bytes: &[u8], aliases: &FleetAliases) -> Spoken {
    let unusable = |sentence: String| Spoken { command: Err(Usage::Arguments(sentence)), json: false };
    if bytes.len() > CommandLine::MAX_LEN {
        return unusable(format!("the command is too long: {} bytes at the most", CommandLine::MAX_LEN));
    }
    let Ok(text) = std::str::from_utf8(bytes) else { return unusable("the command is not UTF-8".to_owned()) };
    let mut words = match split(text) {
        Ok(words) => words,
        Err(sentence) => return unusable(sentence.to_owned()),
    };
    let before = words.len();
    words.retain(|word| word != "--json");
    let json = words.len() < before;
    if words.len() > MAX_WORDS {
        return Spoken { json, ..unusable(format!("too many words: {MAX_WORDS} at the most")) };
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    Spoken { command: parse(&words, aliases), json }
}

fn split(text: &str) -> Result<Vec<String>, &'static str> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in text.chars() {
        match (c, quote) {
            (c, Some(open)) if c == open => quote = None,
            (c, Some(_)) => word.get_or_insert_default().push(c),
            ('\'' | '"', None) => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (c, None) if c.is_whitespace() => words.extend(word.take()),
            (c, None) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    match quote {
        None => Ok(words),
        Some(_) => Err("a quote is not closed"),
    }
}

fn parse(words: &[&str], aliases: &FleetAliases) -> Result<Command, Usage> {
    let Some((word, arguments)) = words.split_first() else { return Ok(Command::Greeting) };
    let instance = |text: &str| TargetName::parse(text, aliases).map_err(|invalid| wrong(text, &invalid.to_string()));
    match (*word, arguments) {
        ("help" | "--help" | "-h" | "?", _) => Ok(Command::Help),
        ("ls", []) => Ok(Command::List(None)),
        ("ls", [glob]) => {
            let pattern = TargetPattern::parse(&glob.to_ascii_lowercase()).map_err(|invalid| Usage::Arguments(invalid.to_string()))?;
            Ok(Command::List(Some(pattern)))
        }
        ("whoami", []) => Ok(Command::WhoAmI),
        ("why", [name]) => instance(name).map(Command::Why),
        ("doctor", [name]) => instance(name).map(Command::Doctor),
        ("ssh-config", []) => Ok(Command::SshConfig { host: None, port: None }),
        ("ssh-config", [host]) => Ok(Command::SshConfig { host: Some(broker_host(host)?), port: None }),
        ("ssh-config", [host, port]) => {
            let port = port.parse().map_err(|_| wrong(port, "is not a port: write a number from 1 to 65535"))?;
            Ok(Command::SshConfig { host: Some(broker_host(host)?), port: Some(port) })
        }
        ("sessions", []) => Ok(Command::Sessions),
        ("kill", [reference]) => reference_of(reference).map(Command::Kill),
        ("reload", []) => Ok(Command::Reload),
        ("forget-host", [name]) => {
            let name = instance(name)?;
            match name.fleet {
                None => Ok(Command::ForgetHost(name.instance)),
                Some(_) => Err(Usage::Arguments(format!("host keys are pinned by instance alone: write {}", name.instance))),
            }
        }
        _ => Err(misused(word)),
    }
}

fn wrong(text: &str, why: &str) -> Usage {
    let shown: String = text.chars().take(80).collect();
    Usage::Arguments(format!("{shown:?}: {why}"))
}

fn broker_host(text: &str) -> Result<BrokerHost, Usage> {
    BrokerHost::parse(text).map_err(|invalid| Usage::Arguments(invalid.to_string()))
}

fn reference_of(text: &str) -> Result<Reference, Usage> {
    let is_reference = text.len() == 6 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let digits = u32::from_str_radix(text, 16).ok().filter(|_| is_reference);
    digits.map(Reference::from_random).ok_or_else(|| wrong(text, "is not a reference: six hexadecimal digits, as `sessions` shows them"))
}

/// A word with other arguments than it takes, or no word of ours.
fn misused(word: &str) -> Usage {
    if let Some(Entry { word, arguments, .. }) = ENTRIES.iter().find(|entry| entry.word == word) {
        return Usage::Arguments(format!("usage: {}", format!("{word} {arguments} [--json]").replace("  ", " ")));
    }
    let shown: String = word.chars().take(40).collect();
    let near = ENTRIES.iter().map(|entry| (strsim::damerau_levenshtein(&shown, entry.word), entry.word)).min();
    Usage::Unknown(match near {
        Some((distance, near)) if distance <= 2 => format!("{shown:?} is not a command: did you mean {near}?"),
        _ => format!("{shown:?} is not a command"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(text: &str) -> Result<Command, Usage> {
        read(text.as_bytes(), &FleetAliases::default()).command
    }

    #[test]
    fn words_are_split_at_blanks_outside_quotes() {
        assert_eq!(split("  ls  'ins-a b'\"c\" '' ").unwrap(), ["ls", "ins-a bc", ""]);
        assert!(split("ls 'ins").is_err());
        assert_eq!(command(" \n"), Ok(Command::Greeting));
        assert_eq!(command("ls 'INS-*'"), Ok(Command::List(Some(TargetPattern::parse("ins-*").unwrap()))));
        let spoken = read(b"--json kill 7F3a9c", &FleetAliases::default());
        assert_eq!((spoken.json, spoken.command), (true, Ok(Command::Kill(Reference::from_random(0x7f3a9c)))));
    }

    #[test]
    fn wrong_arguments_get_a_sentence_and_other_words_the_help() {
        for (text, expected) in [
            ("why", "usage: why INSTANCE [--json]"),
            ("whoami alice", "usage: whoami [--json]"),
            ("why 10.0.0.1", "not a target name"),
            ("kill 12345", "six hexadecimal digits"),
            ("kill +12345", "six hexadecimal digits"),
            ("ls INS_A", "is not a glob"),
            ("ssh-config a 0", "is not a port"),
            ("ssh-config a;b", "neither a host name"),
            ("forget-host ins-a.fleet-b", "write ins-a"),
            ("ls 'a", "a quote is not closed"),
        ] {
            match command(text) {
                Err(Usage::Arguments(sentence)) => assert!(sentence.contains(expected), "{text}: {sentence}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        for (text, expected) in [("lss", "did you mean ls?"), ("scp -t /tmp", "\"scp\" is not a command"), ("\u{1b}[2J", "\\u{1b}[2J")] {
            match command(text) {
                Err(Usage::Unknown(sentence)) => assert!(sentence.contains(expected), "{text}: {sentence}"),
                other => panic!("{text}: {other:?}"),
            }
        }
        let long = "x".repeat(CommandLine::MAX_LEN + 1);
        assert!(command(&long).unwrap_err().sentence().contains("too long"));
        assert!(command(&"x ".repeat(100)).unwrap_err().sentence().contains("too many words"));
        assert!(read(b"\xff", &FleetAliases::default()).command.unwrap_err().sentence().contains("UTF-8"));
    }

    #[test]
    fn every_entry_is_a_command_and_says_whom_it_is_for() {
        for entry in &ENTRIES {
            let arguments = match entry.arguments {
                "INSTANCE" => "ins-a",
                "REF" => "7f3a9c",
                _ => "",
            };
            let command = command(&format!("{} {arguments}", entry.word)).unwrap();
            assert_eq!((command.word(), command.is_for_administrators()), (entry.word, entry.for_administrators));
        }
    }
}
