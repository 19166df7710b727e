use std::fmt::Display;
use std::ops::RangeInclusive;

use config::{Map, Value, ValueKind};

use super::report::Report;

/// The origin that crate `config` gives to values of environment variables.
const ENVIRONMENT: &str = "the environment";

/// One table of the configuration, read key by key; every key is taken out, so what is left at [`Table::finish`] is unknown.
///
/// A value that is not what it should be goes into the report and reads as if it were not there, so that reading goes on.
pub(super) struct Table<'r> {
    path: String,
    values: Map<String, Value>,
    report: &'r mut Report,
}

impl<'r> Table<'r> {
    pub(super) fn root(values: Map<String, Value>, report: &'r mut Report) -> Self {
        Self { path: String::new(), values, report }
    }

    /// The full dotted path of a key in this table.
    pub(super) fn path_of(&self, key: &str) -> String {
        match self.path.as_str() {
            "" => key.to_owned(),
            path => format!("{path}.{key}"),
        }
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    /// The keys that are there, for a table whose keys are names.
    pub(super) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.values.keys().cloned().collect();
        names.sort();
        names
    }

    pub(super) fn error(&mut self, key: &str, text: impl Into<String>) {
        let path = self.path_of(key);
        self.report.error(&path, text);
    }

    pub(super) fn warn(&mut self, key: &str, text: impl Into<String>) {
        let path = self.path_of(key);
        self.report.warn(&path, text);
    }

    fn take(&mut self, key: &str) -> Option<Value> {
        self.report.note_known(self.path_of(key));
        self.values.remove(key)
    }

    fn settle<T>(&mut self, key: &str, read: Result<T, String>) -> Option<T> {
        read.map_err(|text| self.error(key, text)).ok()
    }

    /// A table in this one, empty when it is not there.
    pub(super) fn table(&mut self, key: &str) -> Table<'_> {
        let values = match self.take(key).map(|value| value.kind) {
            None => Map::new(),
            Some(ValueKind::Table(values)) => values,
            Some(other) => {
                self.error(key, format!("is {}: write a table, [{}]", kind_name(&other), self.path_of(key)));
                Map::new()
            }
        };
        Table { path: self.path_of(key), values, report: self.report }
    }

    /// An array of tables, each read by `read` and then finished.
    pub(super) fn tables<T>(&mut self, key: &str, mut read: impl FnMut(&mut Table<'_>) -> T) -> Vec<T> {
        let right = format!("write [[{key}]] tables in the file");
        let items = match self.take(key).map(|value| value.kind) {
            None => Vec::new(),
            Some(ValueKind::Array(items)) => items,
            Some(other) => {
                self.error(key, format!("is {}: {right}", kind_name(&other)));
                Vec::new()
            }
        };
        let mut all = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{}[{index}]", self.path_of(key));
            match item.kind {
                ValueKind::Table(values) => {
                    let mut table = Table { path, values, report: self.report };
                    all.push(read(&mut table));
                    table.finish();
                }
                other => self.report.error(&path, format!("is {}: {right}", kind_name(&other))),
            }
        }
        all
    }

    /// A string that `parse` understands; `right` says what to write (`a duration such as "20s"`).
    pub(super) fn text<T>(&mut self, key: &str, right: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let value = self.take(key)?;
        let read = text_of(&value, right).and_then(parse);
        self.settle(key, read)
    }

    pub(super) fn flag(&mut self, key: &str) -> Option<bool> {
        let value = self.take(key)?;
        let read = match &value.kind {
            ValueKind::Boolean(flag) => Ok(*flag),
            other => Err(format!("is {}: write true or false, without quotes", kind_name(other))),
        };
        self.settle(key, read)
    }

    pub(super) fn number<T>(&mut self, key: &str, range: RangeInclusive<T>) -> Option<T>
    where
        T: TryFrom<i64> + PartialOrd + Display,
    {
        let value = self.take(key)?;
        let read = number_of(&value, range);
        self.settle(key, read)
    }

    pub(super) fn boolean(&mut self, key: &str) -> Option<bool> {
        let value = self.take(key)?;
        let read = match (&value.kind, value.origin()) {
            (ValueKind::Boolean(boolean), _) => Ok(*boolean),
            (ValueKind::String(text), Some(ENVIRONMENT)) if text == "true" => Ok(true),
            (ValueKind::String(text), Some(ENVIRONMENT)) if text == "false" => Ok(false),
            (other, _) => Err(format!("is {}: write true or false, without quotes", kind_name(other))),
        };
        self.settle(key, read)
    }

    /// A list of strings (in the environment: separated by commas). Every bad one is reported under its index; with one, there is no list.
    pub(super) fn list<T>(&mut self, key: &str, right: &str, mut parse: impl FnMut(&str) -> Result<T, String>) -> Option<Vec<T>> {
        self.values_of(key, right, |value| text_of(value, right).and_then(&mut parse))
    }

    /// The same, or one such string by itself.
    pub(super) fn one_or_list<T>(&mut self, key: &str, right: &str, mut parse: impl FnMut(&str) -> Result<T, String>) -> Option<Vec<T>> {
        if let Some(Value { kind: ValueKind::String(text), .. }) = self.values.get(key) {
            let read = parse(text).map(|one| vec![one]);
            self.take(key);
            return self.settle(key, read);
        }
        self.list(key, right, parse)
    }

    /// A list whose entries `read` understands.
    pub(super) fn values_of<T>(&mut self, key: &str, right: &str, mut read: impl FnMut(&Value) -> Result<T, String>) -> Option<Vec<T>> {
        let value = self.take(key)?;
        let origin = value.origin().map(str::to_owned);
        let items = match value.kind {
            ValueKind::Array(items) => items,
            ValueKind::String(text) if origin.is_some() => comma_separated(&text).map(|item| Value::new(origin.as_ref(), item)).collect(),
            other => {
                self.error(key, format!("is {}: write a list, each entry {right}", kind_name(&other)));
                return None;
            }
        };
        let mut list = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            list.extend(self.settle(&format!("{key}[{index}]"), read(item)));
        }
        (list.len() == items.len()).then_some(list)
    }

    /// A table from names to values (in the environment: `name=value,name=value`, or a variable for each name). Every entry goes to
    /// `read`, and every bad one is reported under its name.
    pub(super) fn entries(&mut self, key: &str, right: &str, mut read: impl FnMut(&str, &Value) -> Result<(), String>) {
        let Some(value) = self.take(key) else { return };
        let origin = value.origin().map(str::to_owned);
        let mut entries: Vec<(String, Value)> = match value.kind {
            ValueKind::Table(entries) => entries.into_iter().collect(),
            ValueKind::String(text) if origin.is_some() => comma_separated(&text)
                .map(|item| {
                    let (name, value) = item.split_once('=').unwrap_or((item, ""));
                    (name.trim().to_owned(), Value::new(origin.as_ref(), value.trim()))
                })
                .collect(),
            other => {
                self.error(key, format!("is {}: write {right}", kind_name(&other)));
                return;
            }
        };
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        for (name, value) in &entries {
            self.settle(&format!("{key}.{name}"), read(name, value));
        }
    }

    /// Reports what nobody asked for.
    pub(super) fn finish(self) {
        for name in self.names() {
            self.report.note_unknown(self.path_of(&name));
        }
    }
}

pub(super) fn text_of<'v>(value: &'v Value, right: &str) -> Result<&'v str, String> {
    match &value.kind {
        ValueKind::String(text) => Ok(text),
        other => Err(format!("is {}: write {right}", kind_name(other))),
    }
}

/// A number of the file, or a text of the environment that is one.
pub(super) fn number_of<T>(value: &Value, range: RangeInclusive<T>) -> Result<T, String>
where
    T: TryFrom<i64> + PartialOrd + Display,
{
    let right = format!("write a whole number from {} to {}", range.start(), range.end());
    let number = match &value.kind {
        ValueKind::I64(number) => *number,
        ValueKind::String(text) if value.origin() == Some(ENVIRONMENT) => {
            text.trim().parse().map_err(|_| format!("{text:?} is not a number: {right}"))?
        }
        other => return Err(format!("is {}: {right}, without quotes", kind_name(other))),
    };
    T::try_from(number).ok().filter(|number| range.contains(number)).ok_or_else(|| format!("{number} is out of range: {right}"))
}

fn comma_separated(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty())
}

fn kind_name(kind: &ValueKind) -> &'static str {
    match kind {
        ValueKind::Nil => "empty",
        ValueKind::Boolean(_) => "a boolean",
        ValueKind::I64(_) | ValueKind::I128(_) | ValueKind::U64(_) | ValueKind::U128(_) => "a number",
        ValueKind::Float(_) => "a fraction",
        ValueKind::String(_) => "a string",
        ValueKind::Table(_) => "a table",
        ValueKind::Array(_) => "a list",
    }
}
