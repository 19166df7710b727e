use std::net::IpAddr;

use ssh_key::Certificate;

use super::key_rules::{acceptable, acceptable_signature, fingerprint};
use super::source_list::SourceList;
use crate::access::{OperatorName, Restrictions};

/// Characters of a certificate's key id that the audit keeps.
const KEY_ID_MAX: usize = 64;

/// Everything that a user certificate must satisfy but one: that its authority is trusted, and for this operator, is the caller's to know.
///
/// That its bearer holds the certified key was proven by the signature over the session; this checks what the authority signed.
pub(super) fn check(certificate: &Certificate, source: IpAddr, now: u64) -> Result<Restrictions, String> {
    if !certificate.cert_type().is_user() {
        return Err("a host certificate proves no operator".to_owned());
    }
    acceptable(certificate.public_key())?;
    acceptable(certificate.signature_key()).map_err(|reason| format!("the certificate's authority: {reason}"))?;
    acceptable_signature(&certificate.signature().algorithm(), certificate.signature_key())
        .map_err(|reason| format!("the certificate's authority: {reason}"))?;
    certificate.verify_signature().map_err(|_| "the authority's signature on the certificate is wrong".to_owned())?;
    if now < certificate.valid_after() {
        return Err("the certificate is not valid yet".to_owned());
    }
    if now >= certificate.valid_before() {
        return Err("the certificate has expired".to_owned());
    }
    if certificate.valid_principals().is_empty() {
        return Err("the certificate names no principal, so it would stand for everybody: sign it with -n".to_owned());
    }
    for (name, value) in certificate.critical_options().iter() {
        check_critical(name, value, source)?;
    }
    let lacks = |extension: &str| !certificate.extensions().contains_key(extension);
    Ok(Restrictions {
        no_pty: lacks("permit-pty"),
        no_port_forwarding: lacks("permit-port-forwarding"),
        no_agent_forwarding: lacks("permit-agent-forwarding"),
        no_x11_forwarding: lacks("permit-X11-forwarding"),
    })
}

/// PROTOCOL.certkeys: a critical option that is not honoured refuses the certificate.
fn check_critical(name: &str, value: &str, source: IpAddr) -> Result<(), String> {
    match name {
        "source-address" => match SourceList::parse_networks(value) {
            Ok(list) if list.admits(source) => Ok(()),
            Ok(_) => Err(format!("the certificate does not admit {} (source-address)", source.to_canonical())),
            Err(error) => Err(format!("the certificate's source-address: {error}")),
        },
        other => {
            let shown: String = other.chars().take(40).filter(|c| !c.is_control()).collect();
            Err(format!("the certificate's critical option {shown:?} cannot be honoured by a broker"))
        }
    }
}

/// How the audit names it: `SHA256:… (cert "key id", serial 7, CA SHA256:…)`.
pub(super) fn describe(certificate: &Certificate) -> String {
    let is_plain = |c: char| !c.is_control() && c != '"' && c != '\\';
    let mut key_id: String = certificate.key_id().chars().take(KEY_ID_MAX).map(|c| if is_plain(c) { c } else { '?' }).collect();
    if certificate.key_id().chars().nth(KEY_ID_MAX).is_some() {
        key_id.push('…');
    }
    let (key, authority) = (fingerprint(certificate.public_key()), fingerprint(certificate.signature_key()));
    format!("{key} (cert \"{key_id}\", serial {}, CA {authority})", certificate.serial())
}

/// Whether the operator's own name is among the principals.
pub(super) fn names(certificate: &Certificate, operator: &OperatorName) -> bool {
    certificate.valid_principals().iter().any(|principal| principal == operator.as_str())
}
