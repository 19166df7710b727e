use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::access::Secret;

const ALGORITHM: &str = "TC3-HMAC-SHA256";
const SIGNED_HEADERS: &str = "content-type;host";

/// Why a request could not be signed.
#[derive(Debug, Error)]
pub(super) enum SignError {
    #[error("the time {0} is no date")]
    Time(i64),
    #[error("the secret key cannot be an HMAC key")]
    Key,
}

/// What a TC3-HMAC-SHA256 signature covers: a POST to `/` without a query. Every field is sent exactly as it is signed.
pub(super) struct Signing<'a> {
    pub host: &'a str,
    pub service: &'a str,
    pub content_type: &'a str,
    /// Unix seconds, the value of `X-TC-Timestamp`.
    pub timestamp: i64,
    pub body: &'a [u8],
}

impl Signing<'_> {
    /// The value of the `Authorization` header.
    pub(super) fn authorization(&self, secret_id: &str, secret_key: &Secret) -> Result<String, SignError> {
        let date = self.date()?;
        let signature = self.signature(&date, secret_key)?;
        Ok(format!(
            "{ALGORITHM} Credential={secret_id}/{date}/{}/tc3_request, SignedHeaders={SIGNED_HEADERS}, Signature={signature}",
            self.service
        ))
    }

    /// `YYYY-MM-DD`, UTC.
    fn date(&self) -> Result<String, SignError> {
        let time = Timestamp::from_second(self.timestamp).map_err(|_| SignError::Time(self.timestamp))?;
        Ok(time.to_zoned(TimeZone::UTC).date().to_string())
    }

    fn canonical_hash(&self) -> String {
        let canonical = format!(
            "POST\n/\n\ncontent-type:{}\nhost:{}\n\n{SIGNED_HEADERS}\n{}",
            self.content_type,
            self.host,
            hex(&Sha256::digest(self.body))
        );
        hex(&Sha256::digest(canonical.as_bytes()))
    }

    fn signature(&self, date: &str, secret_key: &Secret) -> Result<String, SignError> {
        let to_sign = format!("{ALGORITHM}\n{}\n{date}/{}/tc3_request\n{}", self.timestamp, self.service, self.canonical_hash());
        let mut seed = Zeroizing::new(Vec::with_capacity(4 + secret_key.expose().len()));
        seed.extend_from_slice(b"TC3");
        seed.extend_from_slice(secret_key.expose());
        let of_date = hmac(&seed, date.as_bytes())?;
        let of_service = hmac(&*of_date, self.service.as_bytes())?;
        let signing = hmac(&*of_service, b"tc3_request")?;
        Ok(hex(&*hmac(&*signing, to_sign.as_bytes())?))
    }
}

fn hmac(key: &[u8], message: &[u8]) -> Result<Zeroizing<[u8; 32]>, SignError> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|_| SignError::Key)?;
    mac.update(message);
    Ok(Zeroizing::new(mac.finalize().into_bytes().into()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]).filter_map(|digit| char::from_digit(u32::from(digit), 16)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY: &[u8] = br#"{"FleetId":"fleet-qp3g3caa-iectl8nb","InstanceId":"ins-gi2lxw"}"#;

    fn gse<'a>(host: &'a str) -> Signing<'a> {
        Signing { host, service: "gse", content_type: "application/json", timestamp: 1_700_000_000, body: BODY }
    }

    #[test]
    fn the_vectors_of_the_official_sdk_hold() {
        let key = Secret::new(b"Gu5t9xGARNpq86cd98joQYCN3EXAMPLE".to_vec());
        let china = gse("gse.tencentcloudapi.com");
        assert_eq!(hex(&Sha256::digest(BODY)), "d2d78eb47d137dd28fe47bccf18faa6d8ec543af756a5af3615d717bbfaa5bc8");
        assert_eq!(china.canonical_hash(), "6cabe3bd2ae1e9773e7b0b504f5ad9bba88446061fad586105f9add9f27b8117");
        assert_eq!(
            china.authorization("AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE", &key).unwrap(),
            "TC3-HMAC-SHA256 Credential=AKIDz8krbsJ5yKBZQpn74WFkmLPx3EXAMPLE/2023-11-14/gse/tc3_request, \
             SignedHeaders=content-type;host, Signature=8b242182b96013b9d4e2ffd1bda810a132812ec761eced6eab4467390674711c"
        );
        let international = gse("gse.intl.tencentcloudapi.com");
        assert_eq!(
            international.signature("2023-11-14", &key).unwrap(),
            "4950c000824c804029fb7856639988b893fb8640f2eebb743a853cc8586ceb27"
        );
    }

    #[test]
    fn the_published_example_holds() {
        let signing = Signing {
            host: "cvm.tencentcloudapi.com",
            service: "cvm",
            content_type: "application/json; charset=utf-8",
            timestamp: 1_551_113_065,
            body: br#"{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}"#,
        };
        let key = Secret::new(b"Gu5t9xGARNpq86cd98joQYCN3*******".to_vec());
        let date = signing.date().unwrap();
        assert_eq!(signing.signature(&date, &key).unwrap(), "2230eefd229f582d8b1b891af7107b91597240707d778ab3738f756258d7652c");
    }

    #[test]
    fn a_time_that_is_no_date_is_said() {
        let signing = Signing { timestamp: i64::MAX, ..gse("h") };
        assert!(matches!(signing.authorization("id", &Secret::new(vec![1])), Err(SignError::Time(i64::MAX))));
    }
}
