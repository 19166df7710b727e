use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64ct::Base64;
use ssh_key::PublicKey;
use tempfile::TempDir;

use super::*;
use crate::transport::wire::{put_string, put_u32};

fn run(program: &str, arguments: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect("the program runs");
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

struct Keys(TempDir);

impl Keys {
    fn new() -> Self {
        Self(TempDir::new().expect("a directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("a text file")
    }

    fn keygen(&self, name: &str, options: &[&str]) -> String {
        let path = self.path(name);
        run("ssh-keygen", &[&["-q", "-C", "a comment", "-f", utf8(&path)], options].concat());
        self.text(name)
    }

    fn openssl(&self, name: &str, options: &[&str]) -> String {
        let path = self.path(name);
        let (command, rest) = options.split_first().expect("a command");
        run("openssl", &[&[*command, "-out", utf8(&path)], rest].concat());
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("the owner may");
        self.text(name)
    }

    fn public(&self, name: &str) -> PublicKey {
        let line = run("ssh-keygen", &["-y", "-f", utf8(&self.path(name))]);
        PublicKey::from_openssh(std::str::from_utf8(&line).expect("text")).expect("a public key")
    }
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a UTF-8 path")
}

/// One key of every type in every format: its PEM, its label and its public key by OpenSSL or `ssh-keygen`.
fn every_key(keys: &Keys) -> Vec<(String, String, PublicKey)> {
    let mut every = Vec::new();
    for (kind, bits, traditional) in
        [("rsa", "2048", "RSA"), ("ecdsa", "256", "EC"), ("ecdsa", "384", "EC"), ("ecdsa", "521", "EC"), ("ed25519", "256", "")]
    {
        let formats = [(&[][..], "OPENSSH"), (&["-m", "PEM"][..], traditional), (&["-m", "PKCS8"][..], "")];
        let formats = if kind == "ed25519" { &formats[..1] } else { &formats[..] };
        for (format, label) in formats {
            let name = format!("{kind}{bits}{}", format.join(""));
            let pem = keys.keygen(&name, &[&["-t", kind, "-b", bits, "-N", ""], *format].concat());
            let label = format!("-----BEGIN {label} PRIVATE KEY-----").replace("  ", " ");
            assert!(pem.starts_with(&label), "{name} is not {label}");
            every.push((name.clone(), pem, keys.public(&name)));
        }
    }
    // `ssh-keygen` reads this form of Ed25519 only since OpenSSH 9.6, so the public key comes from OpenSSL.
    let pem = keys.openssl("ed25519-pkcs8", &["genpkey", "-algorithm", "ed25519"]);
    let spki = run("openssl", &["pkey", "-pubout", "-outform", "DER", "-in", utf8(&keys.path("ed25519-pkcs8"))]);
    let point: [u8; 32] = spki[spki.len() - 32..].try_into().expect("32 bytes");
    every.push(("ed25519-pkcs8".to_owned(), pem, ssh_key::public::KeyData::Ed25519(ssh_key::public::Ed25519PublicKey(point)).into()));
    // OpenSSL puts a block of parameters before the key.
    let pem = keys.openssl("ecparam", &["ecparam", "-name", "prime256v1", "-genkey"]);
    assert!(pem.starts_with("-----BEGIN EC PARAMETERS-----"));
    every.push(("ecparam".to_owned(), pem, keys.public("ecparam")));
    every
}

fn base64_of(bytes: &[u8]) -> String {
    Base64::encode_string(bytes)
}

/// The last PEM block's decoded body.
fn blob_of(pem: &str) -> Vec<u8> {
    let (_, block) = pem.rsplit_once("-----BEGIN ").expect("PEM");
    let body: String = block.lines().skip(1).take_while(|line| !line.starts_with('-')).filter(|line| !line.contains(':')).collect();
    Base64::decode_vec(&body).expect("base64")
}

fn wrapped(text: &str) -> String {
    text.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).expect("ASCII")).collect::<Vec<_>>().join("\n")
}

fn every_form(pem: &str) -> Vec<(&'static str, String)> {
    vec![
        ("as is", pem.to_owned()),
        ("CRLF", pem.replace('\n', "\r\n")),
        ("CR", pem.replace('\n', "\r")),
        ("literal \\n", pem.replace('\n', "\\n")),
        ("literal \\r\\n", pem.replace('\n', "\\r\\n")),
        ("literal \\\\n", pem.replace('\n', "\\\\n")),
        ("one line", pem.replace('\n', "")),
        ("spaces", pem.replace('\n', " ")),
        ("no final newline", pem.trim_end().to_owned()),
        ("indented and surrounded", format!(" \r\n\t{}\n\n ", pem.replace('\n', "\n    "))),
        ("quoted", format!("\"{}\"", pem.replace('\n', "\\n"))),
        ("base64 of PEM", base64_of(pem.as_bytes())),
        ("base64 of PEM, in lines", wrapped(&base64_of(pem.as_bytes()))),
        ("base64 of PEM, unpadded", base64_of(pem.as_bytes()).trim_end_matches('=').to_owned()),
        ("base64 of PEM with literal \\n", base64_of(pem.replace('\n', "\\n").as_bytes())),
        ("base64 of the binary form", base64_of(&blob_of(pem))),
        ("base64 of the binary form, in lines", wrapped(&base64_of(&blob_of(pem)))),
    ]
}

fn read_text(text: &str) -> Result<Credential, CredentialError> {
    read(&Secret::new(text.as_bytes().to_vec()))
}

fn key(text: &str) -> Result<ssh_key::PrivateKey, String> {
    match read_text(text) {
        Ok(Credential::PrivateKey(key)) => Ok(*key),
        Ok(Credential::Password(_)) => Err("a password".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn error(text: &str) -> CredentialError {
    read_text(text).err().expect("an error")
}

fn password(text: &str) -> Vec<u8> {
    match read_text(text) {
        Ok(Credential::Password(password)) => password.expose().to_vec(),
        Ok(Credential::PrivateKey(_)) => panic!("a key"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_key_is_read_in_every_form() {
    let keys = Keys::new();
    for (name, pem, public) in every_key(&keys) {
        for (form, text) in every_form(&pem) {
            let read = key(&text).unwrap_or_else(|error| panic!("{name}, {form}: {error}"));
            assert_eq!(read.public_key().key_data(), public.key_data(), "{name}, {form}");
        }
        // The private half is the right one too: what it signs, the public key that OpenSSH named verifies.
        let read = key(&pem).expect("read above");
        let signature = read.sign("test", ssh_key::HashAlg::Sha512, b"message").expect("signs");
        public.verify("test", b"message", &signature).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn openssh_key_whose_number_begins_with_zero_is_read() {
    let scalar = [&[0][..], &[0x5a; 31]].concat();
    let point = p256::SecretKey::from_slice(&scalar).expect("a scalar").public_key().to_sec1_bytes();
    let (mut public, mut private) = (Vec::new(), vec![7; 8]);
    for fields in [&mut public, &mut private] {
        put_string(fields, b"ecdsa-sha2-nistp256");
        put_string(fields, b"nistp256");
        put_string(fields, &point);
    }
    put_string(&mut private, &scalar[1..]);
    put_string(&mut private, b"");
    private.extend((1..=(8 - private.len() % 8) as u8 % 8).collect::<Vec<_>>());
    let mut blob = b"openssh-key-v1\0".to_vec();
    put_string(&mut blob, b"none");
    put_string(&mut blob, b"none");
    put_string(&mut blob, b"");
    put_u32(&mut blob, 1);
    put_string(&mut blob, &public);
    put_string(&mut blob, &private);
    let text = base64_of(&blob);
    let keys = Keys::new();
    let pem = format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n", wrapped(&text));
    fs::write(keys.path("short"), &pem).expect("written");
    fs::set_permissions(keys.path("short"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("the owner may");
    for text in [text, pem] {
        assert_eq!(key(&text).expect("a key").public_key().key_data(), keys.public("short").key_data());
    }
}

#[test]
fn anything_else_is_the_password() {
    let sample = "j7cz8xk2p0q9w5e4r3t1y6u8i2o7a9s4d3f5g6h1k0l8z7x2c9v4b5n3m1q6w8e0r2t4y7u9ab";
    assert_eq!(sample.len(), 74);
    assert_eq!(password(sample), sample.as_bytes());
    assert_eq!(password("  correct horse\\n \r\n"), b"correct horse\\n");
    // Valid base64 of no key: of text, of bytes, of a DER that is no key, of a public key's blob, unpadded.
    let of_der = base64_of(&[0x30, 0x06, 2, 1, 0, 2, 1, 5]);
    for text in ["cGFzc3dvcmQ=", "AAAA", "MIIEpAIBAAKC", "abcd efgh", "====", "=", "-----", &of_der, "b3BlbnNzaC1rZXktdjE="] {
        assert_eq!(password(text), text.as_bytes());
    }
    // Not UTF-8.
    let bytes = vec![0xff, 0xfe, b'x', 0x00, 0x80];
    assert!(matches!(read(&Secret::new(bytes.clone())), Ok(Credential::Password(read)) if read.expose() == bytes));
}

#[test]
fn what_is_no_usable_key_says_so() {
    assert_eq!(error(""), CredentialError::Empty);
    assert_eq!(error(" \r\n\t"), CredentialError::Empty);
    assert_eq!(error(&"x".repeat(MAX_SECRET + 1)), CredentialError::TooLong);
    assert_eq!(password(&"x".repeat(MAX_SECRET)).len(), MAX_SECRET);

    let keys = Keys::new();
    let plain = keys.keygen("plain", &["-t", "rsa", "-b", "2048", "-m", "PEM", "-N", ""]);
    let encrypted = [
        keys.keygen("e1", &["-t", "ed25519", "-N", "secret"]),
        keys.keygen("e2", &["-t", "ecdsa", "-m", "PEM", "-N", "secret"]),
        keys.keygen("e3", &["-t", "ecdsa", "-m", "PKCS8", "-N", "secret"]),
    ];
    for pem in &encrypted {
        for (form, text) in every_form(pem).into_iter().filter(|(form, _)| !(pem.contains("Proc-Type") && form.contains("binary"))) {
            assert_eq!(error(&text), CredentialError::Encrypted, "{form}");
        }
    }

    let plain_path = keys.path("plain");
    let certificate = keys.openssl("certificate", &["req", "-x509", "-subj", "/CN=x", "-key", utf8(&plain_path)]);
    let public = keys.openssl("public", &["pkey", "-pubout", "-in", utf8(&plain_path)]);
    keys.openssl("dsaparam", &["dsaparam", "1024"]);
    let dsa = keys.openssl("dsa", &["gendsa", utf8(&keys.path("dsaparam"))]);
    let curve = keys.openssl("curve", &["ecparam", "-name", "secp256k1", "-genkey", "-noout"]);
    let small = keys.openssl("small", &["genrsa", "-traditional", "512"]);
    let pss = keys.openssl("pss", &["genpkey", "-algorithm", "rsa-pss"]);
    let dsa_openssh = ssh_dss();
    for (text, word) in [
        (&certificate, "a certificate"),
        (&public, "a public key"),
        (&dsa, "DSA"),
        (&dsa_openssh, "DSA"),
        (&curve, "another curve"),
        (&small, "1024"),
        (&pss, "PSS"),
    ] {
        for text in [text.clone(), base64_of(text.as_bytes()), text.replace('\n', " ")] {
            let error = error(&text).to_string();
            assert!(error.contains(word), "{word}: {error}");
        }
    }
    // A key beside its certificate is still the key.
    assert!(key(&format!("{certificate}{plain}")).is_ok());

    let swapped = |of: &str, at: usize| [&of[..at], if of[at..].starts_with('B') { "C" } else { "B" }, &of[at + 1..]].concat();
    let damaged = [
        plain[..plain.len() / 2].to_owned(),
        plain.replace("END RSA", "END EC"),
        plain.replace("-----BEGIN RSA PRIVATE KEY-----", "-----BEGIN"),
        plain.replace("-----BEGIN RSA", "-----BEGINRSA"),
        swapped(&plain, 200),
        swapped(&plain, plain.len() / 2),
        plain.replace("-----END", "!-----END"),
        plain.replace("-----END", "AAAA-----END"),
        "-----BEGIN PRIVATE KEY----------END PRIVATE KEY-----".to_owned(),
        "-----BEGIN PRIVATE KEY-----AAAA-----END PRIVATE KEY-----".to_owned(),
        format!("password -----BEGIN {}", "x".repeat(20)),
    ];
    for text in damaged {
        assert!(matches!(error(&text), CredentialError::Unreadable(_)), "{}", error(&text));
        assert!(matches!(error(&base64_of(text.as_bytes())), CredentialError::Unreadable(_)));
    }
}

/// An `ssh-dss` key's frame; the numbers are never looked at.
fn ssh_dss() -> String {
    let mut private = vec![0; 8];
    put_string(&mut private, b"ssh-dss");
    let mut blob = b"openssh-key-v1\0".to_vec();
    for field in [&b"none"[..], b"none", b""] {
        put_string(&mut blob, field);
    }
    put_u32(&mut blob, 1);
    put_string(&mut blob, b"");
    put_string(&mut blob, &private);
    format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----\n", base64_of(&blob))
}

/// A small linear congruential generator: the same run every time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            match self.below(4) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][self.below(5)],
                2 => drop(bytes.drain(at..bytes.len().min(at + 1 + self.below(8)))),
                _ => bytes.insert(at, self.below(256) as u8),
            }
            if bytes.is_empty() {
                bytes.push(0);
            }
        }
    }
}

#[test]
fn arbitrary_bytes_never_panic_and_a_marked_key_never_becomes_a_password() {
    let keys = Keys::new();
    let mut random = Random(1);
    for (name, pem, _) in every_key(&keys) {
        let label = pem.lines().rfind(|line| line.starts_with("-----BEGIN")).expect("PEM").trim_matches('-').replace("BEGIN ", "");
        for _ in 0..150 {
            let mut text = pem.clone().into_bytes();
            random.mutate(&mut text);
            let marked = holds_pem(&text);
            let read_back = read(&Secret::new(text));
            assert!(!(marked && matches!(read_back, Ok(Credential::Password(_)))), "{name}");

            let mut blob = blob_of(&pem);
            random.mutate(&mut blob);
            let body = base64_of(&blob);
            drop(read_text(&body));
            let marked = read_text(&format!("-----BEGIN {label}-----{body}-----END {label}-----"));
            assert!(!matches!(marked, Ok(Credential::Password(_))), "{name}");
        }
    }
    for len in 1..400 {
        drop(read(&Secret::new((0..len).map(|_| random.below(256) as u8).collect())));
        drop(read_text(&base64_of(&(0..len).map(|_| random.below(256) as u8).collect::<Vec<_>>())));
    }
}
