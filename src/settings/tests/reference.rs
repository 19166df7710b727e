//! The list of the settings, and what is made or checked by it.

use crate::settings::{Section, reference};

const README: &str = include_str!("../../../README.md");

/// `| key | default | …` of the table in which the settings stand: the cells without their bars.
fn rows() -> Vec<Vec<&'static str>> {
    let table = README.split("\n| key | default | is |\n").nth(1).unwrap();
    let lines = table.lines().skip(1).take_while(|line| line.starts_with('|'));
    lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect()).collect()
}

fn words(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

/// The full names in a row's first cell: a table's name is said once.
fn named(cell: &str) -> Vec<String> {
    let words = words(cell);
    let table = words.first().and_then(|first| first.rsplit_once('.')).map(|(table, _)| table);
    if let Some((&"[[grants]]", keys)) = words.split_first() {
        return keys.iter().map(|key| format!("[[grants]].{key}")).collect();
    }
    let full = |word: &str| match (word.contains('.'), table) {
        (false, Some(table)) => format!("{table}.{word}"),
        _ => word.to_owned(),
    };
    words.iter().map(|word| full(word)).collect()
}

fn keys() -> Vec<(String, Option<&'static str>)> {
    let of = |section: Section| {
        let path = |name: &str| section.path_of(name);
        let keys = section.settings.iter().flat_map(|setting| &setting.keys);
        keys.map(|key| (path(key.name), key.is_default.then_some(key.value))).collect::<Vec<_>>()
    };
    reference().into_iter().filter(|section| section.table != "[[grants]]").flat_map(of).collect()
}

#[test]
fn the_list_has_every_table_with_what_is_said_of_each_key() {
    let sections = reference();
    let tables: Vec<&str> = sections.iter().map(|section| section.table).collect();
    assert!(tables.starts_with(&["", "[listen]", "[operators]", "[[grants]]", "[gse]"]), "{tables:?}");
    for section in &sections {
        assert!(!section.title.is_empty() && !section.settings.is_empty(), "{section:?}");
        if section.table != "[[grants]]" {
            assert!(section.settings.iter().all(|setting| !setting.text.is_empty()), "{section:#?}");
        }
    }
    let keys = keys();
    assert!(keys.contains(&("state_dir".to_owned(), Some("\"/var/lib/ssh-broker\""))));
    assert!(keys.contains(&("operators.trusted_user_ca".to_owned(), None)));
    assert!(keys.len() > 30, "{keys:?}");
}

#[test]
fn the_readme_names_every_setting_and_shows_its_default() {
    let rows = rows();
    for (key, default) in keys() {
        let (table, _) = key.rsplit_once('.').unwrap_or_default();
        let row = rows.iter().find(|row| named(row[0]).iter().any(|named| *named == key || *named == format!("{table}.*")));
        let Some(row) = row else { panic!("the README's table does not name {key}") };
        let position = named(row[0]).iter().position(|named| *named == key);
        // A default that is empty, or one that the file alone shows, has no words.
        let shown = words(row[1]);
        if let (Some(default), Some(position)) = (default, position)
            && !matches!(default, "[]" | "{}")
            && !shown.is_empty()
        {
            let shown = if named(row[0]).len() == shown.len() { shown[position] } else { shown[0] };
            assert_eq!(shown.trim_matches('"'), default.trim_matches('"'), "the README's default of {key}");
        }
    }
    for named in rows.iter().flat_map(|row| named(row[0])) {
        let known = named.starts_with("[[grants]]") || named.ends_with(".*") || keys().iter().any(|(key, _)| *key == named);
        assert!(known, "the README's table has {named}, which is no setting");
    }
}
