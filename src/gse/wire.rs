//! The JSON of the API. Every field of an answer may be null or absent, so every one is an `Option`; what is not known is ignored.

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use zeroize::Zeroizing;

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

/// A JSON string that goes straight from the body buffer into a [`Secret`]: the parser's own buffers, which nobody zeroizes, never see it.
pub(super) struct SecretText(pub Secret);

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?.get();
        let text = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).and_then(unescaped);
        text.map(Self).ok_or_else(|| de::Error::custom("a string was expected"))
    }
}

/// What stands between the quotes of a JSON string (RFC 8259, 7), whose syntax has been checked.
fn unescaped(text: &str) -> Option<Secret> {
    // No escape is shorter than what it stands for.
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text;
    while let Some((plain, escaped)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let c = escaped.chars().next()?;
        rest = escaped.get(1..)?;
        let c = match c {
            '"' | '\\' | '/' => c,
            'b' => '\x08',
            'f' => '\x0c',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'u' => utf16(&mut rest)?,
            _ => return None,
        };
        bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    }
    bytes.extend_from_slice(rest.as_bytes());
    Some(Secret::new(std::mem::take(&mut *bytes)))
}

/// The character behind `\u`, which may take two of them.
fn utf16(rest: &mut &str) -> Option<char> {
    let first = unit(rest)?;
    if !(0xd800..0xdc00).contains(&first) {
        return char::from_u32(u32::from(first));
    }
    *rest = rest.strip_prefix("\\u")?;
    char::decode_utf16([first, unit(rest)?]).next()?.ok()
}

/// Four hexadecimal digits.
fn unit(rest: &mut &str) -> Option<u16> {
    let digits = rest.get(..4).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    *rest = rest.get(4..)?;
    u16::from_str_radix(digits, 16).ok()
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
    #[test]
    fn a_secret_reads_as_any_json_string_does() {
        for text in ["", "plain", "a\nb\r\t\"\\/\u{8}\u{c}", "é\u{1f511}\u{0}", "\\n", "-----BEGIN X-----\nabc==\n"] {
            let plain = serde_json::to_string(text).unwrap();
            let escaped: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
            for json in [plain, format!("\"{escaped}\""), "\"\\/\"".replace("\\/", &escaped)] {
                assert_eq!(serde_json::from_str::<SecretText>(&json).ok().unwrap().0.expose(), text.as_bytes(), "{json}");
            }
        }
        assert_eq!(serde_json::from_str::<SecretText>(r#""\/""#).ok().unwrap().0.expose(), b"/");
        for bad in ["1", "[]", r#""\ud800""#, r#""\ud800x""#, r#""\ud800\u0041""#, r#""\udc00""#, r#""\x""#, "null"] {
            assert!(serde_json::from_str::<SecretText>(bad).is_err(), "{bad}");
        }
    }
}
