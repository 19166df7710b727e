//! Who is an operator cannot be found out: neither what is answered nor when tells a name that has keys from one that has none.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ssh_key::{Certificate, PrivateKey};

use super::super::client::{Client, Message, runtime};
use super::super::plan;
use super::{certify, first, key};
use crate::lab::{Lab, Plan, keygen, private};

const KNOWN: &str = "alice";
const UNKNOWN: &str = "mallory";
/// Connections for each name in a round, so many of them at the same time. Every one asks for some kinds twice.
const PAIRS: u64 = 240;
const AT_ONCE: u64 = 6;
/// What each may wait before it begins: as long as one request takes.
const STAGGER: Duration = Duration::from_millis(20);
/// So often must a kind differ in the same direction, before the difference is one: the machine has other things to do too.
const ROUNDS: u64 = 4;
/// What is less cannot be told from the network by anybody.
const FLOOR: Duration = Duration::from_micros(50);

fn lab() -> Lab {
    let extra = "[penalties]\nexempt = [\"127.0.0.0/8\"]\n".to_owned();
    // At the usual level: a log that tells of every step takes a time of its own.
    Lab::with(Plan { log_level: "info", extra, ..plan() })
}

/// What an attacker has to ask with: a key of its own, and a certificate for it, which is nobody's of these names.
struct Asker {
    key: PrivateKey,
    certificate: Certificate,
}

impl Asker {
    fn new(lab: &Lab) -> Self {
        for name in ["holder", "authority"] {
            keygen(&lab.path(name), &["-t", "ed25519"]);
        }
        let certificate = Certificate::read_file(&certify(lab, "authority", "carols", &["-n", "carol", "-V", "+1h"])).unwrap();
        Self { key: key(lab, "holder"), certificate }
    }

    /// A connection in this name, and everything there is to ask on it.
    async fn prepare(&self, lab: &Lab, source: &str, who: &str) -> Prepared {
        let client = Client::connect(source, lab.address).await.unwrap();
        let (plain, certified) = ("ssh-ed25519", "ssh-ed25519-cert-v01@openssh.com");
        let blob = self.key.public_key().to_bytes().unwrap();
        let certificate = self.certificate.to_bytes().unwrap();
        let offered = ("a key offered", Message::publickey(who, plain, &blob, false));
        let signed = ("a key's proof", client.signed(who, plain, &self.key));
        let requests = vec![
            ("none", Message::new(50).text(who).text("ssh-connection").text("none")),
            offered.clone(),
            signed.clone(),
            ("a certificate offered", Message::publickey(who, certified, &certificate, false)),
            ("a certificate's proof", client.signed_as(who, certified, &certificate, &self.key)),
            offered,
            signed,
        ];
        Prepared { client, requests }
    }
}

struct Prepared {
    client: Client,
    requests: Vec<(&'static str, Message)>,
}

/// An answer to a request of this kind, and when it came.
type Heard = (&'static str, Vec<u8>, Duration);

impl Prepared {
    async fn ask(mut self) -> Vec<Heard> {
        let mut heard = Vec::new();
        for (kind, request) in self.requests {
            let asked = Instant::now();
            self.client.say(&request).await.unwrap();
            let answer = self.client.hear().await.unwrap();
            heard.push((kind, answer, asked.elapsed()));
        }
        heard
    }
}

/// What all answers of a kind took, one number a connection.
#[derive(Default)]
struct Times {
    known: Vec<Duration>,
    unknown: Vec<Duration>,
}

impl Times {
    /// Which name takes longer, if one does.
    ///
    /// Kolmogorov's and Smirnov's: the greatest distance between how many answers have come in the one name and how many in the other, some
    /// time after they were asked for. It needs no shape of the noise, sees a delay that a timer's ticks hide in the middle, and where the
    /// names are treated alike it is great by chance alone: which of them was asked about first was drawn.
    fn slower(&self) -> Option<&'static str> {
        let (known, unknown) = (later(&self.known, &self.unknown), later(&self.unknown, &self.known));
        // Once in a hundred times by chance.
        let remarkable = 1.5 * (2.0 / self.known.len() as f64).sqrt();
        (known.max(unknown) > remarkable).then_some(if known > unknown { KNOWN } else { UNKNOWN })
    }
}

/// The greatest share of `others` that are there already and of `times` are not, even a little later.
fn later(times: &[Duration], others: &[Duration]) -> f64 {
    let within = |all: &[Duration], limit| all.iter().filter(|took| **took <= limit).count() as f64 / all.len() as f64;
    others.iter().map(|at| within(others, *at) - within(times, *at + FLOOR)).fold(0.0, f64::max)
}

/// Asks in both names again and again, now in the one first and now in the other, and insists on the same answers.
fn round(lab: &Lab, asker: &Asker, seed: u64) -> BTreeMap<&'static str, Times> {
    let mut times = BTreeMap::<_, Times>::new();
    for batch in 0..PAIRS / AT_ONCE {
        let random = |n: u64| shuffled((seed * PAIRS + batch) * AT_ONCE * 3 + n);
        let heard = runtime().block_on(async {
            let mut pairs = Vec::new();
            for pair in 0..AT_ONCE {
                let known_first = random(pair).is_multiple_of(2);
                let source = format!("127.0.{}.66", 1 + pair);
                let one = asker.prepare(lab, &source, if known_first { KNOWN } else { UNKNOWN }).await;
                let two = asker.prepare(lab, &source, if known_first { UNKNOWN } else { KNOWN }).await;
                let later = |n| STAGGER.mul_f64((random(n) % 1000) as f64 / 1000.0);
                let waits = (later(AT_ONCE + pair), later(2 * AT_ONCE + pair));
                pairs.push(async move {
                    let after = |wait, prepared: Prepared| async move {
                        tokio::time::sleep(wait).await;
                        prepared.ask().await
                    };
                    let (one, two) = tokio::join!(after(waits.0, one), after(waits.1, two));
                    if known_first { (one, two) } else { (two, one) }
                });
            }
            futures_util::future::join_all(pairs).await
        });
        for (known, unknown) in heard {
            let answers = |heard: &[Heard]| heard.iter().map(|(kind, answer, _)| (*kind, answer.clone())).collect::<Vec<_>>();
            assert_eq!(answers(&known), answers(&unknown));
            for (kind, took) in by_kind(&known) {
                times.entry(kind).or_default().known.push(took);
            }
            for (kind, took) in by_kind(&unknown) {
                times.entry(kind).or_default().unknown.push(took);
            }
        }
    }
    times
}

/// Summed: what delays one request of a connection can delay its next one too, and they count as one.
fn by_kind(heard: &[Heard]) -> BTreeMap<&'static str, Duration> {
    let mut sums = BTreeMap::<_, Duration>::new();
    heard.iter().for_each(|(kind, _, took)| *sums.entry(*kind).or_default() += *took);
    sums
}

/// Numbers without a pattern (SplitMix64), the same in every run.
fn shuffled(n: u64) -> u64 {
    let mut z = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Rounds until every kind was once without a difference, or had one in another direction.
fn assert_alike(lab: &Lab, asker: &Asker, what: &str) {
    let mut suspected: Option<BTreeMap<&str, &str>> = None;
    for seed in 0..ROUNDS {
        let slower = round(lab, asker, seed).into_iter().filter_map(|(kind, times)| Some((kind, times.slower()?)));
        let again = slower.filter(|(kind, slower)| suspected.as_ref().is_none_or(|before| before.get(kind) == Some(slower))).collect();
        if suspected.insert(again).is_empty() {
            return;
        }
    }
    panic!("{what}: the time tells who is an operator; what takes longer every time, and in whose name: {suspected:?}");
}

#[test]
fn known_and_unknown_operators_get_the_same_answers_in_the_same_time() {
    let mut lab = lab();
    let asker = Asker::new(&lab);
    assert_alike(&lab, &asker, "keys alone");
    // One operator's file trusts an authority: any key could be certified by it, and so goes to its proof, whoever's name it is.
    let authority = std::fs::read_to_string(lab.path("authority.pub")).unwrap();
    let file = lab.path("operators").join(KNOWN);
    let keys = std::fs::read_to_string(&file).unwrap();
    private(&file, format!("{keys}cert-authority {authority}").as_bytes());
    lab.restart_broker();
    assert_alike(&lab, &asker, "an authority in the operator's file");
}

#[test]
fn with_authorities_every_name_is_asked_for_its_proof() {
    let mut lab = lab();
    let asker = Asker::new(&lab);
    let path = lab.path("authority.pub").display().to_string();
    lab.edit(|text| text.replace("[operators]\n", &format!("[operators]\ntrusted_user_ca = \"{path}\"\n")));
    lab.restart_broker();
    let answers = |who| {
        let heard = runtime().block_on(async { asker.prepare(&lab, "127.0.0.66", who).await.ask().await });
        heard.into_iter().map(|(kind, answer, _)| (kind, first(&answer))).collect::<Vec<_>>()
    };
    let unknown = answers(UNKNOWN);
    assert_eq!(answers(KNOWN), unknown);
    // A file that does not count is no difference either.
    let file = lab.path("operators").join(KNOWN);
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    assert_eq!(answers(KNOWN), unknown);
}

#[test]
fn a_difference_of_200_us_is_seen_through_noise_and_noise_is_not_one() {
    // As the waits of a refusal are: until one of two ticks of a millisecond, and now and then much longer.
    let waited = |n: u64| shuffled(n) % 200 + 1000 * (shuffled(n << 20) % 2);
    let noise = |n: u64| waited(n) + if shuffled(n << 40).is_multiple_of(20) { 7000 } else { 0 };
    let took = |seed: u64, longer: u64| (0..PAIRS).map(|n| Duration::from_micros(noise(seed * 1000 + n) + longer)).collect::<Vec<_>>();
    let rounds = |known: u64, unknown: u64| {
        let times = (0..100).map(|seed| Times { known: took(2 * seed, known), unknown: took(2 * seed + 1, unknown) });
        times.map(|times| times.slower()).collect::<Vec<_>>()
    };
    for (known, unknown, slower) in [(200, 0, KNOWN), (0, 200, UNKNOWN)] {
        let seen = rounds(known, unknown).into_iter().filter(|seen| *seen == Some(slower)).count();
        assert!(seen >= 95, "{seen} of 100 rounds");
    }
    let wrong = rounds(0, 0).into_iter().flatten().count();
    assert!(wrong <= 5, "{wrong} of 100 rounds");
}
