use serde::Serialize;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::cloud::Mode;
use super::inventory::{InstanceRecord, Inventory};

/// What the simulated endpoint can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    GetInstanceAccess,
    DescribeInstances,
    ListFleets,
    ResolveAlias,
}

impl Action {
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "GetInstanceAccess" => Some(Self::GetInstanceAccess),
            "DescribeInstances" => Some(Self::DescribeInstances),
            "ListFleets" => Some(Self::ListFleets),
            "ResolveAlias" => Some(Self::ResolveAlias),
            _ => None,
        }
    }
}

/// An error as the service says it.
#[derive(Debug)]
pub(super) struct ApiError {
    pub(super) code: String,
    pub(super) message: String,
}

impl ApiError {
    pub(super) fn new(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into() }
    }
}

/// The body of an answer. It may hold a secret.
pub(super) type Body = Zeroizing<Vec<u8>>;

pub(super) fn error_body(error: &ApiError, request_id: &str) -> Body {
    let value = serde_json::json!({"Response": {"Error": {"Code": error.code, "Message": error.message}, "RequestId": request_id}});
    Zeroizing::new(value.to_string().into_bytes())
}

/// Answers one call from the inventory. `wrong_ids` answers about another fleet and instance than was asked for.
pub(super) fn answer(
    action: Action,
    body: &[u8],
    inventory: &Inventory,
    mode: Mode,
    request_id: &str,
    wrong_ids: bool,
) -> Result<Body, ApiError> {
    let asked: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| ApiError::new("InvalidParameter", format!("the body is not a JSON object: {error}")))?;
    match action {
        Action::GetInstanceAccess => {
            let asked = Parameters::read(&asked, &["FleetId", "InstanceId"])?;
            let (fleet, instance) = (asked.required("FleetId")?, asked.required("InstanceId")?);
            let record = inventory
                .find(fleet, instance)
                .ok_or_else(|| ApiError::new("ResourceNotFound", format!("no instance {instance} in fleet {fleet}")))?;
            Ok(access(record, request_id, wrong_ids))
        }
        Action::DescribeInstances => {
            let asked = Parameters::read(&asked, &["FleetId", "InstanceId", "IpAddress", "Offset", "Limit"])?;
            if mode == Mode::FleetScopedKey && asked.text("FleetId").is_none() {
                return Err(ApiError::new("UnauthorizedOperation", "the key may call DescribeInstances for its own fleets only"));
            }
            describe(&asked, inventory, request_id, wrong_ids)
        }
        Action::ListFleets => {
            Parameters::read(&asked, &["AssetId", "Offset", "Limit"])?;
            let fleets = inventory.fleets();
            respond(&serde_json::json!({"FleetIds": fleets, "TotalCount": fleets.len(), "RequestId": request_id}))
        }
        Action::ResolveAlias => {
            let asked = Parameters::read(&asked, &["AliasId"])?;
            let alias = asked.required("AliasId")?;
            let fleet = inventory.alias(alias).ok_or_else(|| ApiError::new("ResourceNotFound", format!("no alias {alias}")))?;
            respond(&serde_json::json!({"FleetId": fleet, "RequestId": request_id}))
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Access<'a> {
    credentials: Credentials<'a>,
    fleet_id: &'a str,
    instance_id: &'a str,
    ip_address: String,
    operating_system: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Credentials<'a> {
    user_name: &'a str,
    secret: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct AccessResponse<'a> {
    instance_access: Access<'a>,
    request_id: &'a str,
}

#[derive(Serialize)]
struct Envelope<T> {
    #[serde(rename = "Response")]
    response: T,
}

fn access(record: &InstanceRecord, request_id: &str, wrong_ids: bool) -> Body {
    let secret = std::str::from_utf8(record.secret.expose()).unwrap_or_default();
    let (fleet_id, instance_id) =
        if wrong_ids { ("fleet-someother", "ins-someother") } else { (record.fleet.as_str(), record.instance.as_str()) };
    let envelope = Envelope {
        response: AccessResponse {
            instance_access: Access {
                credentials: Credentials { user_name: &record.login, secret },
                fleet_id,
                instance_id,
                ip_address: record.address.to_string(),
                operating_system: &record.operating_system,
            },
            request_id,
        },
    };
    // Room for the escaped secret, so that no copy of it is left behind by a growing buffer.
    let mut body = Zeroizing::new(Vec::with_capacity(4096 + 6 * secret.len()));
    if serde_json::to_writer(&mut *body, &envelope).is_err() {
        return error_body(&ApiError::new("InternalError", "the answer cannot be written"), request_id);
    }
    body
}

fn describe(asked: &Parameters<'_>, inventory: &Inventory, request_id: &str, wrong_ids: bool) -> Result<Body, ApiError> {
    let limit = asked.number("Limit")?.unwrap_or(20);
    if limit > 100 {
        return Err(ApiError::new("InvalidParameterValue", "Limit must be at most 100"));
    }
    let wanted = |name: &str, value: &str| asked.text(name).is_none_or(|text| text == value);
    let found: Vec<&InstanceRecord> = inventory
        .instances()
        .filter(|record| {
            wanted("FleetId", &record.fleet) && wanted("InstanceId", &record.instance) && wanted("IpAddress", &record.address.to_string())
        })
        .collect();
    let page: Vec<Value> = found
        .iter()
        .skip(asked.number("Offset")?.unwrap_or(0))
        .take(limit)
        .map(|record| {
            serde_json::json!({
                "FleetId": if wrong_ids { "fleet-someother" } else { &record.fleet },
                "InstanceId": if wrong_ids { "ins-someother" } else { &record.instance },
                "IpAddress": record.address.to_string(),
                "PrivateIpAddress": record.address.to_string(),
                "DnsName": null,
                "OperatingSystem": record.operating_system,
                "Status": record.status,
                "Type": "S5.MEDIUM4",
                "CreateTime": "2021-01-01T00:00:00Z",
            })
        })
        .collect();
    respond(&serde_json::json!({"Instances": page, "TotalCount": found.len(), "RequestId": request_id}))
}

fn respond(response: &Value) -> Result<Body, ApiError> {
    Ok(Zeroizing::new(serde_json::json!({"Response": response}).to_string().into_bytes()))
}

/// The parameters of a call; every name is known.
struct Parameters<'a>(&'a Map<String, Value>);

impl<'a> Parameters<'a> {
    fn read(asked: &'a Map<String, Value>, known: &[&str]) -> Result<Self, ApiError> {
        for (name, value) in asked {
            if !known.contains(&name.as_str()) {
                return Err(ApiError::new("UnknownParameter", format!("the parameter {name} is not known")));
            }
            let right = if matches!(name.as_str(), "Offset" | "Limit") { value.is_u64() } else { value.is_string() };
            if !right && !value.is_null() {
                return Err(ApiError::new("InvalidParameter", format!("the parameter {name} has the wrong type")));
            }
        }
        Ok(Self(asked))
    }

    fn text(&self, name: &str) -> Option<&'a str> {
        self.0.get(name).and_then(Value::as_str)
    }

    fn required(&self, name: &str) -> Result<&'a str, ApiError> {
        self.text(name).ok_or_else(|| ApiError::new("MissingParameter", format!("the parameter {name} is missing")))
    }

    fn number(&self, name: &str) -> Result<Option<usize>, ApiError> {
        let Some(number) = self.0.get(name).and_then(Value::as_u64) else { return Ok(None) };
        usize::try_from(number).map(Some).map_err(|_| ApiError::new("InvalidParameterValue", format!("{name} is too large")))
    }
}
