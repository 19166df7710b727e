/// What to do about an error code of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Class {
    /// Too many requests, ours or another's under the same account: slow down, then retry.
    Throttled,
    /// The API's own trouble: retry.
    Unavailable,
    /// The API key was not taken: read it again, retry once.
    Key,
    /// The clocks differ by more than five minutes: take the offset, retry once.
    Clock,
    NotFound,
    /// The API said no to this very request: the operator is told.
    Refused,
    /// The broker's key, permissions or settings are wrong: the administrator is needed.
    Misconfigured,
    /// The action, product or version is no longer there.
    Gone,
}

/// The part before the first dot, or the whole code, with its class. The names are ours, so they may be shown where the API's text may not.
const CLASSES: [(&str, Class); 32] = [
    ("AuthFailure.TokenFailure", Class::Key),
    ("AuthFailure.SecretIdNotFound", Class::Key),
    ("AuthFailure.InvalidSecretId", Class::Key),
    ("AuthFailure.SignatureFailure", Class::Key),
    ("AuthFailure.SignatureExpire", Class::Clock),
    ("AuthFailure.UnauthorizedOperation", Class::Misconfigured),
    ("UnauthorizedOperation.ServiceNotOpened", Class::Gone),
    ("RequestLimitExceeded", Class::Throttled),
    ("InternalError", Class::Unavailable),
    ("ServiceUnavailable", Class::Unavailable),
    ("ResourceUnavailable", Class::Unavailable),
    ("ResourceNotFound", Class::NotFound),
    ("InvalidParameter", Class::Refused),
    ("InvalidParameterValue", Class::Refused),
    ("MissingParameter", Class::Refused),
    ("UnsupportedOperation", Class::Refused),
    ("OperationDenied", Class::Refused),
    ("FailedOperation", Class::Refused),
    ("ResourceInUse", Class::Refused),
    ("ResourceInsufficient", Class::Refused),
    ("LimitExceeded", Class::Refused),
    ("UnauthorizedOperation", Class::Misconfigured),
    ("AuthFailure", Class::Misconfigured),
    ("IpNotInWhitelist", Class::Misconfigured),
    ("UnsupportedRegion", Class::Misconfigured),
    ("UnknownParameter", Class::Misconfigured),
    ("UnsupportedProtocol", Class::Misconfigured),
    ("InvalidRequest", Class::Misconfigured),
    ("ActionOffline", Class::Gone),
    ("InvalidAction", Class::Gone),
    ("NoSuchProduct", Class::Gone),
    ("NoSuchVersion", Class::Gone),
];

/// Class and known name of an error code: the full code first, then the part before the first dot. A code that nobody knows is a refusal.
pub(super) fn classify(code: &str) -> (Class, &'static str) {
    let find = |wanted: &str| CLASSES.iter().find(|(name, _)| *name == wanted).map(|(name, class)| (*class, *name));
    let prefix = code.split('.').next().unwrap_or(code);
    find(code).or_else(|| find(prefix)).unwrap_or((Class::Refused, "an error that this broker does not know"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_full_code_wins_over_the_part_before_the_dot() {
        for (code, class) in [
            ("RequestLimitExceeded", Class::Throttled),
            ("RequestLimitExceeded.UinLimitExceeded", Class::Throttled),
            ("InternalError.DbFailure", Class::Unavailable),
            ("ServiceUnavailable", Class::Unavailable),
            ("AuthFailure.SignatureFailure", Class::Key),
            ("AuthFailure.SignatureExpire", Class::Clock),
            ("AuthFailure.MFAFailure", Class::Misconfigured),
            ("AuthFailure.UnauthorizedOperation", Class::Misconfigured),
            ("UnauthorizedOperation", Class::Misconfigured),
            ("UnauthorizedOperation.CamNoAuth", Class::Misconfigured),
            ("UnauthorizedOperation.ServiceNotOpened", Class::Gone),
            ("ResourceNotFound.InstanceNotFound", Class::NotFound),
            ("InvalidParameterValue.InstanceId", Class::Refused),
            ("LimitExceeded.X.Y", Class::Refused),
            ("InvalidAction", Class::Gone),
            ("ActionOffline", Class::Gone),
            ("", Class::Refused),
            ("Resource", Class::Refused),
            ("resourcenotfound", Class::Refused),
        ] {
            assert_eq!(classify(code).0, class, "{code}");
        }
        assert_eq!(classify("InvalidParameterValue.10.0.0.1").1, "InvalidParameterValue");
    }
}
