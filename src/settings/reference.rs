//! The settings as a list, read from `config/broker.toml`, which a test holds against the code: the manual page is made of it, and the
//! README's table is checked against it.

const SHIPPED: &str = include_str!("../../config/broker.toml");

/// One table of the configuration, or what stands before the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// As the file spells it: `[gse]`, `[[grants]]`; empty for what stands before the first.
    pub table: &'static str,
    /// What it is about: the heading above it.
    pub title: &'static str,
    /// Paragraphs that belong to no key.
    pub notes: Vec<String>,
    pub settings: Vec<Setting>,
}

/// Keys that share a comment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setting {
    pub keys: Vec<Key>,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    /// As TOML.
    pub value: &'static str,
    /// Whether the value is the default, as against an example.
    pub is_default: bool,
}

impl Section {
    fn new(table: &'static str, title: &'static str) -> Self {
        Self { table, title, notes: Vec::new(), settings: Vec::new() }
    }

    /// The full name of one of its keys, as `gse.region`.
    pub fn path_of(&self, key: &str) -> String {
        match self.table.trim_matches(['[', ']']) {
            "" => key.to_owned(),
            table => format!("{table}.{key}"),
        }
    }
}

/// The file, table by table.
pub fn reference() -> Vec<Section> {
    let mut sections = vec![Section::new("", "The broker itself")];
    let mut title = "";
    let mut open = Setting::default();
    for line in SHIPPED.lines() {
        if let Some(heading) = line.strip_prefix("# ---- ") {
            title = heading.trim_end_matches(" ----");
        } else if line.starts_with('[') {
            if sections.last().is_none_or(|section| section.table != line) {
                sections.push(Section::new(line, title));
            }
        } else if let Some(key) = key(line) {
            open.keys.push(key);
            continue;
        } else if let Some(text) = line.strip_prefix('#') {
            // A comment after keys begins another setting.
            if !open.keys.is_empty() {
                close(&mut sections, &mut open);
            }
            add(&mut open.text, text);
            continue;
        }
        close(&mut sections, &mut open);
    }
    close(&mut sections, &mut open);
    sections
}

/// Adds a line of a comment; one that is empty, begins with a word and a colon, or ends with a colon begins a
/// paragraph.
fn add(text: &mut String, line: &str) {
    let mut words = line.split_whitespace();
    let Some(first) = words.next() else { return text.push('\n') };
    let labelled = first.strip_suffix(':').is_some_and(|label| label.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_'));
    if !text.is_empty() && !text.ends_with('\n') {
        text.push(if labelled || line.ends_with(':') { '\n' } else { ' ' });
    }
    text.push_str(first);
    for word in words {
        text.push(' ');
        text.push_str(word);
    }
}

/// `key = value`, with `#` or `#   ` before it when it is off: then the value is the default or an example.
fn key(line: &'static str) -> Option<Key> {
    let (rest, is_default) = match (line.strip_prefix("#   "), line.strip_prefix('#')) {
        (Some(example), _) => (example, false),
        (None, Some(default)) => (default, true),
        (None, None) => (line, false),
    };
    let (name, value) = rest.split_once(" = ")?;
    let is_key = !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    is_key.then_some(Key { name, value, is_default })
}

fn close(sections: &mut [Section], open: &mut Setting) {
    let Setting { keys, text } = std::mem::take(open);
    let Some(section) = sections.last_mut() else { return };
    match keys.is_empty() {
        true if text.is_empty() => {}
        true => section.notes.extend(text.split('\n').map(|note| note.trim().to_owned()).filter(|note| !note.is_empty())),
        false => section.settings.push(Setting { keys, text: text.replace('\n', " ") }),
    }
}
