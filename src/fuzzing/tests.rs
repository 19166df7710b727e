use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Mutated inputs a target, and the time after which no more are begun.
const ROUNDS: usize = 4000;
const MOST: Duration = Duration::from_secs(2);

/// Shows the input of a target that panics.
struct Shown<'a>(&'static str, &'a [u8]);

impl Drop for Shown<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.1.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("{} panics on {hex}", self.0);
        }
    }
}

/// xorshift64: the same mutations in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n.max(1)
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>, other: &[u8]) {
        for _ in 0..=self.below(4) {
            let (at, n) = (self.below(bytes.len()), self.below(9));
            let end = bytes.len().min(at + n);
            match self.below(6) {
                0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
                1 if !bytes.is_empty() => bytes[at] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'-', b'='][self.below(8)],
                2 => drop(bytes.drain(at.min(end)..end)),
                3 => drop(bytes.splice(at..at, (0..n).map(|i| (self.0 >> (i * 7)) as u8))),
                4 => {
                    let from = self.below(other.len());
                    let piece = other[from..other.len().min(from + self.below(64))].to_vec();
                    drop(bytes.splice(at..at, piece));
                }
                _ => bytes.extend_from_within(at.min(end)..end),
            }
        }
    }
}

fn run(name: &'static str, target: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    assert!(!seeds.is_empty(), "{} has no seeds", dir.display());
    let call = |input: &[u8]| {
        let _shown = Shown(name, input);
        target(input);
    };
    seeds.iter().for_each(|seed| call(seed));
    call(&[]);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        if begun.elapsed() > MOST {
            break;
        }
        let (seed, other) = (random.below(seeds.len()), random.below(seeds.len()));
        let mut input = seeds[seed].clone();
        random.mutate(&mut input, &seeds[other]);
        call(&input);
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                run(stringify!($name), super::$name);
            }
        )*
    };
}

targets! {
    packet_reader kexinit kex_messages auth_client auth_server leg_client leg_server
    splice target_name authorized_keys certificate proxy_header login_request door_channels instance_secret api_answer pins command_words file_operations
}
