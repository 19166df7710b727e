use aws_lc_rs::rand;

use super::cipher::CipherName;
use super::host_key::SignatureAlgorithm;
use super::kex::Method;
use super::mac::MacName;
use super::preferences::{Preferences, is_legacy};
use super::wire::{Reader, put_string};
use super::{Role, TransportError, msg};

const EXT_INFO_C: &str = "ext-info-c";
const EXT_INFO_S: &str = "ext-info-s";
const STRICT_C: &str = "kex-strict-c-v00@openssh.com";
const STRICT_S: &str = "kex-strict-s-v00@openssh.com";

/// A KEXINIT (RFC 4253, 7.1).
#[derive(Debug, Clone)]
pub struct KexInit {
    pub kex: Vec<String>,
    pub host_key: Vec<String>,
    pub ciphers_c2s: Vec<String>,
    pub ciphers_s2c: Vec<String>,
    pub macs_c2s: Vec<String>,
    pub macs_s2c: Vec<String>,
    pub compression_c2s: Vec<String>,
    pub compression_s2c: Vec<String>,
    pub first_kex_packet_follows: bool,
}

impl KexInit {
    /// `payload` is the whole message, its number included.
    pub fn parse(payload: &[u8]) -> Result<Self, TransportError> {
        let mut reader = Reader::new(payload);
        reader.u8()?;
        reader.bytes::<16>()?;
        let mut list = || -> Result<Vec<String>, TransportError> { Ok(reader.names()?.map(str::to_owned).collect()) };
        let [kex, host_key, ciphers_c2s, ciphers_s2c, macs_c2s, macs_s2c, compression_c2s, compression_s2c] =
            [list()?, list()?, list()?, list()?, list()?, list()?, list()?, list()?];
        reader.string()?; // languages
        reader.string()?;
        let first_kex_packet_follows = reader.bool()?;
        Ok(Self { kex, host_key, ciphers_c2s, ciphers_s2c, macs_c2s, macs_s2c, compression_c2s, compression_s2c, first_kex_packet_follows })
    }

    /// The message that offers `ours`. The markers of RFC 8308 and strict KEX go into the first one of a connection only.
    pub(super) fn build(ours: &Preferences, role: Role, first: bool) -> Result<Vec<u8>, TransportError> {
        let mut cookie = [0; 16];
        rand::fill(&mut cookie).map_err(|_| TransportError::Crypto("random numbers"))?;
        let mut kex = ours.kex.clone();
        if first {
            kex.extend(match role {
                Role::Client => [EXT_INFO_C, STRICT_C],
                Role::Server => [EXT_INFO_S, STRICT_S],
            });
        }
        let mut out = vec![msg::KEXINIT];
        out.extend_from_slice(&cookie);
        for list in [&kex, &ours.host_key, &ours.ciphers, &ours.ciphers, &ours.macs, &ours.macs] {
            put_string(&mut out, list.join(",").as_bytes());
        }
        for list in ["none", "none", "", ""] {
            put_string(&mut out, list.as_bytes());
        }
        out.extend_from_slice(&[0; 5]); // no packet follows; reserved
        Ok(out)
    }

    pub(super) fn offers_strict(&self, role_of_sender: Role) -> bool {
        let marker = if role_of_sender == Role::Client { STRICT_C } else { STRICT_S };
        self.kex.iter().any(|name| name == marker)
    }

    pub(super) fn offers_ext_info(&self, role_of_sender: Role) -> bool {
        let marker = if role_of_sender == Role::Client { EXT_INFO_C } else { EXT_INFO_S };
        self.kex.iter().any(|name| name == marker)
    }

    pub(super) fn offers_gcm(&self) -> bool {
        let gcm = |list: &[String]| list.iter().any(|name| name.ends_with("-gcm@openssh.com"));
        gcm(&self.ciphers_c2s) && gcm(&self.ciphers_s2c)
    }
}

/// What both sides will use.
#[derive(Debug, Clone)]
pub struct Negotiated {
    pub(super) method: Method,
    pub(super) host_key: SignatureAlgorithm,
    pub(super) cipher_c2s: CipherName,
    pub(super) cipher_s2c: CipherName,
    pub(super) mac_c2s: Option<MacName>,
    pub(super) mac_s2c: Option<MacName>,
    /// Whether a packet that the peer sent on a guess is to be skipped.
    pub(super) skip_guess: bool,
}

impl Negotiated {
    /// The rule of RFC 4253, 7.1: the first name on the client's list that the server has too.
    pub(super) fn choose(ours: &Preferences, role: Role, peer: &KexInit) -> Result<Self, TransportError> {
        let kex = pick("key exchange method", &ours.kex, role, &peer.kex)?;
        let host_key = pick("host key algorithm", &ours.host_key, role, &peer.host_key)?;
        let cipher_c2s = pick("cipher", &ours.ciphers, role, &peer.ciphers_c2s)?;
        let cipher_s2c = pick("cipher", &ours.ciphers, role, &peer.ciphers_s2c)?;
        let unknown = |_: ()| TransportError::Crypto("an algorithm that is offered but not there");
        let cipher_c2s = CipherName::find(cipher_c2s).ok_or(()).map_err(unknown)?;
        let cipher_s2c = CipherName::find(cipher_s2c).ok_or(()).map_err(unknown)?;
        let mac = |cipher: CipherName, theirs: &[String]| match cipher.is_aead() {
            true => Ok(None),
            false => MacName::find(pick("MAC", &ours.macs, role, theirs)?).ok_or(()).map_err(unknown).map(Some),
        };
        let (mac_c2s, mac_s2c) = (mac(cipher_c2s, &peer.macs_c2s)?, mac(cipher_s2c, &peer.macs_s2c)?);
        pick("compression", &["none"], role, &peer.compression_c2s)?;
        pick("compression", &["none"], role, &peer.compression_s2c)?;
        // Right is a guess only where both sides prefer the same (RFC 4253, 7.1), whatever is chosen in the end.
        let both_prefer = |ours: &[&str], theirs: &[String]| ours.first().copied() == theirs.first().map(String::as_str);
        let guessed_right = both_prefer(&ours.kex, &peer.kex) && both_prefer(&ours.host_key, &peer.host_key);
        Ok(Self {
            method: Method::find(kex).ok_or(()).map_err(unknown)?,
            host_key: SignatureAlgorithm::find(host_key).ok_or(()).map_err(unknown)?,
            cipher_c2s,
            cipher_s2c,
            mac_c2s,
            mac_s2c,
            skip_guess: peer.first_kex_packet_follows && !guessed_right,
        })
    }

    /// What was agreed on although it is weak, for the audit: each name once.
    pub fn weak(&self) -> Vec<&'static str> {
        let macs = [self.mac_c2s, self.mac_s2c].into_iter().flatten().map(|mac| mac.name);
        let all = [self.method.name(), self.host_key.name(), self.cipher_c2s.name, self.cipher_s2c.name].into_iter().chain(macs);
        let mut weak = Vec::new();
        for name in all.filter(|name| is_legacy(name)) {
            if !weak.contains(&name) {
                weak.push(name);
            }
        }
        weak
    }

    /// For log and audit: `curve25519-sha256 ssh-ed25519 aes128-gcm@openssh.com`.
    pub fn describe(&self) -> String {
        let direction = |cipher: CipherName, mac: Option<MacName>| match mac {
            Some(mac) => format!("{}+{}", cipher.name, mac.name),
            None => cipher.name.to_owned(),
        };
        let (up, down) = (direction(self.cipher_c2s, self.mac_c2s), direction(self.cipher_s2c, self.mac_s2c));
        let ciphers = if up == down { up } else { format!("{up}/{down}") };
        format!("{} {} {ciphers}", self.method.name(), self.host_key.name())
    }
}

/// The first name on the client's list that the server has too.
pub(super) fn first_in_common(ours: &[&'static str], role: Role, theirs: &[String]) -> Option<&'static str> {
    match role {
        Role::Client => ours.iter().copied().find(|name| theirs.iter().any(|their| their == name)),
        Role::Server => theirs.iter().find_map(|their| ours.iter().copied().find(|name| their == name)),
    }
}

fn pick(what: &'static str, ours: &[&'static str], role: Role, theirs: &[String]) -> Result<&'static str, TransportError> {
    first_in_common(ours, role, theirs).ok_or_else(|| {
        // An operator reads it: RFC 4251, 6 leaves printable ASCII to the names.
        let joined = theirs.join(",");
        let mut theirs: String = joined.chars().filter(char::is_ascii_graphic).take(1024).collect();
        if theirs.len() < joined.len() {
            theirs.push('…');
        }
        TransportError::NoCommon { what, ours: ours.join(","), theirs }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(role: Role, edit: impl FnOnce(&mut Preferences)) -> KexInit {
        let mut preferences = Preferences::modern();
        edit(&mut preferences);
        KexInit::parse(&KexInit::build(&preferences, role, true).unwrap()).unwrap()
    }

    #[test]
    fn the_clients_order_decides_in_either_role() {
        let client = from(Role::Client, |p| p.ciphers = vec!["aes256-ctr", "aes128-gcm@openssh.com"]);
        let chosen = Negotiated::choose(&Preferences::modern(), Role::Server, &client).unwrap();
        assert_eq!(chosen.cipher_c2s.name, "aes256-ctr");
        assert_eq!(chosen.mac_c2s.unwrap().name, "hmac-sha2-256-etm@openssh.com");
        let server = from(Role::Server, |p| p.ciphers.reverse());
        let chosen = Negotiated::choose(&Preferences::modern(), Role::Client, &server).unwrap();
        assert_eq!(chosen.cipher_s2c.name, "aes128-gcm@openssh.com");
        assert!(chosen.mac_s2c.is_none());
        assert_eq!(chosen.describe(), "mlkem768x25519-sha256 ssh-ed25519 aes128-gcm@openssh.com");
    }

    #[test]
    fn nothing_in_common_names_both_lists() {
        let server = from(Role::Server, |p| p.kex = vec!["diffie-hellman-group1-sha1"]);
        let error = Negotiated::choose(&Preferences::modern(), Role::Client, &server).unwrap_err().to_string();
        assert!(error.contains("key exchange method") && error.contains("diffie-hellman-group1-sha1"), "{error}");
    }

    #[test]
    fn the_markers_are_seen_and_no_markers_are_chosen() {
        let client = from(Role::Client, |_| {});
        assert!(client.offers_strict(Role::Client) && client.offers_ext_info(Role::Client) && client.offers_gcm());
        assert!(!client.offers_strict(Role::Server));
        let again = KexInit::parse(&KexInit::build(&Preferences::modern(), Role::Client, false).unwrap()).unwrap();
        assert!(!again.offers_strict(Role::Client) && !again.offers_ext_info(Role::Client));
    }

    #[test]
    fn a_wrong_guess_is_skipped_and_a_right_one_is_not() {
        let mut client = from(Role::Client, |_| {});
        client.first_kex_packet_follows = true;
        assert!(!Negotiated::choose(&Preferences::modern(), Role::Server, &client).unwrap().skip_guess);
        // The client's first choice is taken, but it is not the server's first.
        client.kex.remove(0);
        let chosen = Negotiated::choose(&Preferences::modern(), Role::Server, &client).unwrap();
        assert_eq!((chosen.method.name(), chosen.skip_guess), ("curve25519-sha256", true));
        client.kex.insert(0, "sntrup761x25519-sha512".to_owned());
        assert!(Negotiated::choose(&Preferences::modern(), Role::Server, &client).unwrap().skip_guess);
    }
}
