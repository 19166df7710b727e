use super::*;

fn packet(kind: u8, fields: &[&[u8]]) -> Vec<u8> {
    let body: Vec<u8> = fields.concat();
    let mut packet = (body.len() as u32 + 1).to_be_bytes().to_vec();
    packet.push(kind);
    packet.extend(body);
    packet
}

fn string(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let bytes = bytes.as_ref();
    [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat()
}

fn id(n: u32) -> [u8; 4] {
    n.to_be_bytes()
}

fn asked(kind: u8, n: u32, fields: &[&[u8]]) -> (Side, Vec<u8>) {
    let number = id(n);
    (Side::Operator, packet(kind, &[&[&number[..]], fields].concat()))
}

fn status(n: u32, code: u32) -> (Side, Vec<u8>) {
    (Side::Instance, packet(STATUS, &[&id(n), &id(code), &string("text"), &string("")]))
}

fn handle(n: u32, name: &str) -> (Side, Vec<u8>) {
    (Side::Instance, packet(HANDLE, &[&id(n), &string(name)]))
}

fn began() -> Vec<(Side, Vec<u8>)> {
    vec![(Side::Operator, packet(INIT, &[&id(3)])), (Side::Instance, packet(VERSION, &[&id(3), &string("x@y"), &string("1")]))]
}

fn run(dialogue: &[(Side, Vec<u8>)], cut: usize) -> Result<Vec<Operation>, Unparsed> {
    let (mut sftp, mut told) = (Sftp::new(), Vec::new());
    let mut tell = |operation| told.push(operation);
    for (from, bytes) in dialogue {
        for part in bytes.chunks(cut) {
            sftp.push(*from, part, &mut tell)?;
            assert!(sftp.is_bounded());
        }
    }
    sftp.end(&mut tell);
    Ok(told)
}

#[test]
fn files_and_changes_are_told_however_the_stream_is_cut() {
    let mut dialogue = began();
    dialogue.extend([
        asked(OPEN, 1, &[&string("/up"), &id(0x1a), &id(0)]),
        handle(1, "h0"),
        asked(WRITE, 2, &[&string("h0"), &[0; 8], &string([9; 700])]),
        asked(WRITE, 3, &[&string("h0"), &[0; 8], &string([9; 300])]),
        status(2, 0),
        status(3, 0),
        asked(FSETSTAT, 4, &[&string("h0"), &id(0)]),
        status(4, 0),
        asked(CLOSE, 5, &[&string("h0")]),
        status(5, 0),
        asked(OPEN, 6, &[&string("/down"), &id(1), &id(0)]),
        handle(6, "h0"),
        asked(READ, 7, &[&string("h0"), &[0; 8], &id(1000)]),
        asked(READ, 8, &[&string("h0"), &[0; 8], &id(1000)]),
        (Side::Instance, packet(DATA, &[&id(7), &string([7; 512])])),
        status(8, 1),
        asked(CLOSE, 9, &[&string("h0")]),
        status(9, 0),
        asked(OPEN, 10, &[&string("/no"), &id(1), &id(0)]),
        status(10, 3),
        asked(OPENDIR, 11, &[&string("/dir")]),
        handle(11, "h1"),
        asked(12, 12, &[&string("h1")]),
        (Side::Instance, packet(104, &[&id(12), &id(1), &string("name"), &string("long"), &id(0)])),
        asked(CLOSE, 13, &[&string("h1")]),
        status(13, 0),
        asked(RENAME, 14, &[&string("/a"), &string("/b")]),
        status(14, 4),
        asked(EXTENDED, 15, &[&string("posix-rename@openssh.com"), &string("/c"), &string(b"/d\xff")]),
        status(15, 0),
        asked(EXTENDED, 16, &[&string("statvfs@openssh.com"), &string("/")]),
        (Side::Instance, packet(201, &[&id(16), &[0; 88]])),
        asked(SYMLINK, 17, &[&string("/target"), &string("/link")]),
        status(17, 0),
        asked(REMOVE, 18, &[&string("/r")]),
        status(18, 2),
        asked(7, 19, &[&string("/stat")]),
        (Side::Instance, packet(105, &[&id(19), &id(0)])),
        asked(OPEN, 20, &[&string("/left"), &id(2), &id(0)]),
        handle(20, "h0"),
        asked(WRITE, 21, &[&string("h0"), &[0; 8], &string([1; 10])]),
        status(21, 4),
    ]);
    for cut in (1..40).chain([10_000]) {
        let told = run(&dialogue, cut).unwrap();
        let seen: Vec<_> = told
            .iter()
            .map(|o| (o.op, o.direction.unwrap_or(""), o.path.as_str(), o.name.as_deref(), o.bytes_up.or(o.bytes_down), o.result.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                ("setstat", "", "/up", None, None, "ok"),
                ("file", "up", "/up", None, Some(1000), "ok"),
                ("file", "down", "/down", None, Some(512), "ok"),
                ("file", "down", "/no", None, Some(0), "permission denied"),
                ("list", "", "/dir", None, None, "ok"),
                ("rename", "", "/a", Some("/b"), None, "failure"),
                ("rename", "", "/c", Some("/d\u{fffd}"), None, "ok"),
                ("symlink", "", "/link", Some("/target"), None, "ok"),
                ("remove", "", "/r", None, None, "no such file"),
                ("file", "up", "/left", None, Some(0), "unfinished"),
            ],
            "cut at {cut}"
        );
    }
}

#[test]
fn what_is_no_sftp_is_not_followed() {
    let version =
        |client: u32, server: u32| vec![(Side::Operator, packet(INIT, &[&id(client)])), (Side::Instance, packet(VERSION, &[&id(server)]))];
    assert!(run(&version(6, 3), 99).is_ok() && run(&version(3, 6), 99).is_ok());
    let with = |more: Vec<(Side, Vec<u8>)>| [began(), more].concat();
    let wrong = [
        version(6, 6),
        vec![(Side::Operator, b"\0\0\0\0".to_vec())],
        vec![(Side::Operator, b"GET / HTTP/1.1".to_vec())],
        vec![asked(OPEN, 1, &[&string("/x"), &id(1)])],
        vec![(Side::Instance, b"bash: sftp-server: not found\n".to_vec())],
        with(vec![(Side::Operator, packet(INIT, &[&id(3)]))]),
        with(vec![asked(OPEN, 1, &[&string("/x")])]),
        with(vec![asked(OPEN, 1, &[&id(9999)])]),
        with(vec![asked(REMOVE, 1, &[&string("/x")]), asked(REMOVE, 1, &[&string("/y")])]),
        with(vec![asked(OPEN, 1, &[&string("/x"), &id(1)]), (Side::Instance, packet(DATA, &[&id(1), &string("z")]))]),
        with(vec![asked(OPEN, 1, &[&string("/x"), &id(1)]), handle(1, "h"), asked(OPEN, 2, &[&string("/y"), &id(1)]), handle(2, "h")]),
    ];
    for dialogue in wrong {
        assert!(run(&dialogue, 5).is_err(), "{dialogue:?}");
    }
}

#[test]
fn neither_side_fills_the_tables() {
    let long = string([b'x'; 4000]);
    let requests: Vec<_> = (0..2000).map(|n| asked(REMOVE, n, &[&long])).collect();
    assert_eq!(run(&[began(), requests].concat(), 10_000), Err(Unparsed("too much is under way on an SFTP channel")));
    let opens = (0..20_000).flat_map(|n| [asked(OPEN, n, &[&string("/x"), &id(1)]), handle(n, &format!("h{n}"))]);
    let opens: Vec<_> = opens.collect();
    assert!(run(&[began(), opens].concat(), 10_000).is_err());
}
