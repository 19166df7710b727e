use super::Role;
use super::negotiate::KexInit;

/// The algorithms that a leg offers, best first, by the names of the registries.
#[derive(Debug, Clone)]
pub struct Preferences {
    pub kex: Vec<&'static str>,
    pub host_key: Vec<&'static str>,
    pub ciphers: Vec<&'static str>,
    pub macs: Vec<&'static str>,
    /// As a server, leave nothing but AES-GCM to a client that has it: OpenSSH before 10 prefers ciphers that cost twice the CPU, and the
    /// client's order decides (RFC 4253, 7.1).
    pub gcm_alone: bool,
}

/// What instances from before OpenSSH 6.5 or so may have alone, best first: SHA-1 and MD5, CBC, groups that the peer chooses or of 1024
/// bits. A client's leg may offer it, a server's never does. `ssh-dss` (1024 bits, and a key that a bad random number gives away) is not
/// here at all.
pub(super) const LEGACY_KEX: [&str; 4] = [
    "diffie-hellman-group-exchange-sha256",
    "diffie-hellman-group14-sha1",
    "diffie-hellman-group-exchange-sha1",
    "diffie-hellman-group1-sha1",
];
pub(super) const SSH_RSA: &str = "ssh-rsa";
pub(super) const LEGACY_CIPHERS: [&str; 4] = ["aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc"];
pub(super) const LEGACY_MACS: [&str; 3] = ["hmac-sha1-etm@openssh.com", "hmac-sha1", "hmac-md5"];

/// Whether an algorithm is one of those that only old instances are offered.
pub fn is_legacy(name: &str) -> bool {
    name == SSH_RSA || LEGACY_KEX.contains(&name) || LEGACY_CIPHERS.contains(&name) || LEGACY_MACS.contains(&name)
}

impl Preferences {
    /// Modern algorithms only.
    pub fn modern() -> Self {
        Self {
            kex: vec![
                "mlkem768x25519-sha256",
                "curve25519-sha256",
                "curve25519-sha256@libssh.org",
                "ecdh-sha2-nistp256",
                "ecdh-sha2-nistp384",
                "ecdh-sha2-nistp521",
                "diffie-hellman-group16-sha512",
                "diffie-hellman-group14-sha256",
            ],
            host_key: vec![
                "ssh-ed25519",
                "ecdsa-sha2-nistp256",
                "ecdsa-sha2-nistp384",
                "ecdsa-sha2-nistp521",
                "rsa-sha2-512",
                "rsa-sha2-256",
            ],
            ciphers: vec![
                "aes128-gcm@openssh.com",
                "aes256-gcm@openssh.com",
                "chacha20-poly1305@openssh.com",
                "aes128-ctr",
                "aes192-ctr",
                "aes256-ctr",
            ],
            macs: vec!["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com", "hmac-sha2-256", "hmac-sha2-512"],
            gcm_alone: false,
        }
    }

    /// The modern ones, and behind them the legacy ones.
    pub fn with_legacy() -> Self {
        let mut all = Self::modern();
        all.kex.extend(LEGACY_KEX);
        all.host_key.push(SSH_RSA);
        all.ciphers.extend(LEGACY_CIPHERS);
        all.macs.extend(LEGACY_MACS);
        all
    }

    fn lists(&mut self) -> [&mut Vec<&'static str>; 4] {
        [&mut self.kex, &mut self.host_key, &mut self.ciphers, &mut self.macs]
    }

    pub(super) fn has_legacy(&self) -> bool {
        [&self.kex, &self.host_key, &self.ciphers, &self.macs].into_iter().flatten().any(|name| is_legacy(name))
    }

    pub(super) fn drop_legacy(&mut self) {
        for list in self.lists() {
            list.retain(|name| !is_legacy(name));
        }
    }

    /// Of the legacy ones, a client keeps only those that this server's offer leaves as the first choice: one of each kind and direction,
    /// and none where something before them is in common.
    pub(super) fn keep_needed_legacy(&mut self, server: &KexInit) {
        let first = |ours: &[&'static str], theirs: &[String]| super::negotiate::first_in_common(ours, Role::Client, theirs);
        let needed = [
            vec![first(&self.kex, &server.kex)],
            vec![first(&self.host_key, &server.host_key)],
            vec![first(&self.ciphers, &server.ciphers_c2s), first(&self.ciphers, &server.ciphers_s2c)],
            vec![first(&self.macs, &server.macs_c2s), first(&self.macs, &server.macs_s2c)],
        ];
        for (list, needed) in self.lists().into_iter().zip(needed) {
            list.retain(|name| !is_legacy(name) || needed.contains(&Some(name)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::negotiate::Negotiated;

    fn offer(edit: impl FnOnce(&mut Preferences)) -> KexInit {
        let mut server = Preferences::with_legacy();
        edit(&mut server);
        KexInit::parse(&KexInit::build(&server, Role::Server, true).unwrap()).unwrap()
    }

    #[test]
    fn a_server_that_has_anything_modern_of_a_kind_sees_nothing_old_of_it() {
        // Everything there is, the old first: nothing old is needed.
        let all = offer(|server| server.lists().into_iter().for_each(|list| list.reverse()));
        let mut ours = Preferences::with_legacy();
        ours.keep_needed_legacy(&all);
        assert!(!ours.has_legacy());
        // One kind after the other.
        let old = offer(|server| server.kex = vec!["diffie-hellman-group1-sha1", "diffie-hellman-group14-sha1"]);
        let mut ours = Preferences::with_legacy();
        ours.keep_needed_legacy(&old);
        assert_eq!(ours.kex.split_last().unwrap(), (&"diffie-hellman-group14-sha1", &Preferences::modern().kex[..]));
        ours.kex.pop();
        assert!(!ours.has_legacy());
    }

    #[test]
    fn an_old_server_is_met_with_the_best_that_it_has() {
        // OpenSSH 5.3, but for what we have of neither side.
        let mut old = offer(|server| {
            server.kex.retain(|name| LEGACY_KEX.contains(name));
            server.host_key = vec!["ssh-rsa", "ssh-dss"];
            server.ciphers = vec!["aes128-ctr", "aes192-ctr", "aes256-ctr", "aes128-cbc", "3des-cbc"];
            server.macs = vec!["hmac-md5", "hmac-sha1"];
        });
        let described = |server: &KexInit| {
            let mut ours = Preferences::with_legacy();
            ours.keep_needed_legacy(server);
            let chosen = Negotiated::choose(&ours, Role::Client, server).unwrap();
            (chosen.describe(), chosen.weak())
        };
        let (all, weak) = described(&old);
        assert_eq!(all, "diffie-hellman-group-exchange-sha256 ssh-rsa aes128-ctr+hmac-sha1");
        assert_eq!(weak, ["diffie-hellman-group-exchange-sha256", "ssh-rsa", "hmac-sha1"]);
        // The directions may differ, and each gets what it needs.
        old.ciphers_s2c = vec!["3des-cbc".to_owned()];
        old.macs_s2c = vec!["hmac-md5".to_owned()];
        let (all, weak) = described(&old);
        assert_eq!(all, "diffie-hellman-group-exchange-sha256 ssh-rsa aes128-ctr+hmac-sha1/3des-cbc+hmac-md5");
        assert_eq!(weak, ["diffie-hellman-group-exchange-sha256", "ssh-rsa", "3des-cbc", "hmac-sha1", "hmac-md5"]);
    }

    #[test]
    fn a_pinned_rsa_key_is_asked_for_even_where_only_sha_1_signs_with_it() {
        let old = offer(|server| server.host_key = vec!["ecdsa-sha2-nistp256", "ssh-rsa"]);
        let mut ours = Preferences::with_legacy();
        ours.keep_needed_legacy(&old);
        assert!(!ours.has_legacy());
        let mut ours = Preferences::with_legacy();
        ours.host_key.sort_by_key(|name| !name.contains("rsa"));
        ours.keep_needed_legacy(&old);
        assert_eq!(Negotiated::choose(&ours, Role::Client, &old).unwrap().weak(), ["ssh-rsa"]);
    }

    #[test]
    fn dsa_is_in_no_list() {
        let mut all = Preferences::with_legacy();
        assert!(all.lists().into_iter().flatten().all(|name| !name.contains("dss") && !name.contains("arcfour")));
    }
}
