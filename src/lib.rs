//! An SSH access broker for Tencent Cloud GSE instances: `ssh -J broker ins-gi2lxw` with a stock OpenSSH client, and no instance
//! credential on any laptop. The README is for users; this page is the architecture.
//!
//! # Life of a session
//!
//! ```text
//! operator's ssh -J                    broker                                             instance
//!   outer SSH ────────────► door: admission, deadline, authentication → Operator
//!   direct-tcpip ins-x:22 ► door → session, which starts both at the same time:
//!                           ├─ broker.open: resolve → decide → lease (cache, quota, TC3) → dial → KEX → pin → authenticate ──► sshd
//!   inner SSH (KEX) ──────► └─ transport, server role: KEX with a host certificate; `none` succeeds when upstream is ready
//!   everything after ◄────► splice: every message from 80 up passes verbatim; the gate may refuse one; the tap watches ◄────►
//!
//! operator's ssh -W/-L                 broker                                             instance
//!   direct-tcpip ins-x:N ─► door → session::forward: resolve → decide (ports) → lease (address alone) → dial ──────────► port N
//! ```
//!
//! 1. **Admission** ([`door`]): a permit before `accept`; caps in all, per source and per netblock; one wall-clock deadline over
//!    everything before authentication, which no traffic resets.
//! 2. **Authentication** ([`door`]): a public key or an OpenSSH user certificate. Identity comes from a verified signature alone.
//! 3. **Target** ([`access`]): the host string of direct-tcpip is attacker-controlled text; [`access::TargetName::parse`] takes
//!    `ins-…`, `ins-….fleet-…` and `ins-….<alias>`, port 22. Addresses come only from the cloud API.
//! 4. **Order of work** ([`broker`]): resolve → decide → lease → dial → verify the host key → send the secret. Policy is asked before the
//!    first API call too: a name that it denies in every fleet costs no quota. Unknown and forbidden read the same.
//! 5. **Overlap** ([`session`]): the upstream leg is opened while the operator's client is still in its key exchange with us.
//! 6. **Inner authentication** ([`transport`]): the channel belongs to a proven operator already, so any method succeeds, once upstream is
//!    ready. On failure the operator reads one sentence with a stable code and a reference; the log has the chain under that reference.
//! 7. **Splice** ([`splice`]) until either leg ends, the grant's hours or longest time do (warned on terminals, by [`session`]), or the
//!    broker is told to end it; then one closing audit event.
//!
//! # Code map
//!
//! | module | is |
//! |---|---|
//! | [`access`] | the centre, std only: operator, target, policy with its hours, networks, destinations and ports → [`access::Grant`], lease, secret, failure |
//! | [`broker`] | the use case, and the traits it needs |
//! | [`gse`] | edge: the cloud API: signing, credentials, quota, retries, circuit, resolution |
//! | [`cache`] | edge: leases and resolutions in memory, one call in flight per key |
//! | [`door`] | edge, the only thing that an unauthenticated peer reaches: admission, proof, channels; its seam is [`door::Jump`] |
//! | [`transport`] | RFC 4253 for all three legs, RFC 4252 for the two inner ones, sans I/O, with a thin driver |
//! | [`splice`] | pump, gate (with nested SSH, notices) and tap |
//! | [`upstream`], [`pins`], [`quick_ack`] | the way to an instance; host keys by instance id; the socket (`gather`: read at intervals) |
//! | [`session`] | one operator on one target: the two legs side by side, then the splice; raw TCP to another port; the end of either by time |
//! | [`commands`] | what an operator says to the broker itself, as `ssh broker ls`; the door calls it through [`door::Commands`] |
//! | [`audit`] | events as JSON lines |
//! | [`recording`] | edge: terminals as asciicasts, file operations and forwards as lines |
//! | [`settings`], [`keys`], [`client_config`] | file and environment → domain types; the broker's own keys; what operators paste |
//! | [`manual`] | manual pages and completions, for packages |
//! | [`service`] | everything put together, and the process around it: signals, reload, handover to a new process, drain, systemd, metrics |
//! | [`demo`] | a simulated cloud and simulated instances, for `ssh-broker demo` and the tests |
//!
//! Dependencies point one way; `tests/layers.rs` reads the sources and fails when a module uses what its layer must not.
//!
//! # Invariants
//!
//! - **Nothing above the inner legs has channel state to get wrong**: no window, no channel table, no reply queue. Channel numbers, windows,
//!   requests and replies are the two peers' own; flow control is end to end; memory is bounded by a few packets a leg. What the gate keeps
//!   of channels serves only to explain, to warn, and to find nested SSH. The outer connection has channels, and one rule for them: more is
//!   granted when what came was taken.
//! - **No permission without a value for it**: only [`access::Policy`] makes a [`access::Grant`], and leasing and connecting take one.
//! - **No secret without its type**: [`access::Secret`] has no `Debug`, `Display`, `Serialize` or `Clone`, and is zeroized.
//! - **No authentication byte before trust**: an instance's host key is checked against its pin before the login begins.
//! - **No wait without a deadline, no queue without a bound.**
//! - **No panic by a peer**: its bytes reach neither `unwrap` nor indexing; lengths are checked before anything is allocated.
//!
//! # Threads
//!
//! One for each processor, each with a runtime of its own ([`door`]). A connection stays on its thread with all its sessions and both their
//! legs: what wakes each other for every batch of packets does so without a system call. A turn of a session is bounded, so that one which
//! moves all it can leaves the keystrokes of the others of its thread their place; and it is short while no other session moves (`turns`),
//! so that the same few buffers, warm in the processor's cache, serve again and again. The main thread listens, and drives what is none of
//! a session's.
//!
//! An operator types slower than a processor forgets: of a key's way nothing is in the caches when it comes, and each line and page that it
//! touches is waited for. So what moves bytes is apart from what is rare, in functions and tasks of its own (`tasks`), and asks nothing again
//! that would have woken it.
//!
//! # Why our own transport
//!
//! Inside, because a library that relays channel by channel has state to get wrong: russh grants window on receipt and then awaits a bounded
//! queue inside a connection's only loop, so that full duplex with a slow reader deadlocks, and one stalled channel stops all others of its
//! connection. What is relayed message by message has neither.
//!
//! At the door russh stood until it was measured out: it took half of the instructions of a key's way and two fifths of an idle session's
//! memory, a session that took nothing could only be held back by a trickle, and of what it refused without asking nothing was counted or
//! told. The transport was there, the parsers before the proof are two ([`transport`]'s packets and key exchange, the door's requests to be
//! let in), without `unsafe` and fuzzed, on audited primitives (aws-lc-rs, ssh-key). The demo's simulated instance is still russh's.

pub mod access;
pub mod audit;
pub mod broker;
pub mod cache;
pub mod client_config;
pub mod commands;
pub mod demo;
pub mod door;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;
mod gather;
pub mod gse;
pub mod keys;
pub mod manual;
pub mod pins;
pub mod quick_ack;
pub mod recording;
pub mod service;
pub mod session;
pub mod settings;
pub mod splice;
mod tasks;
pub mod transport;
mod turns;
pub mod upstream;
