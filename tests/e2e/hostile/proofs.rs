//! Proofs that prove nothing.

mod alike;

use std::path::{Path, PathBuf};
use std::process::Command;

use ssh_key::PrivateKey;

use super::client::{Client, Message, runtime, stranger};
use super::{bound, plan, unharmed};
use crate::lab::{Lab, Plan, keygen, private, text};

const PK_OK: u8 = 60;
const FAILURE: u8 = 51;
const SUCCESS: u8 = 52;

fn lab() -> Lab {
    let extra = "[penalties]\nexempt = [\"127.0.0.0/8\"]\n".to_owned();
    Lab::with(Plan { extra, listen: "login_grace = \"4s\"\n".to_owned(), ..plan() })
}

fn key(lab: &Lab, name: &str) -> PrivateKey {
    PrivateKey::read_openssh_file(lab.path(name)).unwrap()
}

fn first(message: &[u8]) -> u8 {
    message.first().copied().unwrap_or_default()
}

#[test]
fn a_key_that_is_offered_and_not_proven_opens_nothing() {
    let lab = lab();
    let bound = bound(&lab);
    let alices = key(&lab, "operator");
    let blob = alices.public_key().to_bytes().unwrap();
    runtime().block_on(async {
        // Offered, taken for good, and then used as if it had been proven.
        let mut client = Client::connect("127.0.0.66", lab.address).await.unwrap();
        client.say(&Message::publickey("alice", "ssh-ed25519", &blob, false)).await.unwrap();
        assert_eq!(first(&client.hear().await.unwrap()), PK_OK);
        client.say(&Message::jump(0, "ins-a", 22)).await.unwrap();
        assert!(client.until_ended().await.0.iter().all(|message| first(message) != 91));
        // Signed for another connection, then with another key, then over nothing.
        let mut other = Client::connect("127.0.0.66", lab.address).await.unwrap();
        let replayed = other.signed("alice", "ssh-ed25519", &alices);
        let mut client = Client::connect("127.0.0.66", lab.address).await.unwrap();
        let forged = client.signed("alice", "ssh-ed25519", &stranger(7)).0;
        let signature = forged[forged.len() - 83..].to_vec();
        let unsigned = Message::publickey("alice", "ssh-ed25519", &blob, true);
        for attempt in [replayed, unsigned.clone().text(&signature), unsigned.text("")] {
            client.say(&attempt).await.unwrap();
            match client.hear().await {
                Ok(answer) => assert_eq!(first(&answer), FAILURE),
                Err(_) => client = Client::connect("127.0.0.66", lab.address).await.unwrap(),
            }
        }
        assert!(other.say(&Message::jump(0, "ins-a", 22)).await.is_ok());
        assert!(other.until_ended().await.0.is_empty());
    });
    assert!(lab.audit().iter().filter(|event| event["event"] == "operator.authenticated").count() == 3, "the calm logins alone");
    unharmed(&lab, bound);
}

#[test]
fn six_attempts_are_the_last() {
    let lab = lab();
    let bound = bound(&lab);
    let none = |_: &Client, _| Message::new(50).text("alice").text("ssh-connection").text("none");
    let password = |_: &Client, _| Message::new(50).text("alice").text("ssh-connection").text("password").u8(0).text("guess");
    let offered = |_: &Client, n| Message::publickey("alice", "ssh-ed25519", &stranger(n).public_key().to_bytes().unwrap(), false);
    let signed = |client: &Client, n| client.signed("alice", "ssh-ed25519", &stranger(n));
    type Request<'a> = &'a dyn Fn(&Client, u8) -> Message;
    // As every client begins, to learn what it may try, and no other `none` is, is the one that does not count.
    for (what, requests, expected) in [
        ("none, then proofs", &[&none as Request<'_>, &signed][..], 1 + 6),
        ("proofs alone", &[&signed], 6),
        ("none again and again", &[&none], 1 + 6),
        ("none in between", &[&signed, &none, &signed, &none, &none, &signed, &none], 6),
        ("offers", &[&offered], 6),
        ("passwords", &[&password], 6),
        ("none, then some of each", &[&none, &password, &offered, &none, &signed, &signed, &offered, &password], 1 + 6),
    ] {
        let heard = runtime().block_on(async {
            let mut client = Client::connect("127.0.0.66", lab.address).await.unwrap();
            for n in 0..20 {
                let request = requests.get(usize::from(n)).or(requests.last()).unwrap()(&client, n);
                // The broker may have gone.
                let _ = client.say(&request).await;
            }
            client.until_ended().await.0
        });
        assert_eq!(heard.iter().filter(|message| first(message) == FAILURE).count(), expected, "{what}: {heard:?}");
    }
    // A key that counts is asked about before it is used: to be told so is no failure.
    let alices = key(&lab, "operator");
    let blob = alices.public_key().to_bytes().unwrap();
    runtime().block_on(async {
        let mut client = Client::connect("127.0.0.66", lab.address).await.unwrap();
        for n in 0..5 {
            let request = signed(&client, n);
            client.say(&request).await.unwrap();
            assert_eq!(first(&client.hear().await.unwrap()), FAILURE);
        }
        for _ in 0..3 {
            client.say(&Message::publickey("alice", "ssh-ed25519", &blob, false)).await.unwrap();
            assert_eq!(first(&client.hear().await.unwrap()), PK_OK);
        }
        let request = client.signed("alice", "ssh-ed25519", &alices);
        client.say(&request).await.unwrap();
        assert_eq!(client.hear().await.unwrap(), [SUCCESS]);
    });
    unharmed(&lab, bound);
}

#[test]
fn a_name_that_changes_half_way_ends_the_connection() {
    let lab = lab();
    let bound = bound(&lab);
    let alices = key(&lab, "operator");
    let blob = alices.public_key().to_bytes().unwrap();
    runtime().block_on(async {
        for (one, two) in [("alice", "bob"), ("mallory", "alice"), ("alice", "alice\0"), ("", "alice")] {
            let mut client = Client::connect("127.0.0.66", lab.address).await.unwrap();
            client.say(&Message::publickey(one, "ssh-ed25519", &blob, false)).await.unwrap();
            client.hear().await.unwrap();
            let proof = client.signed(two, "ssh-ed25519", &alices);
            client.say(&proof).await.unwrap();
            assert!(client.until_ended().await.0.is_empty(), "{one} became {two:?}");
        }
    });
    lab.await_event(|event| event["reason"] == "the user name changed during authentication");
    unharmed(&lab, bound);
}

#[test]
fn weak_keys_and_hashes_are_refused_though_they_are_in_the_operators_file() {
    let lab = lab();
    let bound = bound(&lab);
    for bits in ["1024", "2048"] {
        keygen(&lab.path(&format!("rsa{bits}")), &["-t", "rsa", "-b", bits]);
    }
    let (weak, good) = (key(&lab, "rsa1024"), key(&lab, "rsa2048"));
    // An odd number of 16384 bits is as good a modulus as any for whoever only looks at its length.
    let huge = Message(Vec::new()).text("ssh-rsa").text([1, 0, 1]).text([&[0][..], &[0xff; 2048]].concat()).0;
    let line = format!("ssh-rsa {}\n", base64(&huge));
    let file = lab.path("operators").join("alice");
    let before = std::fs::read_to_string(&file).unwrap();
    let all = before + &weak.public_key().to_openssh().unwrap() + "\n" + &good.public_key().to_openssh().unwrap() + "\n" + &line;
    private(&file, all.as_bytes());
    let good_blob = good.public_key().to_bytes().unwrap();
    runtime().block_on(async {
        let mut client = Client::connect("127.0.0.66", lab.address).await.unwrap();
        for (algorithm, blob, expected) in [
            ("rsa-sha2-256", &weak.public_key().to_bytes().unwrap(), FAILURE),
            ("rsa-sha2-512", &huge, FAILURE),
            ("ssh-rsa", &good_blob, FAILURE),
            ("ssh-dss", &good_blob, FAILURE),
            ("rsa-sha2-256", &good_blob, PK_OK),
        ] {
            client.say(&Message::publickey("alice", algorithm, blob, false)).await.unwrap();
            let answer = client.hear().await.unwrap();
            assert_eq!(first(&answer), expected, "{algorithm}, {} bytes", blob.len());
        }
    });
    // And with a proof, as a real client gives one.
    let login = |key: &str, algorithms: &str| {
        let mut ssh = lab.ssh(&["-o", &format!("PubkeyAcceptedAlgorithms={algorithms}"), "-o", "RequiredRSASize=1024"]);
        ssh.arg("-o").arg(format!("IdentityFile={}", lab.path(key).display())).args([
            "-o",
            "IdentitiesOnly=yes",
            "-W",
            "ins-a:22",
            "broker",
        ]);
        text(&ssh.output().unwrap().stderr)
    };
    // The lab's own key comes first in the configuration; here it must not.
    private(&file, all.lines().skip(1).collect::<Vec<_>>().join("\n").as_bytes());
    for (key, algorithms) in [("rsa1024", "rsa-sha2-512"), ("rsa2048", "ssh-rsa")] {
        let said = login(key, algorithms);
        assert!(said.contains("Permission denied") || said.contains("no mutual signature"), "{said}");
    }
    assert!(!login("rsa2048", "rsa-sha2-512").contains("Permission denied"));
    private(&file, all.as_bytes());
    unharmed(&lab, bound);
}

fn base64(bytes: &[u8]) -> String {
    use base64ct::{Base64, Encoding};
    Base64::encode_string(bytes)
}

/// `ssh-keygen -s` over the operator's public key; the certificate's file.
fn certify(lab: &Lab, authority: &str, name: &str, arguments: &[&str]) -> PathBuf {
    let (public, signed) = (lab.path(&format!("{name}.pub")), lab.path(&format!("{name}-cert.pub")));
    std::fs::copy(lab.path("holder.pub"), &public).unwrap();
    let made =
        Command::new("ssh-keygen").args(["-q", "-s"]).arg(lab.path(authority)).args(["-I", name]).args(arguments).arg(&public).output();
    let made = made.unwrap();
    assert!(made.status.success(), "{}", text(&made.stderr));
    signed
}

#[test]
fn certificates_of_every_bad_kind_prove_nobody() {
    let lab = lab();
    let bound = bound(&lab);
    for name in ["holder", "authority", "stranger"] {
        keygen(&lab.path(name), &["-t", "ed25519"]);
    }
    keygen(&lab.path("rsa_authority"), &["-t", "rsa", "-b", "2048"]);
    let public = |name: &str| std::fs::read_to_string(lab.path(name)).unwrap();
    let file = lab.path("operators").join("alice");
    let lines =
        format!("{}cert-authority {}cert-authority {}", public("operator.pub"), public("authority.pub"), public("rsa_authority.pub"));
    private(&file, lines.as_bytes());
    let login = |certificate: &Path| {
        let mut ssh = lab.program(20, "ssh");
        let (port, known) = (lab.address.port().to_string(), lab.path("known_hosts"));
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-p", &port, "-l", "alice"]);
        ssh.arg("-o").arg(format!("UserKnownHostsFile={}", known.display()));
        ssh.arg("-i").arg(lab.path("holder")).arg("-o").arg(format!("CertificateFile={}", certificate.display()));
        text(&ssh.args(["-W", "ins-a:22", "127.0.0.1"]).output().unwrap().stderr)
    };
    let good = certify(&lab, "authority", "good", &["-n", "alice", "-V", "+1h"]);
    assert!(!login(&good).contains("Permission denied"));
    lab.await_event(|event| event["event"] == "operator.authenticated" && event["key"].as_str().unwrap().contains("good"));
    for (authority, name, arguments) in [
        ("authority", "expired", &["-n", "alice", "-V", "20200101:20200102"][..]),
        ("authority", "early", &["-n", "alice", "-V", "+52w:+53w"]),
        ("authority", "someone-elses", &["-n", "bob", "-V", "+1h"]),
        ("authority", "nobodys", &["-V", "+1h"]),
        ("authority", "hosts", &["-h", "-n", "alice", "-V", "+1h"]),
        ("authority", "elsewhere", &["-n", "alice", "-V", "+1h", "-O", "source-address=192.0.2.0/24"]),
        ("authority", "critical", &["-n", "alice", "-V", "+1h", "-O", "critical:unknown@example.com=x"]),
        ("authority", "forced", &["-n", "alice", "-V", "+1h", "-O", "force-command=id"]),
        ("stranger", "strangers", &["-n", "alice", "-V", "+1h"]),
        ("rsa_authority", "sha1", &["-t", "ssh-rsa", "-n", "alice", "-V", "+1h"]),
    ] {
        let certificate = certify(&lab, authority, name, arguments);
        let said = login(&certificate);
        assert!(said.contains("Permission denied"), "{name}: {said}");
    }
    // One whose bytes were changed after it was signed: alice for bob.
    let bobs = std::fs::read_to_string(lab.path("someone-elses-cert.pub")).unwrap();
    let mut fields = bobs.split(' ');
    let (kind, blob) = (fields.next().unwrap(), fields.next().unwrap());
    let mut blob = {
        use base64ct::{Base64, Encoding};
        Base64::decode_vec(blob).unwrap()
    };
    let at = blob.windows(7).position(|window| window == b"\0\0\0\x03bob").unwrap();
    blob.splice(at - 4..at + 7, *b"\0\0\0\x09\0\0\0\x05alice");
    std::fs::write(lab.path("changed-cert.pub"), format!("{kind} {}\n", base64(&blob))).unwrap();
    let said = login(&lab.path("changed-cert.pub"));
    assert!(
        !said.is_empty() && !lab.audit().iter().any(|event| event["key"].as_str().is_some_and(|key| key.contains("changed"))),
        "{said}"
    );
    unharmed(&lab, bound);
}

#[test]
fn ssh_audit_finds_nothing_that_our_policy_does_not_want() {
    let lab = lab();
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/ssh-audit.policy");
    let venv = std::env::var("LAB_VENV").unwrap_or_else(|_| "/var/lib/ssh-broker-tests/venv".to_owned());
    let mut audit = lab.program(60, &format!("{venv}/bin/ssh-audit"));
    let out = audit.arg("-P").arg(&policy).arg("-p").arg(lab.address.port().to_string()).arg("127.0.0.1").output().unwrap();
    assert!(out.status.success(), "{}{}", text(&out.stdout), text(&out.stderr));
    unharmed(&lab, bound(&lab));
}
