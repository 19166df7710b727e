//! X11: a display of the operator's that answers what comes, and a program on the instance that draws on it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::{Outcome, same};
use crate::lab::Lab;

/// Asks for the display's cookie, says hello with it, sends a megabyte and reads it back before it ends: OpenSSH closes a display's
/// channel at the first end.
const DRAW: &str = r#"
import os, socket, subprocess, threading
display = os.environ["DISPLAY"]
cookie = bytes.fromhex(subprocess.check_output(["xauth", "list", display], text=True).split()[2])
s = socket.create_connection(("127.0.0.1", 6000 + int(display.split(":")[1].split(".")[0])))
hello = b"l\0\x0b\0\0\0\x12\0\x10\0\0\0MIT-MAGIC-COOKIE-1\0\0" + cookie
pixels = bytes(range(256)) * 4096
threading.Thread(target=lambda: s.sendall(hello + pixels)).start()
got = b""
while len(got) < len(hello + pixels) and (block := s.recv(65536)):
    got += block
print(got[:12] == hello[:12], got[48:] == pixels, len(got))
"#;

fn echo(mut stream: TcpStream) {
    let mut block = vec![0; 65536];
    while let Ok(n @ 1..) = stream.read(&mut block) {
        if stream.write_all(&block[..n]).is_err() {
            return;
        }
    }
}

#[test]
fn programs_draw_on_the_operators_display() {
    a_display(Lab::start());
}

pub fn a_display(lab: Lab) {
    let display = TcpListener::bind("127.0.0.1:0").unwrap();
    let number = display.local_addr().unwrap().port() - 6000;
    std::thread::spawn(move || display.incoming().for_each(|stream| drop(std::thread::spawn(move || echo(stream.unwrap())))));
    let ssh = |trust: &str, way: &str, command: &str, stdin: &[u8]| {
        // Without a cookie of the display's own, OpenSSH makes one up.
        let mut ssh = lab.ssh(&[trust, "-o", "XAuthLocation=/nonexistent", "-o", "ForwardX11Timeout=0", way, command]);
        Outcome::of(&crate::lab::exchange(ssh.env("DISPLAY", format!("127.0.0.1:{number}")), stdin))
    };
    // The first cookie that an account ever gets makes its file, and xauth says so.
    assert_eq!(ssh("-X", "direct", "true", b"").code, Some(0));
    for trust in ["-X", "-Y"] {
        let outcome = same(trust, |way| ssh(trust, way, "python3 -", DRAW.as_bytes()));
        assert_eq!(outcome.shown(), "True True 1048624\n", "{outcome:?}");
    }
}
