//! The texts that values are written as: durations, sizes, paths, endpoints, networks.

use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use reqwest::Url;

/// Stands at the beginning of a path for the directory in which systemd's `LoadCredential=` puts its files.
const CREDENTIALS_DIRECTORY: [&str; 2] = ["${CREDENTIALS_DIRECTORY}/", "$CREDENTIALS_DIRECTORY/"];

pub(super) const KIB: usize = 1024;
pub(super) const MIB: usize = 1024 * KIB;

/// `20s`, `5m`, `1h 30m`. The range keeps a slip of the pen from becoming a wait of years.
pub(super) fn duration(text: &str, range: RangeInclusive<Duration>) -> Result<Duration, String> {
    let shown = |duration: &Duration| humantime::format_duration(*duration).to_string();
    let right = || format!("write a duration from {} to {}, such as \"20s\" or \"5m\"", shown(range.start()), shown(range.end()));
    match humantime::parse_duration(text) {
        Ok(duration) if range.contains(&duration) => Ok(duration),
        Ok(_) => Err(format!("{text:?} is out of range: {}", right())),
        Err(_) => Err(format!("{} is not a duration: {}", quoted(text), right())),
    }
}

/// `512KiB`, `4MiB`: bytes.
pub(super) fn size(text: &str, range: RangeInclusive<usize>) -> Result<usize, String> {
    let right =
        || format!("write a size from {}KiB to {}MiB with its unit (KiB, MiB), such as \"4MiB\"", range.start() / KIB, range.end() / MIB);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let unit = match unit.trim_start() {
        "B" => Some(1),
        "KiB" => Some(KIB),
        "MiB" => Some(MIB),
        "GiB" => Some(1024 * MIB),
        _ => None,
    };
    let bytes = number.parse::<usize>().ok().zip(unit).ok_or_else(|| format!("{} is not a size: {}", quoted(text), right()))?;
    let bytes = bytes.0.checked_mul(bytes.1).filter(|bytes| range.contains(bytes));
    bytes.ok_or_else(|| format!("{} is out of range: {}", quoted(text), right()))
}

/// An absolute path. Relative ones would depend on where the daemon was started.
pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    match text.starts_with('/') && !text.contains('\0') {
        true => Ok(PathBuf::from(text)),
        false => Err(format!("{} is not an absolute path: it must begin with /", quoted(text))),
    }
}

/// The path of a file with a secret in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum SecretPath {
    At(PathBuf),
    /// It is below `$CREDENTIALS_DIRECTORY`, which is not set here; this is the path as written.
    OnlyUnderSystemd(PathBuf),
}

/// The text is never shown: whoever mistakes the key for a place to put the secret itself finds it in no log.
pub(super) fn secret_path(text: &str, credentials_directory: Option<&str>) -> Result<SecretPath, String> {
    if let Some(rest) = CREDENTIALS_DIRECTORY.iter().find_map(|prefix| text.strip_prefix(prefix)) {
        return match credentials_directory {
            Some(directory) => path(directory)
                .map(|directory| SecretPath::At(directory.join(rest)))
                .map_err(|error| format!("the variable CREDENTIALS_DIRECTORY is wrong: {error}")),
            None => Ok(SecretPath::OnlyUnderSystemd(PathBuf::from(text))),
        };
    }
    path(text).map(SecretPath::At).map_err(|_| {
        "is not an absolute path: write the path of a file that holds the secret (never the secret itself), such as \
         \"/etc/ssh-broker/secret_key\" or \"${CREDENTIALS_DIRECTORY}/secret_key\""
            .to_owned()
    })
}

/// `https://host[:port]`, or plain http to a loopback address.
pub(super) fn endpoint(text: &str) -> Result<String, String> {
    const RIGHT: &str = "write https://host or https://host:port";
    // User information may be a password, so such a text is not shown.
    if text.contains('@') {
        return Err(format!("holds user information (an @), which is never sent: {RIGHT}"));
    }
    let wrong = |what: &str| format!("{} {what}: {RIGHT}", quoted(text));
    if text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\') {
        return Err(wrong("holds a blank, a control character or a backslash"));
    }
    let url = Url::parse(text).map_err(|error| wrong(&format!("is not a URL ({error})")))?;
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or_else(|| wrong("names no host"))?;
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    match url.scheme() {
        "https" => {}
        "http" if address.is_some_and(|address| address.is_loopback()) => {}
        "http" => {
            return Err(format!("{} is plain http to a host that is not loopback: use https, or a loopback address", quoted(text)));
        }
        _ => return Err(wrong("is neither https nor http")),
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("holds a path, a query or a fragment, but requests go to /"));
    }
    if url.port() == Some(0) {
        return Err(wrong("names port 0"));
    }
    Ok(url.origin().ascii_serialization())
}

pub(super) fn region(text: &str) -> Result<String, String> {
    let is_region = !text.is_empty() && text.len() <= 64 && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    match is_region {
        true => Ok(text.to_owned()),
        false => Err(format!("{} is not a region: write a-z, 0-9 and '-', such as \"ap-shanghai\"", quoted(text))),
    }
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| format!("{} is not an address with a port: write \"[::]:2222\", \"0.0.0.0:2222\" or \"192.0.2.7:22\"", quoted(text)))
}

/// `10.0.0.0/8`. One address is a network of its own, and bits beyond the prefix are a slip.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let wrong = || format!("{} is not a network: write \"10.0.0.0/8\", \"fd00::/8\" or one address", quoted(text));
    let network = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| wrong())?,
    };
    match network == network.trunc() {
        true => Ok(network),
        false => Err(format!("{text:?} has bits set beyond its prefix: write \"{}\"", network.trunc())),
    }
}

/// What stood there, in quotes and not endless.
pub(super) fn quoted(text: &str) -> String {
    let shown: String = text.chars().take(80).collect();
    match shown.len() < text.len() {
        true => format!("{shown:?}…"),
        false => format!("{shown:?}"),
    }
}
