use std::net::IpAddr;
use std::time::Duration;

use super::{Secret, Target};

/// An instance's login and secret, as the cloud API gave them. How long it may be used again is the cache's business.
pub struct Lease {
    pub target: Target,
    /// The Unix account on the instance (`Credentials.UserName`).
    pub login: String,
    /// `Credentials.Secret`: a private key in one of several forms, or a password.
    pub secret: Secret,
    /// Where the instance is. Addresses come only from the API, never from the operator's text.
    pub address: IpAddr,
    /// Free text such as `centos6.7`; tells an old instance from a new one.
    pub operating_system: Option<String>,
    /// Tencent's id of the call that gave this, for support and audit.
    pub request_id: String,
    /// How long this call waited for its place in the API quota.
    pub quota_wait: Duration,
    /// How long the API took to answer.
    pub api_time: Duration,
}
