use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{ApiKey, KeyError};
use crate::gse::CredentialFiles;

/// The most of a credential file that is read.
const MAX_FILE: u64 = 16 * 1024;
const SECRET_ID: &str = "TENCENTCLOUD_SECRET_ID";
const SECRET_KEY: &str = "TENCENTCLOUD_SECRET_KEY";
const TOKENS: [&str; 2] = ["TENCENTCLOUD_TOKEN", "TENCENTCLOUD_SECURITY_TOKEN"];

type Variables = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The places on this machine, in the order in which they are looked at.
pub(in crate::gse) struct Places {
    pub files: Option<CredentialFiles>,
    pub variables: Variables,
    pub ini: Vec<PathBuf>,
}

impl Places {
    pub(in crate::gse) fn of_this_machine(files: Option<CredentialFiles>) -> Self {
        // A variable that is not text is as broken as an empty one, and the check for that names it.
        let variables = Arc::new(|name: &str| std::env::var_os(name).map(|value| value.into_string().unwrap_or_default()));
        let home = std::env::home_dir().filter(|home| home.is_absolute()).map(|home| home.join(".tencentcloud/credentials"));
        Self { files, variables, ini: home.into_iter().chain([PathBuf::from("/etc/tencentcloud/credentials")]).collect() }
    }

    /// The key of the first place that is configured, `None` when none is. Blocks.
    pub(super) fn read(&self) -> Result<Option<ApiKey>, KeyError> {
        if let Some(files) = &self.files {
            return Self::read_files(files).map(Some);
        }
        if let Some(key) = self.read_variables()? {
            return Ok(Some(key));
        }
        for path in &self.ini {
            if let Some(text) = read_file(path).or_else(absent).map_err(|source| KeyError::File { path: path.clone(), source })? {
                return from_ini(path, &text).map(Some);
            }
        }
        Ok(None)
    }

    pub(super) fn describe(&self) -> String {
        let mut places = vec![
            "files named in the configuration (none are)".to_owned(),
            format!("{SECRET_ID} and {SECRET_KEY} in the environment (not set)"),
        ];
        places.extend(self.ini.iter().map(|path| format!("{} (not there)", path.display())));
        places.join(", ")
    }

    fn read_files(files: &CredentialFiles) -> Result<ApiKey, KeyError> {
        let read = |path: &Path| match read_file(path) {
            Ok(Some(text)) => Ok(text),
            Ok(None) => Err(KeyError::File { path: path.to_owned(), source: io::ErrorKind::NotFound.into() }),
            Err(source) => Err(KeyError::File { path: path.to_owned(), source }),
        };
        let place = |part| {
            let path = match part {
                "secret_id" => Some(&files.secret_id),
                "secret_key" => Some(&files.secret_key),
                _ => files.token.as_ref(),
            };
            path.map_or_else(|| part.to_owned(), |path| path.display().to_string())
        };
        let token = files.token.as_deref().map(read).transpose()?;
        ApiKey::new(place, Some(read(&files.secret_id)?), Some(read(&files.secret_key)?), token)
    }

    fn read_variables(&self) -> Result<Option<ApiKey>, KeyError> {
        let variable = |name: &str| (self.variables)(name).map(Zeroizing::new);
        let (id, key) = (variable(SECRET_ID), variable(SECRET_KEY));
        if id.is_none() && key.is_none() {
            return Ok(None);
        }
        let place = |part| match part {
            "secret_id" => SECRET_ID.to_owned(),
            "secret_key" => SECRET_KEY.to_owned(),
            _ => TOKENS.join(" or "),
        };
        let token = TOKENS.iter().find_map(|name| variable(name));
        ApiKey::new(place, id, key, token).map(Some)
    }
}

fn absent(error: io::Error) -> io::Result<Option<Zeroizing<String>>> {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Ok(None),
        _ => Err(error),
    }
}

/// A small regular file's text. A pipe or device could block for ever, so it is refused.
fn read_file(path: &Path) -> io::Result<Option<Zeroizing<String>>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // Room for all that is read: growing would leave copies behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize + 64));
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other("it is larger than 16 KiB"));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| io::Error::other("it is not UTF-8 text"))?;
    Ok(Some(Zeroizing::new(text.to_owned())))
}

fn from_ini(path: &Path, text: &str) -> Result<ApiKey, KeyError> {
    let (mut section, mut found) = ("", false);
    let (mut id, mut key, mut token) = (None, None, None);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with(['#', ';'])) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name.trim();
            found |= section == "default";
        } else if section == "default"
            && let Some((name, value)) = line.split_once('=')
        {
            let value = Some(Zeroizing::new(value.trim().to_owned()));
            match name.trim() {
                "secret_id" => id = value,
                "secret_key" => key = value,
                "token" => token = value,
                _ => {}
            }
        }
    }
    let place = |part| format!("{} in [default] of {}", part, path.display());
    if !found {
        return Err(KeyError::Broken { place: path.display().to_string(), what: "it has no section [default]" });
    }
    ApiKey::new(place, id, key, token)
}
