use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One thing that is wrong: where it is written, which key, what is wrong and what would be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The configuration file, or the environment variable that set the key.
    pub place: String,
    /// The full dotted path, with an index in lists: `grants[1].targets[0]`. Empty when it is about the whole place.
    pub key: String,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.place, self.text),
            key => write!(f, "{}: {key}: {}", self.place, self.text),
        }
    }
}

/// Everything that was found. Errors keep the daemon from starting, warnings do not.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    pub errors: Vec<Problem>,
    pub warnings: Vec<Problem>,
}

/// Collects the findings while the settings are read and checked.
#[derive(Debug)]
pub(super) struct Report {
    file: String,
    /// The dotted path that each environment variable sets, and the variable's name.
    variables: BTreeMap<String, String>,
    /// Every key that was looked for: the only list of known keys there is.
    known: BTreeSet<String>,
    unknown: Vec<String>,
    findings: Findings,
}

impl Report {
    pub(super) fn new(file: String) -> Self {
        Self { file, variables: BTreeMap::new(), known: BTreeSet::new(), unknown: Vec::new(), findings: Findings::default() }
    }

    pub(super) fn into_findings(self) -> Findings {
        self.findings
    }

    /// Every key that was looked for.
    #[cfg(test)]
    pub(super) fn known(&self) -> &BTreeSet<String> {
        &self.known
    }

    pub(super) fn set_variables(&mut self, variables: BTreeMap<String, String>) {
        self.variables = variables;
    }

    pub(super) fn error(&mut self, key: &str, text: impl Into<String>) {
        let problem = self.problem(key, text.into());
        self.findings.errors.push(problem);
    }

    pub(super) fn warn(&mut self, key: &str, text: impl Into<String>) {
        let problem = self.problem(key, text.into());
        self.findings.warnings.push(problem);
    }

    /// For what is wrong with an environment variable itself.
    pub(super) fn variable_error(&mut self, variable: &str, text: impl Into<String>) {
        self.findings.errors.push(Problem { place: variable.to_owned(), key: String::new(), text: text.into() });
    }

    pub(super) fn note_known(&mut self, key: String) {
        self.known.insert(key);
    }

    pub(super) fn note_unknown(&mut self, key: String) {
        self.unknown.push(key);
    }

    /// Turns the keys that nobody looked for into errors: only when all tables are read is it known what each could have meant.
    pub(super) fn settle_unknown(&mut self) {
        for key in std::mem::take(&mut self.unknown) {
            let text = match self.suggestion(&key) {
                Some(nearest) => format!("unknown key: did you mean {nearest}?"),
                None => format!("unknown key: {}", self.siblings(&key)),
            };
            self.error(&key, text);
        }
    }

    fn suggestion(&self, key: &str) -> Option<&str> {
        let (table, name) = split(key);
        let far = (name.len() / 3).max(2);
        let near = |candidate: &&String| {
            let (its_table, its_name) = split(candidate);
            let distance = strsim::damerau_levenshtein(name, its_name);
            match its_table == table {
                true if distance <= far => Some(distance),
                // The right key in the wrong table.
                false if distance == 0 => Some(usize::MAX),
                _ => None,
            }
        };
        let best = self.known.iter().filter_map(|candidate| near(&candidate).map(|distance| (distance, candidate)));
        best.min().map(|(_, candidate)| candidate.as_str())
    }

    fn siblings(&self, key: &str) -> String {
        let (table, _) = split(key);
        let names: Vec<_> = self.known.iter().filter(|known| split(known).0 == table).map(|known| split(known).1).collect();
        format!("here can stand {}", names.join(", "))
    }

    fn problem(&self, key: &str, text: String) -> Problem {
        Problem { place: self.place(key).to_owned(), key: key.to_owned(), text }
    }

    /// The variable that set the key, something in it, or the table or map around it; else the file.
    fn place(&self, key: &str) -> &str {
        let base = key.split('[').next().unwrap_or(key);
        let within = |outer: &str, inner: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        let set_it = |path: &&String| within(base, path) || within(path, base);
        self.variables.keys().find(set_it).and_then(|path| self.variables.get(path)).unwrap_or(&self.file)
    }
}

/// `grants[0].allow` → (`grants[0]`, `allow`).
fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}
