use std::sync::Arc;

use aws_lc_rs::digest;
use zeroize::Zeroizing;

use super::cipher::{CipherName, Keys, Opener, Sealer};
use super::derive::KeySource;
use super::kex::{self, ClientHalf, Secret};
use super::mac::{Mac, MacName};
use super::negotiate::{KexInit, Negotiated};
use super::packet::{HEADER, Inbound, Outbound};
use super::preferences::{Preferences, is_legacy};
use super::wire::{Reader, put_string, put_u32};
use super::{Buffer, HostIdentity, HostKey, MAX_HELD, MAX_UNREAD, SignatureAlgorithm, TransportError, msg};

#[cfg(test)]
mod tests;

/// RFC 4253, 4.2: 255 bytes, line end included.
const MAX_VERSION_LINE: usize = 255;
/// OpenSSH's PROTOCOL, 1.9.
const PING_EXTENSION: &[u8] = b"ping@openssh.com";
/// What a held message takes beside its bytes.
const HELD_OVERHEAD: usize = 64;
/// Other lines that a server may send before its version.
const MAX_LINES_BEFORE_VERSION: usize = 64;
/// RFC 4253, 9 recommends a gigabyte or an hour; the packets keep sequence numbers and nonces far from their ends.
const REKEY_BYTES: u64 = 1 << 30;
const REKEY_PACKETS: u64 = 1 << 31;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Client,
    Server,
}

impl Role {
    fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

/// What [`Leg::receive`] found.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Nothing whole yet.
    NeedMore,
    /// Something that ends at this leg; it was dealt with.
    Transport,
    /// A message of the layers above, opened to the tail of the given buffer: its position for [`Buffer::since`] is `start`, its payload
    /// begins [`Leg::HEADER`] bytes later and has `len` bytes.
    Message { start: usize, len: usize },
}

/// Where a leg is in a key exchange.
enum Exchange {
    Idle,
    /// Our KEXINIT is out, the peer's has not come.
    Offered {
        ours: Vec<u8>,
    },
    /// Both KEXINITs are there; the method's own messages follow.
    Running(Box<Running>),
    /// Our NEWKEYS is out, the peer's has not come.
    AwaitingNewKeys {
        opener: Opener,
    },
}

struct Running {
    ours: Vec<u8>,
    theirs: Vec<u8>,
    negotiated: Negotiated,
    /// What a client has sent of the method, and waits for.
    half: Option<ClientHalf>,
    /// The peer guessed wrong: its next message is to be skipped.
    skip: bool,
}

/// One SSH transport, either role: bytes from the peer go into [`Leg::received`], bytes for the peer come out of [`Leg::outgoing`].
pub struct Leg {
    role: Role,
    preferences: Preferences,
    identity: Option<HostIdentity>,
    inbound: Inbound,
    outbound: Outbound,
    our_version: String,
    peer_version: Option<String>,
    lines_before_version: usize,
    exchange: Exchange,
    /// The hash of the first exchange (RFC 4253, 7.2).
    session_id: Option<Arc<[u8]>>,
    strict: bool,
    /// Whether the first key exchange is over inward.
    got_newkeys: bool,
    peer_takes_ext_info: bool,
    server_knows_rsa_sha2: bool,
    /// Whether a client may use legacy algorithms at all.
    takes_legacy: bool,
    host_key: Option<HostKey>,
    negotiated: Option<Negotiated>,
    /// What the login was signed with, when it is weak.
    weak_login: Option<SignatureAlgorithm>,
    /// server-sig-algs of the peer (RFC 8308, 3.1).
    server_sig_algs: Option<Vec<String>>,
    /// The peer announced `ping@openssh.com`.
    answers_pings: bool,
    /// Whether a server announces it.
    takes_pings: bool,
    /// Whether the peer may ask for new keys.
    takes_rekeys: bool,
    held: Vec<Zeroizing<Vec<u8>>>,
    held_bytes: usize,
}

impl Leg {
    /// Bytes of framing in front of a payload that [`Leg::receive`] opened.
    pub const HEADER: usize = HEADER;

    /// A client's leg: its version line and KEXINIT are ready to go.
    pub fn client(preferences: Preferences, version: &str) -> Result<Self, TransportError> {
        let mut leg = Self::patient_client(preferences, version);
        leg.start_kex()?;
        Ok(leg)
    }

    /// A client's leg whose KEXINIT follows the server's, with those legacy algorithms alone that the server leaves no choice but to use;
    /// or [`Leg::start_kex`] for a server that waits for it. It costs no round trip: the message behind the KEXINIT, which needs the
    /// server's, leaves at the same moment either way.
    pub fn patient_client(preferences: Preferences, version: &str) -> Self {
        Self::new(Role::Client, preferences, None, version)
    }

    /// A server's leg: its version line is ready to go; its KEXINIT follows the client's, so that it can be trimmed to it, or
    /// [`Leg::start_kex`] for a client that waits for it.
    pub fn server(mut preferences: Preferences, identity: HostIdentity, version: &str) -> Self {
        preferences.host_key = identity.algorithms();
        preferences.drop_legacy();
        Self::new(Role::Server, preferences, Some(identity), version)
    }

    /// A server's leg whose peer is not told that PINGs are answered (OpenSSH's PROTOCOL, 1.9): nothing passes it to what would.
    #[must_use]
    pub fn without_pings(self) -> Self {
        Self { takes_pings: false, ..self }
    }

    /// Whether the peer may ask for new keys, each of which costs more than it costs the peer.
    pub fn take_rekeys(&mut self, takes: bool) {
        self.takes_rekeys = takes;
    }

    /// Before the first key exchange: leaves nothing but AES-GCM, for a client that is known by its name to have it.
    pub fn keep_gcm_alone(&mut self) {
        self.preferences.ciphers.retain(|name| name.ends_with("-gcm@openssh.com"));
    }

    fn new(role: Role, preferences: Preferences, identity: Option<HostIdentity>, version: &str) -> Self {
        let mut outbound = Outbound::new();
        outbound.buffer.put(version.as_bytes());
        outbound.buffer.put(b"\r\n");
        Self {
            role,
            takes_legacy: role == Role::Client && preferences.has_legacy(),
            preferences,
            identity,
            inbound: Inbound::new(),
            outbound,
            our_version: version.to_owned(),
            peer_version: None,
            lines_before_version: 0,
            exchange: Exchange::Idle,
            session_id: None,
            strict: false,
            got_newkeys: false,
            peer_takes_ext_info: false,
            server_knows_rsa_sha2: false,
            host_key: None,
            negotiated: None,
            weak_login: None,
            server_sig_algs: None,
            answers_pings: false,
            takes_pings: true,
            takes_rekeys: true,
            held: Vec::new(),
            held_bytes: 0,
        }
    }

    /// Where bytes from the peer are put.
    pub fn received(&mut self) -> &mut Buffer {
        &mut self.inbound.received
    }

    /// Where bytes for the peer are taken; also where another leg opens messages to be sealed with [`Leg::forward`].
    pub fn outgoing(&mut self) -> &mut Buffer {
        &mut self.outbound.buffer
    }

    /// Bytes that wait for the peer, sealed or held.
    pub fn waiting(&self) -> usize {
        self.outbound.buffer.len() + self.held_bytes
    }

    pub fn peer_version(&self) -> Option<&str> {
        self.peer_version.as_deref()
    }

    pub fn session_id(&self) -> Option<&Arc<[u8]>> {
        self.session_id.as_ref()
    }

    /// The server's key, verified; its trust is the caller's business.
    pub fn host_key(&self) -> Option<&HostKey> {
        self.host_key.as_ref()
    }

    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// The weak algorithms in use: each name once. A leg in server role never has any.
    pub fn weak(&self) -> Vec<&'static str> {
        let mut weak = self.negotiated.as_ref().map(Negotiated::weak).unwrap_or_default();
        weak.extend(self.weak_login.map(SignatureAlgorithm::name).filter(|name| !weak.contains(name)));
        weak
    }

    /// Forgets the legacy algorithms: for a server that seems to be modern and waits for our KEXINIT.
    pub fn drop_legacy(&mut self) {
        self.preferences.drop_legacy();
        self.takes_legacy = false;
    }

    /// Whether this server may be given a signature with SHA-1: where it tells of no better (RFC 8332, 3.3), or names it and has shown by
    /// what else it uses how old it is.
    pub(super) fn may_sign_with_sha1(&self) -> bool {
        let names_it = |names: &[String]| names.iter().any(|name| name == SignatureAlgorithm::RsaSha1.name());
        self.takes_legacy && self.server_sig_algs().is_none_or(|names| names_it(names) && !self.weak().is_empty())
    }

    /// Whether this server's offer of host keys shows that it knows RSA with SHA-2.
    pub(super) fn server_knows_rsa_sha2(&self) -> bool {
        self.server_knows_rsa_sha2
    }

    /// Notes what the login is signed with.
    pub(super) fn note_login(&mut self, algorithm: SignatureAlgorithm) {
        self.weak_login = Some(algorithm).filter(|algorithm| is_legacy(algorithm.name()));
    }

    pub fn server_sig_algs(&self) -> Option<&[String]> {
        self.server_sig_algs.as_deref()
    }

    /// Whether the peer has announced that it answers PING.
    pub fn answers_pings(&self) -> bool {
        self.answers_pings
    }

    /// Answers a PING of the peer's that goes no further: with a PONG of the same content.
    pub fn answer_ping(&mut self, ping: &[u8]) -> Result<(), TransportError> {
        if self.waiting() > MAX_UNREAD {
            return Err(TransportError::Misbehaved("it has left too much unread to be answered any more"));
        }
        let pong = std::iter::once(msg::PONG).chain(ping.iter().skip(1).copied());
        self.send(&pong.collect::<Vec<_>>())
    }

    /// Whether the first key exchange is over in both directions.
    pub fn is_established(&self) -> bool {
        self.got_newkeys
    }

    /// From the first KEXINIT of either side to the last NEWKEYS of both; and while a broken packet is read past, which needs the same
    /// deadline.
    pub fn in_kex(&self) -> bool {
        !matches!(self.exchange, Exchange::Idle) || self.session_id.is_none() || self.inbound.is_discarding()
    }

    /// Whether the peer's KEXINIT has come, now or before.
    pub fn is_exchanging(&self) -> bool {
        matches!(self.exchange, Exchange::Running(_) | Exchange::AwaitingNewKeys { .. }) || self.got_newkeys
    }

    /// Whether messages of the layers above are held: from our KEXINIT to our NEWKEYS (RFC 4253, 7.1).
    fn holds(&self) -> bool {
        matches!(self.exchange, Exchange::Offered { .. } | Exchange::Running(_)) || self.session_id.is_none()
    }

    /// Whether so much has passed under the present keys that new ones are due.
    pub fn wants_rekey(&self) -> bool {
        let worn = |usage: super::packet::Usage| usage.bytes >= REKEY_BYTES || usage.packets >= REKEY_PACKETS;
        matches!(self.exchange, Exchange::Idle) && self.session_id.is_some() && (worn(self.inbound.usage) || worn(self.outbound.usage))
    }

    /// Offers a key exchange now, unless one is under way.
    #[cold]
    pub fn start_kex(&mut self) -> Result<(), TransportError> {
        if matches!(self.exchange, Exchange::Idle) {
            let ours = KexInit::build(&self.preferences, self.role, self.session_id.is_none())?;
            self.outbound.put(&ours)?;
            self.exchange = Exchange::Offered { ours };
        }
        Ok(())
    }

    /// Sends one message of the layers above, or holds it while a key exchange forbids it.
    pub fn send(&mut self, payload: &[u8]) -> Result<(), TransportError> {
        if self.holds() { self.hold(payload.to_vec()) } else { self.outbound.put(payload) }
    }

    /// Sends the message that another leg opened to the tail of [`Leg::outgoing`], without a copy.
    pub fn forward(&mut self, start: usize, len: usize) -> Result<(), TransportError> {
        if !self.holds() {
            return self.outbound.seal(start, len);
        }
        let payload = payload(self.outbound.buffer.since(start), len).to_vec();
        self.outbound.buffer.truncate(start);
        self.hold(payload)
    }

    /// Sends a message whatever the state of the leg forbids: a peer that breaks the protocol.
    #[cfg(any(fuzzing, test))]
    pub(super) fn send_regardless(&mut self, payload: &[u8]) -> Result<(), TransportError> {
        self.outbound.put(payload)
    }

    /// As if its keys had sealed as many packets as they ever may.
    #[cfg(test)]
    pub(crate) fn wear_out(&mut self) {
        self.outbound.usage.packets = 1 << 32;
    }

    #[cold]
    fn hold(&mut self, payload: Vec<u8>) -> Result<(), TransportError> {
        self.held_bytes += payload.len() + HELD_OVERHEAD;
        if self.held_bytes > MAX_HELD {
            return Err(TransportError::HeldTooMuch);
        }
        self.held.push(Zeroizing::new(payload));
        Ok(())
    }

    /// Says good-bye (RFC 4253, 11.1). It passes in the midst of a key exchange too.
    pub fn disconnect(&mut self, reason: u32, text: &str) -> Result<(), TransportError> {
        let mut message = vec![msg::DISCONNECT];
        put_u32(&mut message, reason);
        put_string(&mut message, text.as_bytes());
        put_string(&mut message, b"");
        self.outbound.put(&message)
    }

    /// Takes the next line or packet from what was received. A message of the layers above is opened to the tail of `into`.
    pub fn receive(&mut self, into: &mut Buffer) -> Result<Received, TransportError> {
        if self.peer_version.is_none() {
            return self.receive_version();
        }
        let start = into.tail();
        let Some(len) = self.inbound.open_next(into)? else { return Ok(Received::NeedMore) };
        let message = payload(into.since(start), len);
        match message.first() {
            Some(number) if *number > msg::LAST_TRANSPORT || matches!(*number, msg::SERVICE_REQUEST | msg::SERVICE_ACCEPT) => {
                let taken = match &self.exchange {
                    _ if self.session_id.is_none() => Err(TransportError::Misbehaved("a message came before the first key exchange")),
                    Exchange::Running(_) | Exchange::AwaitingNewKeys { .. } => {
                        Err(TransportError::Misbehaved("a message came between the peer's KEXINIT and its NEWKEYS"))
                    }
                    Exchange::Idle | Exchange::Offered { .. } => Ok(Received::Message { start, len }),
                };
                if taken.is_err() {
                    into.truncate(start);
                }
                taken
            }
            _ => {
                let message = message.to_vec();
                into.truncate(start);
                self.take_transport(&message)?;
                Ok(Received::Transport)
            }
        }
    }

    /// RFC 4253, 4.2: `SSH-2.0-…`, with other lines before it from a server.
    #[cold]
    fn receive_version(&mut self) -> Result<Received, TransportError> {
        let received = &mut self.inbound.received;
        let Some(end) = received.unsent().iter().position(|byte| *byte == b'\n') else {
            return match received.len() > MAX_VERSION_LINE {
                true => Err(TransportError::Misbehaved("the version line is too long")),
                false => Ok(Received::NeedMore),
            };
        };
        let line: Vec<u8> = received.unsent().iter().take(end + 1).copied().collect();
        received.sent(end + 1);
        let line = line.strip_suffix(b"\r\n").or_else(|| line.strip_suffix(b"\n")).unwrap_or(&line);
        if line.len() > MAX_VERSION_LINE {
            return Err(TransportError::Misbehaved("the version line is too long"));
        }
        if !line.starts_with(b"SSH-") {
            self.lines_before_version += 1;
            return match self.role == Role::Client && self.lines_before_version <= MAX_LINES_BEFORE_VERSION {
                true => Ok(Received::Transport),
                false => Err(TransportError::Misbehaved("the peer does not speak SSH")),
            };
        }
        if !line.starts_with(b"SSH-2.0-") && !line.starts_with(b"SSH-1.99-") {
            return Err(TransportError::Misbehaved("the peer does not speak SSH 2"));
        }
        let line = std::str::from_utf8(line).map_err(|_| TransportError::Misbehaved("the version line is not text"))?;
        self.peer_version = Some(line.to_owned());
        Ok(Received::Transport)
    }

    #[cold]
    fn take_transport(&mut self, message: &[u8]) -> Result<(), TransportError> {
        let number = message.first().copied().unwrap_or_default();
        // Strict KEX: nothing but the exchange itself until the first NEWKEYS, so that nothing can be slipped in or cut out.
        let belongs = matches!(number, msg::DISCONNECT | msg::KEXINIT | msg::NEWKEYS | msg::KEX_INIT | msg::KEX_REPLY | msg::GEX_REPLY);
        if self.strict && !self.got_newkeys && !belongs {
            return Err(TransportError::Misbehaved("strict key exchange: a message that does not belong there"));
        }
        if self.outbound.buffer.len() > MAX_UNREAD && number != msg::DISCONNECT {
            return Err(TransportError::Misbehaved("it has left too much unread to be answered any more"));
        }
        match number {
            msg::DISCONNECT => Err(disconnected(message)),
            msg::IGNORE | msg::DEBUG | msg::UNIMPLEMENTED => Ok(()),
            msg::EXT_INFO => self.take_ext_info(message),
            msg::KEXINIT => self.take_kexinit(message),
            msg::KEX_INIT | msg::KEX_REPLY | msg::GEX_REPLY => self.take_exchange(number, message),
            msg::NEWKEYS => self.take_newkeys(),
            _ => self.unimplemented(),
        }
    }

    /// Answers the message that came last, which nobody knows (RFC 4253, 11.4).
    pub fn unimplemented(&mut self) -> Result<(), TransportError> {
        let mut message = vec![msg::UNIMPLEMENTED];
        put_u32(&mut message, self.inbound.last_seq());
        self.outbound.put(&message)
    }

    fn take_ext_info(&mut self, message: &[u8]) -> Result<(), TransportError> {
        let mut reader = Reader::new(message);
        reader.u8()?;
        for _ in 0..reader.u32()?.min(64) {
            let (name, value) = (reader.string()?, reader.string()?);
            if name == b"server-sig-algs" && self.role == Role::Client {
                let value = std::str::from_utf8(value).map_err(|_| TransportError::Misbehaved("server-sig-algs is not text"))?;
                self.server_sig_algs = Some(value.split(',').take(64).map(str::to_owned).collect());
            }
            self.answers_pings |= name == PING_EXTENSION && value == b"0";
        }
        Ok(())
    }

    fn take_kexinit(&mut self, message: &[u8]) -> Result<(), TransportError> {
        let first = self.session_id.is_none();
        if !first && !self.takes_rekeys {
            return Err(TransportError::Misbehaved("new keys were asked for before the login was over"));
        }
        let theirs = KexInit::parse(message)?;
        if first {
            self.strict = theirs.offers_strict(self.role.other());
            self.peer_takes_ext_info = theirs.offers_ext_info(self.role.other());
            if self.strict && self.inbound.usage.packets != 1 {
                return Err(TransportError::Misbehaved("strict key exchange: KEXINIT is not the first packet"));
            }
            if self.role == Role::Server && self.preferences.gcm_alone && theirs.offers_gcm() && matches!(self.exchange, Exchange::Idle) {
                self.keep_gcm_alone();
            }
            if self.role == Role::Client {
                self.server_knows_rsa_sha2 = theirs.host_key.iter().any(|name| name.starts_with("rsa-sha2-"));
                if matches!(self.exchange, Exchange::Idle) {
                    self.preferences.keep_needed_legacy(&theirs);
                }
            }
        }
        self.start_kex()?;
        let ours = match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::Offered { ours } => ours,
            _ => return Err(TransportError::Misbehaved("a KEXINIT came in the midst of a key exchange")),
        };
        let negotiated = Negotiated::choose(&self.preferences, self.role, &theirs)?;
        let half = match self.role {
            Role::Client => {
                let (half, message) = ClientHalf::start(negotiated.method)?;
                self.outbound.put(&message)?;
                Some(half)
            }
            Role::Server => None,
        };
        let skip = negotiated.skip_guess;
        self.exchange = Exchange::Running(Box::new(Running { ours, theirs: message.to_vec(), negotiated, half, skip }));
        Ok(())
    }

    fn take_exchange(&mut self, number: u8, message: &[u8]) -> Result<(), TransportError> {
        const UNEXPECTED: TransportError = TransportError::Misbehaved("a key exchange message came out of turn");
        let Exchange::Running(mut running) = std::mem::replace(&mut self.exchange, Exchange::Idle) else { return Err(UNEXPECTED) };
        if std::mem::take(&mut running.skip) {
            self.exchange = Exchange::Running(running);
            return Ok(());
        }
        if matches!((number, &running.half), (msg::KEX_REPLY, Some(ClientHalf::AwaitsGroup))) {
            let (half, reply) = ClientHalf::take_group(message)?;
            self.outbound.put(&reply)?;
            running.half = Some(half);
            self.exchange = Exchange::Running(running);
            return Ok(());
        }
        let Running { ours, theirs, negotiated, half, .. } = *running;
        let mut reader = Reader::new(message);
        reader.u8()?;
        let method = negotiated.method;
        let (hash, secret) = match (self.role, number, half) {
            (Role::Client, number, Some(ClientHalf::AwaitsReply(ephemeral))) if number == ephemeral.reply() => {
                let (blob, public, signature) = (reader.string()?, reader.string()?, reader.string()?);
                let secret = ephemeral.agree(public)?;
                let mut publics = Vec::new();
                ephemeral.put_group(&mut publics);
                method.put_public(&mut publics, ephemeral.public());
                method.put_public(&mut publics, public);
                let hash = self.exchange_hash(&negotiated, [&ours, &theirs], blob, &publics, &secret);
                let host_key = HostKey::verify(negotiated.host_key, blob, signature, &hash)?;
                if self.host_key.as_ref().is_some_and(|before| !before.is_same(&host_key)) {
                    return Err(TransportError::Misbehaved("the host key changed in a rekey"));
                }
                self.host_key = Some(host_key);
                (hash, secret)
            }
            (Role::Server, msg::KEX_INIT, _) => {
                let public = reader.string()?;
                let (our_public, secret) = kex::respond(method, public)?;
                let identity = self.identity.as_ref().ok_or(TransportError::Crypto("a server without a host key"))?;
                let blob = identity.blob(negotiated.host_key)?;
                let mut publics = Vec::new();
                method.put_public(&mut publics, public);
                method.put_public(&mut publics, &our_public);
                let hash = self.exchange_hash(&negotiated, [&theirs, &ours], &blob, &publics, &secret);
                let mut reply = vec![msg::KEX_REPLY];
                put_string(&mut reply, &blob);
                method.put_public(&mut reply, &our_public);
                put_string(&mut reply, &identity.sign(&hash)?);
                self.outbound.put(&reply)?;
                (hash, secret)
            }
            _ => return Err(UNEXPECTED),
        };
        self.change_keys(negotiated, &hash, &secret)
    }

    /// H of RFC 4253, 8: client's values first. `publics` are the method's own values, as it encodes them.
    fn exchange_hash(&self, negotiated: &Negotiated, kexinits: [&[u8]; 2], host_key: &[u8], publics: &[u8], secret: &Secret) -> Vec<u8> {
        let peer = self.peer_version.as_deref().unwrap_or_default();
        let versions = match self.role {
            Role::Client => [self.our_version.as_str(), peer],
            Role::Server => [peer, self.our_version.as_str()],
        };
        let mut hashed = Vec::new();
        for string in [versions[0].as_bytes(), versions[1].as_bytes(), kexinits[0], kexinits[1], host_key] {
            put_string(&mut hashed, string);
        }
        let mut hash = digest::Context::new(negotiated.method.hash());
        hash.update(&hashed);
        hash.update(publics);
        hash.update(secret);
        hash.finish().as_ref().to_vec()
    }

    /// Sends NEWKEYS, takes the new keys outward, and everything held goes.
    fn change_keys(&mut self, negotiated: Negotiated, hash: &[u8], secret: &Secret) -> Result<(), TransportError> {
        let first = self.session_id.is_none();
        let session_id = self.session_id.get_or_insert_with(|| hash.into()).clone();
        let source = KeySource { hash: negotiated.method.hash(), secret, exchange_hash: hash, session_id: &session_id };
        let (c2s, s2c) = ((negotiated.cipher_c2s, negotiated.mac_c2s, *b"ACE"), (negotiated.cipher_s2c, negotiated.mac_s2c, *b"BDF"));
        let (out, inward) = if self.role == Role::Client { (c2s, s2c) } else { (s2c, c2s) };
        self.outbound.put(&[msg::NEWKEYS])?;
        let sealer = with_keys(&source, out, Sealer::new)?;
        let opener = with_keys(&source, inward, Opener::new)?;
        self.outbound.rekey(sealer, self.strict);
        self.negotiated = Some(negotiated);
        self.exchange = Exchange::AwaitingNewKeys { opener };
        if first && self.role == Role::Server && self.peer_takes_ext_info {
            self.send_ext_info()?;
        }
        self.held_bytes = 0;
        std::mem::take(&mut self.held).iter().try_for_each(|message| self.outbound.put(message))
    }

    /// server-sig-algs goes out right behind the first NEWKEYS (RFC 8308, 2.4). PING is announced whatever the instance can, of which
    /// nothing is known yet: OpenSSH hides the times of keys only behind PINGs that are answered.
    fn send_ext_info(&mut self) -> Result<(), TransportError> {
        let algorithms = [
            SignatureAlgorithm::Ed25519,
            SignatureAlgorithm::EcdsaP256,
            SignatureAlgorithm::EcdsaP384,
            SignatureAlgorithm::EcdsaP521,
            SignatureAlgorithm::RsaSha512,
            SignatureAlgorithm::RsaSha256,
        ];
        let mut message = vec![msg::EXT_INFO];
        put_u32(&mut message, if self.takes_pings { 2 } else { 1 });
        put_string(&mut message, b"server-sig-algs");
        put_string(&mut message, algorithms.map(SignatureAlgorithm::name).join(",").as_bytes());
        if self.takes_pings {
            put_string(&mut message, PING_EXTENSION);
            put_string(&mut message, b"0");
        }
        self.outbound.put(&message)
    }

    fn take_newkeys(&mut self) -> Result<(), TransportError> {
        match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::AwaitingNewKeys { opener } => {
                if self.inbound.wrapped() {
                    return Err(TransportError::Misbehaved("the sequence number came round"));
                }
                self.inbound.rekey(opener, self.strict);
                self.got_newkeys = true;
                Ok(())
            }
            _ => Err(TransportError::Misbehaved("NEWKEYS came out of turn")),
        }
    }
}

/// The payload of an opened packet.
fn payload(packet: &[u8], len: usize) -> &[u8] {
    packet.get(HEADER..HEADER + len).unwrap_or_default()
}

fn with_keys<T>(
    source: &KeySource<'_>,
    (cipher, mac, [iv, key, mac_key]): (CipherName, Option<MacName>, [u8; 3]),
    make: impl FnOnce(Keys<'_>) -> Result<T, TransportError>,
) -> Result<T, TransportError> {
    let mac = mac.map(|name| Mac::new(name, &source.derive(mac_key, name.key_len)));
    make(Keys { cipher, iv: &source.derive(iv, cipher.iv_len), key: &source.derive(key, cipher.key_len), mac })
}

fn disconnected(message: &[u8]) -> TransportError {
    let mut reader = Reader::new(message);
    let mut parse = || {
        reader.u8()?;
        Ok::<_, TransportError>((reader.u32()?, reader.string()?))
    };
    let (code, text) = parse().unwrap_or((0, b""));
    let text = String::from_utf8_lossy(text.get(..256).unwrap_or(text)).into_owned();
    TransportError::Disconnected { code, text }
}
