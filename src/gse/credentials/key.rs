use std::io;
use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::access::Secret;

/// Why there is no API key. It names the place, never what is in it.
#[derive(Debug, Error)]
pub enum KeyError {
    #[error("cannot read the API key from {path}: {source}")]
    File { path: PathBuf, source: io::Error },
    #[error("{place}: {what}")]
    Broken { place: String, what: &'static str },
    #[error("the metadata service of this CVM gave no API key: {what}")]
    Metadata { what: String },
    #[error(
        "no API key: tried {tried}, and the role of this CVM ({metadata}). Name secret_id_file and secret_key_file under [gse], or set \
         TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY"
    )]
    Nowhere { tried: String, metadata: String },
    #[error("the runtime is stopping")]
    Stopped,
}

impl KeyError {
    /// Whether waiting could help: a network service failed, not a file or a variable.
    pub(in crate::gse) fn is_transient(&self) -> bool {
        matches!(self, Self::Metadata { .. } | Self::Nowhere { .. } | Self::Stopped)
    }
}

/// What requests are signed with.
///
/// **Invariant**: id and token are visible ASCII, so they are safe in a header.
pub(in crate::gse) struct ApiKey {
    pub id: String,
    pub key: Secret,
    /// Temporary credentials only.
    pub token: Option<Secret>,
    /// Unix seconds; temporary credentials of a role only.
    pub expires: Option<i64>,
}

impl ApiKey {
    /// Takes the parts from `place`, or says which is wrong.
    pub(super) fn new(
        place: impl Fn(&'static str) -> String,
        id: Option<Zeroizing<String>>,
        key: Option<Zeroizing<String>>,
        token: Option<Zeroizing<String>>,
    ) -> Result<Self, KeyError> {
        let part = |part: Option<Zeroizing<String>>, name: &'static str| {
            let broken = |what| KeyError::Broken { place: place(name), what };
            let text = part.ok_or_else(|| broken("it is missing; the id and the key of the API key come together"))?;
            let text = text.trim();
            if text.is_empty() {
                return Err(broken("it is empty"));
            }
            if text.len() > 8192 || !text.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(broken("it must be one word of visible ASCII characters"));
            }
            Ok(Secret::new(text.as_bytes().to_vec()))
        };
        let id = part(id, "secret_id")?;
        if id.expose().iter().any(|b| matches!(b, b',' | b'/' | b'=')) {
            return Err(KeyError::Broken { place: place("secret_id"), what: "an id has no ',', '/' or '='" });
        }
        Ok(Self {
            id: String::from_utf8_lossy(id.expose()).into_owned(),
            key: part(key, "secret_key")?,
            token: token.map(|token| part(Some(token), "token")).transpose()?,
            expires: None,
        })
    }

    pub(super) fn expires_within(&self, now: i64, margin: Duration) -> bool {
        let margin = i64::try_from(margin.as_secs()).unwrap_or(i64::MAX);
        self.expires.is_some_and(|expires| expires.saturating_sub(margin) <= now)
    }
}
