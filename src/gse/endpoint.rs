use std::net::IpAddr;

use reqwest::Url;

use crate::access::Invalid;

/// Where the API is: `https://host[:port]`, or plain http to a loopback address.
#[derive(Debug, Clone)]
pub(super) struct Endpoint {
    pub url: Url,
    /// The `Host` header, which is signed: with the port when it is not the scheme's own.
    pub host: String,
}

impl Endpoint {
    pub(super) fn parse(text: &str) -> Result<Self, Invalid> {
        let invalid =
            |what: &str| Invalid(format!("gse.endpoint: {what}; it must be https://host[:port], such as https://gse.tencentcloudapi.com"));
        // Not quoted: somebody may have put a password into it.
        let url = Url::parse(text).map_err(|error| invalid(&format!("no URL ({error})")))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("it holds a user name or a password"));
        }
        if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
            return Err(invalid("it holds more than scheme, host and port"));
        }
        let host = url.host_str().ok_or_else(|| invalid("no host"))?.to_owned();
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        match url.scheme() {
            "https" => {}
            "http" if host == "localhost" || address.is_ok_and(|address| address.is_loopback()) => {}
            "http" => return Err(invalid("plain http is for loopback addresses only, as anybody on the way could read the secrets")),
            _ => return Err(invalid("the scheme is neither https nor http")),
        }
        let host = url.port().map_or_else(|| host.clone(), |port| format!("{host}:{port}"));
        Ok(Self { url, host })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_https_host_or_loopback_http_is_an_endpoint() {
        for (text, host) in [
            ("https://gse.tencentcloudapi.com", "gse.tencentcloudapi.com"),
            ("https://gse.tencentcloudapi.com:443/", "gse.tencentcloudapi.com"),
            ("https://GSE.example:8443", "gse.example:8443"),
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("http://[::1]:8080", "[::1]:8080"),
            ("http://localhost:1", "localhost:1"),
        ] {
            assert_eq!(Endpoint::parse(text).unwrap().host, host, "{text}");
        }
        for text in [
            "",
            "gse.tencentcloudapi.com",
            "http://gse.tencentcloudapi.com",
            "http://127.0.0.1.example",
            "http://10.0.0.1",
            "ftp://127.0.0.1",
            "https://user:hunter2@gse.example",
            "https://gse.example/v1",
            "https://gse.example/?a=b",
        ] {
            let error = Endpoint::parse(text).unwrap_err().to_string();
            assert!(error.contains("https://host[:port]") && !error.contains("hunter2"), "{error}");
        }
    }
}
