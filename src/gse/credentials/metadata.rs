use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::{ApiKey, KeyError};
use crate::gse::attempt::read_body;
use crate::gse::names::Names;

const USUAL_URL: &str = "http://metadata.tencentyun.com/latest/meta-data/cam/security-credentials/";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Both requests together.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The metadata service of a CVM, which hands out temporary keys of the CVM's role.
pub(in crate::gse) struct Metadata {
    url: String,
    http: reqwest::Client,
}

#[derive(Deserialize)]
struct Role {
    #[serde(rename = "Code")]
    code: Option<String>,
    #[serde(rename = "TmpSecretId")]
    id: Option<String>,
    #[serde(rename = "TmpSecretKey")]
    key: Option<String>,
    #[serde(rename = "Token")]
    token: Option<String>,
    #[serde(rename = "ExpiredTime")]
    expires: Option<i64>,
}

impl Metadata {
    /// `url` in place of the usual one ends before the role's name.
    pub(in crate::gse) fn new(url: Option<&str>) -> Result<Self, reqwest::Error> {
        let mut url = url.unwrap_or(USUAL_URL).to_owned();
        if !url.ends_with('/') {
            url.push('/');
        }
        let http = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT_TIMEOUT)
            .dns_resolver(Names::new())
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { url, http })
    }

    pub(super) async fn fetch(&self) -> Result<ApiKey, KeyError> {
        let failed = |what: String| KeyError::Metadata { what };
        timeout(TIMEOUT, self.fetch_role()).await.unwrap_or_else(|_| Err(failed("no answer in time".to_owned())))
    }

    async fn fetch_role(&self) -> Result<ApiKey, KeyError> {
        let failed = |what: &str| KeyError::Metadata { what: what.to_owned() };
        let name = self.get("").await?;
        let name = std::str::from_utf8(&name).unwrap_or_default().trim();
        let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'+' | b'=' | b'.' | b'@' | b',');
        if name.is_empty() || name.len() > 128 || name.starts_with('.') || !name.bytes().all(is_name) {
            return Err(failed("this CVM has no role, or its name is not one"));
        }
        let body = self.get(name).await?;
        // The parser's own message could quote the key.
        let role: Role = serde_json::from_slice(&body).map_err(|_| failed("the role's key is not the JSON it should be"))?;
        let Role { code, id, key, token, expires } = role;
        let (id, key, token) = (id.map(Zeroizing::new), key.map(Zeroizing::new), token.map(Zeroizing::new));
        if code.as_deref() != Some("Success") {
            return Err(failed("the role's key came with a code other than Success"));
        }
        if token.is_none() || expires.is_none() {
            return Err(failed("the role's key came without Token or ExpiredTime"));
        }
        let place = |part| format!("{part} of the role {name} from the metadata service");
        Ok(ApiKey { expires, ..ApiKey::new(place, id, key, token)? })
    }

    async fn get(&self, path: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
        let failed = |what: String| KeyError::Metadata { what };
        let answer = self.http.get(format!("{}{path}", self.url)).send().await;
        let answer = answer.map_err(|error| failed(error.without_url().to_string()))?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(failed(format!("HTTP status {}", answer.status().as_u16())));
        }
        read_body(answer).await.map_err(|error| failed(error.to_string()))
    }
}
