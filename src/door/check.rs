use std::fmt;
use std::path::PathBuf;

use super::Config;
use super::authorized_keys::AuthorizedKeys;
use super::key_file::{self, KeyFileError, KeySet};
use crate::access::OperatorName;

/// Something in the operators' files that does not count.
#[derive(Debug)]
pub struct Problem {
    pub path: PathBuf,
    /// Counted from 1; none when it is about the whole file.
    pub line: Option<usize>,
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}, line {line}: {}", self.path.display(), self.text),
            None => write!(f, "{}: {}", self.path.display(), self.text),
        }
    }
}

impl Problem {
    fn about(path: PathBuf, error: &KeyFileError) -> Self {
        match error {
            KeyFileError::Line { problem, .. } => Self { path, line: Some(problem.line), text: problem.text.clone() },
            error => Self { path, line: None, text: error.to_string() },
        }
    }
}

/// Reads every file that could prove an operator, as a login would, and tells what does not count and why.
pub fn check_operator_files(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(path) = &config.trusted_user_ca {
        problems.extend(KeySet::read_authorities(path).err().map(|error| Problem::about(path.clone(), &error)));
    }
    if let Some(path) = &config.revoked_keys {
        problems.extend(KeySet::read_revoked(path).err().map(|error| Problem::about(path.clone(), &error)));
    }
    let names = match operator_files(config) {
        Ok(names) => names,
        Err(error) => {
            let text = format!("cannot list it: {error}");
            problems.push(Problem { path: config.authorized_keys_dir.clone(), line: None, text });
            return problems;
        }
    };
    for name in names {
        let path = config.authorized_keys_dir.join(&name);
        // A hidden file is an editor's or a package's, not a mistake.
        if name.starts_with('.') {
            continue;
        }
        if let Err(error) = OperatorName::parse(&name) {
            problems.push(Problem { path, line: None, text: format!("the file's name: {error}") });
            continue;
        }
        match key_file::read(&path) {
            Ok(bytes) => {
                let (keys, lines) = AuthorizedKeys::parse(&String::from_utf8_lossy(&bytes.unwrap_or_default()));
                if keys.is_empty() && lines.is_empty() && config.trusted_user_ca.is_none() {
                    problems.push(Problem { path: path.clone(), line: None, text: "holds no key".to_owned() });
                }
                problems.extend(lines.into_iter().map(|line| Problem { path: path.clone(), line: Some(line.line), text: line.text }));
            }
            Err(error) => problems.push(Problem::about(path, &error)),
        }
    }
    problems
}

/// Whether a `cert-authority` line is in any operator's file.
pub(super) fn some_operator_trusts_an_authority(config: &Config) -> bool {
    let trusts = |name: String| {
        let bytes = key_file::read(&config.authorized_keys_dir.join(name)).ok().flatten().unwrap_or_default();
        AuthorizedKeys::parse(&String::from_utf8_lossy(&bytes)).0.trusts_an_authority()
    };
    operator_files(config).unwrap_or_default().into_iter().filter(|name| OperatorName::parse(name).is_ok()).any(trusts)
}

fn operator_files(config: &Config) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(&config.authorized_keys_dir)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;

    use super::*;
    use crate::access::FleetAliases;
    use crate::door::tests::LIMITS;

    #[test]
    fn every_file_that_does_not_count_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str, mode: u32| {
            std::fs::write(dir.path().join(name), text).unwrap();
            std::fs::set_permissions(dir.path().join(name), PermissionsExt::from_mode(mode)).unwrap();
        };
        let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti";
        write("alice", key, 0o644);
        write("bob", &format!("{key}\ncommand=\"true\" {key}\n"), 0o644);
        write("carol", key, 0o666);
        write("dave~", key, 0o644);
        write("erin", "", 0o644);
        write(".keep", "", 0o644);
        let config = Config {
            addresses: Vec::new(),
            login_grace: Duration::from_secs(20),
            authorized_keys_dir: dir.path().to_owned(),
            trusted_user_ca: None,
            revoked_keys: Some(dir.path().join("gone")),
            fleet_aliases: FleetAliases::default(),
            limits: LIMITS,
        };
        let problems: Vec<String> = check_operator_files(&config).iter().map(ToString::to_string).collect();
        let told = |what: &str| problems.iter().any(|problem| problem.contains(what));
        assert_eq!(problems.len(), 5, "{problems:#?}");
        assert!(told("/gone") && told("/bob, line 2: ") && told("command=") && told("/carol") && told("chmod go-w"), "{problems:#?}");
        assert!(told("/dave~") && told("/erin"), "{problems:#?}");
    }
}
