//! The JSON of the API. Every field of an answer may be null or absent, so every one is an `Option`; what is not known is ignored.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use crate::access::Secret;

/// What the API is asked. Each has its own quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Action {
    GetInstanceAccess,
    DescribeInstances,
    ListFleets,
}

impl Action {
    pub const ALL: [Self; 3] = [Self::GetInstanceAccess, Self::DescribeInstances, Self::ListFleets];

    pub fn name(self) -> &'static str {
        match self {
            Self::GetInstanceAccess => "GetInstanceAccess",
            Self::DescribeInstances => "DescribeInstances",
            Self::ListFleets => "ListFleets",
        }
    }
}

/// The parameters of a call; those that are absent are left out.
#[derive(Debug, Default, Serialize)]
pub(super) struct Question<'a> {
    #[serde(rename = "FleetId", skip_serializing_if = "Option::is_none")]
    pub fleet: Option<&'a str>,
    #[serde(rename = "InstanceId", skip_serializing_if = "Option::is_none")]
    pub instance: Option<&'a str>,
    #[serde(rename = "Offset", skip_serializing_if = "Option::is_none")]
    pub offset: Option<usize>,
    #[serde(rename = "Limit", skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

#[derive(Deserialize)]
pub(super) struct Envelope {
    #[serde(rename = "Response", default)]
    pub response: Option<Answer>,
}

/// The answers of all actions in one, as they share `Error` and `RequestId`. (Flattening would copy the secret into serde's buffers.)
#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Answer {
    #[serde(rename = "Error")]
    pub error: Option<ApiError>,
    #[serde(rename = "RequestId")]
    pub request_id: Option<String>,
    #[serde(rename = "InstanceAccess")]
    pub instance_access: Option<InstanceAccess>,
    #[serde(rename = "Instances")]
    pub instances: Option<Vec<Option<Instance>>>,
    #[serde(rename = "FleetIds")]
    pub fleet_ids: Option<Vec<Option<String>>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct ApiError {
    #[serde(rename = "Code")]
    pub code: Option<String>,
    #[serde(rename = "Message")]
    pub message: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct InstanceAccess {
    #[serde(rename = "Credentials")]
    pub credentials: Option<Credentials>,
    #[serde(rename = "FleetId")]
    pub fleet_id: Option<String>,
    #[serde(rename = "InstanceId")]
    pub instance_id: Option<String>,
    #[serde(rename = "IpAddress")]
    pub ip_address: Option<String>,
    #[serde(rename = "OperatingSystem")]
    pub operating_system: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Credentials {
    #[serde(rename = "UserName")]
    pub user_name: Option<String>,
    #[serde(rename = "Secret")]
    pub secret: Option<SecretText>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Instance {
    #[serde(rename = "FleetId")]
    pub fleet_id: Option<String>,
    #[serde(rename = "InstanceId")]
    pub instance_id: Option<String>,
    #[serde(rename = "Status")]
    pub status: Option<String>,
    #[serde(rename = "OperatingSystem")]
    pub operating_system: Option<String>,
}

/// A JSON string that goes straight from the body buffer into a [`Secret`].
///
/// A string with escapes (`\n` in a PEM) passes through serde_json's own scratch space, which is freed but not zeroized.
pub(super) struct SecretText(pub Secret);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = SecretText;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretText, E> {
                Ok(SecretText(Secret::new(text.as_bytes().to_vec())))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// Where an answer stopped being what it should be. serde_json's own message may quote the answer, secret and all, so it goes no further.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("the answer is not the JSON it should be ({what}, line {line}, column {column})")]
pub(super) struct Malformed {
    what: &'static str,
    line: usize,
    column: usize,
}

impl Answer {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Malformed> {
        let envelope: Envelope = serde_json::from_slice(body).map_err(|error| Malformed {
            what: match error.classify() {
                serde_json::error::Category::Io => "unreadable",
                serde_json::error::Category::Syntax => "a syntax error",
                serde_json::error::Category::Data => "a value of another type",
                serde_json::error::Category::Eof => "it ends too early",
            },
            line: error.line(),
            column: error.column(),
        })?;
        envelope.response.ok_or(Malformed { what: "no Response", line: 0, column: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn null_and_absence_read_the_same_everywhere() {
        for body in [
            r#"{"Response":{}}"#,
            r#"{"Response":{"Error":null,"RequestId":null,"InstanceAccess":null,"Instances":null,"FleetIds":null,"New":[1]}}"#,
        ] {
            let answer = Answer::parse(body.as_bytes()).unwrap();
            assert!(answer.error.is_none() && answer.instance_access.is_none() && answer.instances.is_none());
        }
        let body = r#"{"Response":{"InstanceAccess":{"Credentials":{"UserName":null,"Secret":null},"FleetId":null,"InstanceId":null,
            "IpAddress":null,"OperatingSystem":null},"Instances":[null,{"FleetId":null}],"FleetIds":[null]}}"#;
        let access = Answer::parse(body.as_bytes()).unwrap().instance_access.unwrap();
        assert!(access.credentials.unwrap().secret.is_none() && access.ip_address.is_none());
        for nothing in [r#"{"Response":null}"#, "{}"] {
            assert!(Answer::parse(nothing.as_bytes()).is_err());
        }
    }

    #[test]
    fn a_malformed_answer_is_told_without_quoting_it() {
        for body in [
            r#"{"Response":{"InstanceAccess":"hunter2"}}"#,
            r#"{"Response":{"InstanceAccess":{"Credentials":{"Secret":{"hunter2":1}}}}}"#,
            r#"{"Response":{"InstanceAccess":{"Credentials":{"Secret":"hunter2"#,
        ] {
            let error = Answer::parse(body.as_bytes()).err().unwrap();
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
