use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

use super::action::ApiError;
use super::http::Request;
use super::keys::hex;
use crate::access::Secret;

/// An API key that the simulated endpoint accepts.
pub struct ApiKey {
    pub id: String,
    pub key: Secret,
    /// The session token of temporary credentials; `None` means that none is expected.
    pub token: Option<Secret>,
}

const ALGORITHM: &str = "TC3-HMAC-SHA256";
const SERVICE: &str = "gse";
/// A timestamp further off than this is refused.
const MAX_SKEW: Duration = Duration::from_secs(5 * 60);

/// Checks a request's TC3-HMAC-SHA256 signature, token and timestamp, from the specification alone: nothing is shared with the client.
pub(super) fn verify(request: &Request, key: &ApiKey, now: SystemTime) -> Result<(), ApiError> {
    let timestamp = timestamp(request)?;
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    if now.as_secs().abs_diff(timestamp) > MAX_SKEW.as_secs() {
        return Err(ApiError::new("AuthFailure.SignatureExpire", "the timestamp is more than five minutes off"));
    }
    let authorization = Authorization::parse(request.header("authorization").unwrap_or_default())?;
    let date = utc_date(timestamp)?;
    if authorization.scope != [date.as_str(), SERVICE, "tc3_request"] {
        return Err(ApiError::new(
            "AuthFailure.SignatureFailure",
            format!("the credential scope must be {date}/{SERVICE}/tc3_request, the timestamp's date in UTC"),
        ));
    }
    if authorization.id != key.id {
        return Err(ApiError::new("AuthFailure.SecretIdNotFound", "the SecretId is not found"));
    }
    let token = request.header("x-tc-token").map(str::as_bytes);
    let expected = key.token.as_ref().map(Secret::expose);
    if token.map(Sha256::digest) != expected.map(Sha256::digest) {
        return Err(ApiError::new("AuthFailure.TokenFailure", "the token is not the one of this SecretId"));
    }
    let canonical = canonical_request(request, &authorization)?;
    let to_sign = format!("{ALGORITHM}\n{timestamp}\n{date}/{SERVICE}/tc3_request\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let mut root = zeroize::Zeroizing::new(b"TC3".to_vec());
    root.extend_from_slice(key.key.expose());
    let signing = [date.as_str(), SERVICE, "tc3_request"].iter().try_fold(root, |key, part| {
        let mut mac = keyed(&key)?;
        mac.update(part.as_bytes());
        Ok(zeroize::Zeroizing::new(mac.finalize().into_bytes().to_vec()))
    })?;
    let mut mac = keyed(&signing)?;
    mac.update(to_sign.as_bytes());
    mac.verify_slice(&authorization.signature)
        .map_err(|_| ApiError::new("AuthFailure.SignatureFailure", "the signature does not match the request"))
}

fn keyed(key: &[u8]) -> Result<Hmac<Sha256>, ApiError> {
    Hmac::new_from_slice(key).map_err(|_| ApiError::new("InternalError", "the key cannot be used for HMAC-SHA256"))
}

fn timestamp(request: &Request) -> Result<u64, ApiError> {
    let Some(text) = request.header("x-tc-timestamp") else {
        return Err(ApiError::new("MissingParameter", "the header X-TC-Timestamp is missing"));
    };
    text.parse().map_err(|_| ApiError::new("InvalidParameter", "the header X-TC-Timestamp is not a number of seconds"))
}

/// `YYYY-MM-DD`
fn utc_date(timestamp: u64) -> Result<String, ApiError> {
    i64::try_from(timestamp)
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map(|time| time.strftime("%Y-%m-%d").to_string())
        .ok_or_else(|| ApiError::new("InvalidParameter", "the header X-TC-Timestamp is out of range"))
}

struct Authorization<'a> {
    id: &'a str,
    scope: Vec<&'a str>,
    signed_headers: Vec<&'a str>,
    signature: Vec<u8>,
}

impl<'a> Authorization<'a> {
    /// `TC3-HMAC-SHA256 Credential=<id>/<date>/gse/tc3_request, SignedHeaders=content-type;host, Signature=<hex>`
    fn parse(text: &'a str) -> Result<Self, ApiError> {
        let wrong = |what| ApiError::new("AuthFailure.InvalidAuthorization", what);
        let fields = text
            .strip_prefix(ALGORITHM)
            .and_then(|rest| rest.strip_prefix(' '))
            .ok_or_else(|| wrong("the header Authorization must begin with TC3-HMAC-SHA256"))?;
        let field = |name: &str| fields.split(',').find_map(|field| field.trim().strip_prefix(name)?.strip_prefix('='));
        let credential = field("Credential").ok_or_else(|| wrong("the header Authorization has no Credential"))?;
        let (id, scope) = credential.split_once('/').ok_or_else(|| wrong("the Credential has no scope"))?;
        let signed_headers = field("SignedHeaders").ok_or_else(|| wrong("the header Authorization has no SignedHeaders"))?;
        let signature = field("Signature").and_then(unhex).ok_or_else(|| wrong("the Signature is missing or not hexadecimal"))?;
        Ok(Self { id, scope: scope.split('/').collect(), signed_headers: signed_headers.split(';').collect(), signature })
    }
}

fn canonical_request(request: &Request, authorization: &Authorization<'_>) -> Result<String, ApiError> {
    let names = &authorization.signed_headers;
    if !names.contains(&"content-type") || !names.contains(&"host") {
        return Err(ApiError::new("AuthFailure.SignatureFailure", "content-type and host must be among the signed headers"));
    }
    let mut headers = String::new();
    for name in names {
        let Some(value) = request.header(name) else {
            return Err(ApiError::new("AuthFailure.SignatureFailure", format!("the signed header {name} is not in the request")));
        };
        headers.push_str(&format!("{name}:{value}\n"));
    }
    let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
    let body = hex(&Sha256::digest(&request.body));
    Ok(format!("{}\n{path}\n{query}\n{headers}\n{}\n{body}", request.method, names.join(";")))
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    digits.chunks_exact(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_700_000_000;

    fn vector(host: &str, signature: &str) -> Request {
        Request {
            method: "POST".into(),
            target: "/".into(),
            headers: vec![
                ("host".into(), host.into()),
                ("content-type".into(), "application/json".into()),
                ("x-tc-timestamp".into(), AT.to_string()),
                (
                    "authorization".into(),
                    format!(
                        "TC3-HMAC-SHA256 Credential=AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE/2023-11-14/gse/tc3_request, \
                         SignedHeaders=content-type;host, Signature={signature}"
                    ),
                ),
            ],
            body: br#"{"FleetId":"fleet-qp3g3caa-iectl8nb","InstanceId":"ins-gi2lxw"}"#.to_vec(),
        }
    }

    fn key() -> ApiKey {
        ApiKey {
            id: "AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE".into(),
            key: Secret::new(b"Gu5t9xGARNpq86cd98joQYCN3EXAMPLE".to_vec()),
            token: None,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_official_sdk_s_signatures_verify_and_no_others() {
        let china = "8b242182b96013b9d4e2ffd1bda810a132812ec761eced6eab4467390674711c";
        let international = "4950c000824c804029fb7856639988b893fb8640f2eebb743a853cc8586ceb27";
        verify(&vector("gse.tencentcloudapi.com", china), &key(), at(AT)).unwrap();
        verify(&vector("gse.intl.tencentcloudapi.com", international), &key(), at(AT + 299)).unwrap();
        let code = |request: &Request, now| verify(request, &key(), now).unwrap_err().code;
        assert_eq!(code(&vector("gse.tencentcloudapi.com", international), at(AT)), "AuthFailure.SignatureFailure");
        let mut changed = vector("gse.tencentcloudapi.com", china);
        changed.body.push(b' ');
        assert_eq!(code(&changed, at(AT)), "AuthFailure.SignatureFailure");
        for off in [AT - 301, AT + 301] {
            assert_eq!(code(&vector("gse.tencentcloudapi.com", china), at(off)), "AuthFailure.SignatureExpire");
        }
        assert_eq!(code(&vector("gse.tencentcloudapi.com", "8b2"), at(AT)), "AuthFailure.InvalidAuthorization");
    }
}
