//! Dependencies point one way: each module may use those listed for it and no others.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on must stop")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Module → what it may use, inner layers first.
const LAYERS: &[(&str, &[&str])] = &[
    ("access", &[]),
    ("broker", &["access"]),
    ("gather", &[]),
    ("quick_ack", &["gather"]),
    ("turns", &[]),
    ("tasks", &[]),
    ("transport", &["access"]),
    ("pins", &["access"]),
    ("keys", &[]),
    ("audit", &["access"]),
    ("gse", &["broker", "access"]),
    ("cache", &["broker", "access"]),
    ("recording", &["audit", "access"]),
    ("splice", &["transport", "recording", "audit", "turns", "tasks", "access"]),
    ("upstream", &["transport", "pins", "quick_ack", "broker", "access"]),
    ("door", &["transport", "audit", "quick_ack", "turns", "tasks", "broker", "access"]),
    ("session", &["door", "splice", "recording", "upstream", "transport", "audit", "quick_ack", "tasks", "broker", "access"]),
    ("commands", &["session", "door", "client_config", "keys", "pins", "audit", "broker", "access"]),
    ("settings", &["door", "gse", "cache", "upstream", "recording", "audit", "keys", "access"]),
    ("client_config", &["keys", "access"]),
    (
        "service",
        &["settings", "commands", "session", "recording", "door", "gse", "cache", "upstream", "pins", "keys", "audit", "broker", "access"],
    ),
    ("manual", &["settings", "commands"]),
    ("demo", &["service", "settings", "keys", "audit", "access"]),
];

/// Libraries that only some modules may name.
const LIBRARIES: &[(&str, &[&str])] = &[
    // The demo's simulated instance and client, which face loopback.
    ("russh", &["demo"]),
    // The settings read the endpoint with its `Url`.
    ("reqwest", &["gse", "settings"]),
    ("moka", &["cache"]),
    ("config", &["settings"]),
    ("metrics", &["service"]),
    ("metrics_exporter_prometheus", &["service"]),
    ("sd_notify", &["service"]),
    ("listenfd", &["service"]),
    ("clap", &["manual"]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The code without its tests (which may look anywhere) and without comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().to_owned();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

#[test]
fn no_module_uses_what_its_layer_must_not() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let layers: BTreeMap<&str, BTreeSet<&str>> = LAYERS.iter().map(|(name, uses)| (*name, uses.iter().copied().collect())).collect();
    let mut files = Vec::new();
    sources(&src, &mut files);
    assert!(files.len() > 50);
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).unwrap().to_string_lossy().into_owned();
        if matches!(inside.as_str(), "lib.rs" | "main.rs" | "fuzzing.rs") || inside.contains("tests") || inside.contains("fuzzing") {
            continue;
        }
        let module = inside.split('/').next().unwrap().trim_end_matches(".rs").to_owned();
        let Some(allowed) = layers.get(module.as_str()) else {
            wrong.push(format!("{inside}: the module {module} has no layer; give it one in this test"));
            continue;
        };
        let code = code(&file);
        let mut used: BTreeSet<String> = BTreeSet::new();
        for part in code.split("crate::").skip(1) {
            match part.strip_prefix('{') {
                Some(list) => {
                    let list = list.split("};").next().unwrap_or_default();
                    used.extend(list.split(',').map(|item| item.trim().split("::").next().unwrap_or_default().to_owned()));
                }
                None => used.extend(part.split(|c: char| !c.is_alphanumeric() && c != '_').next().map(str::to_owned)),
            }
        }
        for name in used.iter().filter(|name| layers.contains_key(name.as_str())) {
            if *name != module && !allowed.contains(name.as_str()) {
                wrong.push(format!("{inside} uses crate::{name}"));
            }
        }
        for (library, users) in LIBRARIES {
            let named = code.contains(&format!("use {library}::")) || code.contains(&format!(" {library}::"));
            if named && !users.contains(&module.as_str()) {
                wrong.push(format!("{inside} uses {library}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
