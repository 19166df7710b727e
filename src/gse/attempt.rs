use std::time::SystemTime;

use bytes::Bytes;
use jiff::fmt::rfc2822::DateTimeParser;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, DATE, HOST, HeaderMap, HeaderName, HeaderValue};
use reqwest::{Response, StatusCode};
use zeroize::{Zeroize, Zeroizing};

use super::credentials::ApiKey;
use super::endpoint::Endpoint;
use super::errors::classify;
use super::problem::{Cause, Problem};
use super::quota::Permit;
use super::sign::Signing;
use super::wire::{Action, Answer, ApiError};

/// The most of an answer that is read.
const MAX_BODY: usize = 64 * 1024;
const CONTENT: &str = "application/json";
const VERSION: &str = "2019-11-12";
/// `[0-9a-zA-Z-_,;.]`, up to 128.
const REQUEST_CLIENT: &str = concat!("ssh-broker-", env!("CARGO_PKG_VERSION"));

/// One signed request, sent once.
pub(super) struct Attempt<'a> {
    pub http: &'a reqwest::Client,
    pub endpoint: &'a Endpoint,
    pub region: &'a HeaderValue,
    pub action: Action,
    /// Sent byte for byte as it is signed.
    pub body: Bytes,
    pub key: &'a ApiKey,
    /// Unix seconds by the endpoint's clock.
    pub timestamp: i64,
}

/// An answer without an error.
pub(super) struct Reply {
    pub answer: Answer,
    pub request_id: Option<String>,
}

impl Reply {
    /// From the body of an answer.
    pub(super) fn read(body: &[u8], clock_offset: Option<i64>) -> Result<Self, Problem> {
        let mut answer = Answer::parse(body).map_err(Cause::from)?;
        let request_id = answer.request_id.take().filter(|id| is_request_id(id));
        match answer.error.take() {
            None => Ok(Self { answer, request_id }),
            Some(error) => Err(Problem { cause: api_cause(error), request_id, clock_offset }),
        }
    }
}

impl Attempt<'_> {
    pub(super) async fn send(self, permit: Permit<'_>) -> Result<Reply, Problem> {
        let headers = self.headers()?;
        let sent = self.http.post(self.endpoint.url.clone()).headers(headers).body(self.body).send().await;
        let response = sent.map_err(|error| Cause::Transport(error.without_url()))?;
        permit.answered();
        let clock_offset = clock_offset(response.headers());
        if response.status() != StatusCode::OK {
            return Err(Cause::Status(response.status().as_u16()).into());
        }
        let body = read_body(response).await?;
        Reply::read(&body, clock_offset)
    }

    fn headers(&self) -> Result<HeaderMap, Problem> {
        let signing =
            Signing { host: &self.endpoint.host, service: "gse", content_type: CONTENT, timestamp: self.timestamp, body: &self.body };
        let authorization = signing.authorization(&self.key.id, &self.key.key).map_err(Cause::Sign)?;
        let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).map_err(|_| Cause::Unfit("a header of the request"));
        let mut headers = HeaderMap::with_capacity(10);
        let mut put = |name: &'static str, value| headers.insert(HeaderName::from_static(name), value);
        put(HOST.as_str(), value(self.endpoint.host.as_bytes())?);
        put(CONTENT_TYPE.as_str(), HeaderValue::from_static(CONTENT));
        put("x-tc-action", HeaderValue::from_static(self.action.name()));
        put("x-tc-version", HeaderValue::from_static(VERSION));
        put("x-tc-timestamp", HeaderValue::from(self.timestamp));
        put("x-tc-region", self.region.clone());
        put("x-tc-language", HeaderValue::from_static("en-US"));
        put("x-tc-requestclient", HeaderValue::from_static(REQUEST_CLIENT));
        if let Some(token) = &self.key.token {
            let mut token = value(token.expose())?;
            token.set_sensitive(true);
            put("x-tc-token", token);
        }
        let mut authorization = value(authorization.as_bytes())?;
        authorization.set_sensitive(true);
        put(AUTHORIZATION.as_str(), authorization);
        Ok(headers)
    }
}

/// Reads a body of at most [`MAX_BODY`] bytes into a buffer that never grows, so that it leaves no copy, and is zeroized when done with.
pub(super) async fn read_body(mut response: Response) -> Result<Zeroizing<Vec<u8>>, Cause> {
    let mut body = Zeroizing::new(Vec::with_capacity(MAX_BODY));
    while let Some(chunk) = response.chunk().await.map_err(|error| Cause::Transport(error.without_url()))? {
        if body.len() + chunk.len() > MAX_BODY {
            return Err(Cause::TooLarge);
        }
        body.extend_from_slice(&chunk);
        // Only when nothing else of the connection's read buffer is in use.
        if let Ok(mut chunk) = chunk.try_into_mut() {
            chunk.zeroize();
        }
    }
    Ok(body)
}

fn api_cause(error: ApiError) -> Cause {
    let bounded = |text: Option<String>, most: usize| text.unwrap_or_default().chars().take(most).collect::<String>();
    let code = bounded(error.code, 128);
    let (class, name) = classify(&code);
    Cause::Api { class, name, code, message: bounded(error.message, 512) }
}

/// The id goes into what operators read, so only what looks like one is taken.
fn is_request_id(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// Unix seconds by our clock.
pub(super) fn local_time() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// RFC 9110, 5.6.7: the preferred format is a fixed subset of RFC 2822's.
fn clock_offset(headers: &HeaderMap) -> Option<i64> {
    let date = headers.get(DATE)?.to_str().ok()?;
    let date = DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(date.as_second().saturating_sub(local_time()))
}
