mod environment;
mod files;
mod reference;
mod refusals;
mod shipped;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Draft, Findings, Problem, Purpose, Settings};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILM+rvN+ot98qgEN796jTiQfZfG1KaT0PtFDJ/XFSqti alice@example.com\n";

/// A directory with everything a good configuration needs.
struct Etc {
    dir: tempfile::TempDir,
}

impl Etc {
    fn new() -> Self {
        let etc = Self { dir: tempfile::tempdir().unwrap() };
        for name in ["state", "operators", "credentials"] {
            fs::create_dir(etc.path(name)).unwrap();
            etc.chmod(name, 0o700);
        }
        etc.write("operators/alice", KEY, 0o644);
        etc.write("secret_id", "AKIDexample", 0o600);
        etc.write("secret_key", "example", 0o600);
        etc
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn chmod(&self, name: &str, mode: u32) {
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn write(&self, name: &str, text: &str, mode: u32) {
        fs::write(self.path(name), text).unwrap();
        self.chmod(name, mode);
    }

    /// A good configuration, with `DIR/` standing for this directory.
    fn good(&self, operators: &str, gse: &str, more: &str) -> String {
        let text = format!(
            "state_dir = \"DIR/state\"\n[operators]\nauthorized_keys_dir = \"DIR/operators\"\n{operators}\n\
             [gse]\nregion = \"ap-shanghai\"\n{gse}\n[[grants]]\noperators = [\"alice\"]\ntargets = [\"ins-*\"]\n{more}\n"
        );
        text.replace("DIR/", &format!("{}/", self.dir.path().display()))
    }

    fn load(&self, text: &str, purpose: Purpose) -> Result<(Settings, Vec<Problem>), Findings> {
        self.write("broker.toml", text, 0o644);
        Settings::load(&self.path("broker.toml"), Vec::new(), purpose)
    }
}

fn environment(variables: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    variables.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

/// Reads a text without looking at the files it names.
fn read(text: &str, variables: &[(&str, &str)]) -> Result<(Settings, Vec<Problem>), Findings> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broker.toml");
    fs::write(&file, text).unwrap();
    strip(Draft::read(&file, environment(variables)).finish(), dir.path())
}

/// Leaves the file's name of its path, so that tests can spell it.
fn strip(read: Result<(Settings, Vec<Problem>), Findings>, dir: &Path) -> Result<(Settings, Vec<Problem>), Findings> {
    let short = |problem: Problem| Problem { place: problem.place.replace(&format!("{}/", dir.display()), ""), ..problem };
    let all = |problems: Vec<Problem>| problems.into_iter().map(short).collect();
    match read {
        Ok((settings, warnings)) => Ok((settings, all(warnings))),
        Err(findings) => Err(Findings { errors: all(findings.errors), warnings: all(findings.warnings) }),
    }
}

fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}
