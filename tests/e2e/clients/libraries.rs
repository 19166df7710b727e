//! The C libraries that other programs reach SSH with: libssh, and libssh2 as a library and in curl.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;

use super::{file, in_venv};
use crate::lab::{Lab, installed, succeeded, terminate, until};

fn python(lab: &Lab, script: &str) -> String {
    let (file, _) = file(lab);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/clients").join(script);
    let mut python = lab.program(60, in_venv("python3").to_str().unwrap());
    succeeded(&python.arg(script).arg(lab.path("ssh_config")).arg(file).arg(lab.path("")).output().unwrap())
}

#[test]
fn libssh_goes_through_a_proxy_command() {
    assert_eq!(python(&Lab::start(), "libssh.py"), "libssh went through\n");
}

#[test]
fn libssh2_goes_through_a_socket_of_its_own() {
    assert_eq!(python(&Lab::start(), "libssh2.py"), "libssh2 went through\n");
}

/// What knows no jump is given a port: `ssh -L PORT:ins-a:22 broker`.
#[test]
fn curl_copies_through_a_forwarded_port() {
    let curl = installed("curl");
    let lab = Lab::start();
    let (file, content) = file(&lab);
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut jump = lab.ssh(&["-N", "-L", &format!("{port}:ins-a:22"), "broker"]).spawn().unwrap();
    until("the forwarded port", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    let (up, down) = (lab.path("up"), lab.path("down"));
    let copy = |arguments: &[&Path]| {
        let mut command = lab.program(60, &curl);
        command.args(["-sS", "--insecure", "-u", "whoever:ignored"]).args(arguments);
        succeeded(&command.arg(format!("sftp://127.0.0.1:{port}{}", up.display())).output().unwrap());
    };
    copy(&[Path::new("-T"), &file]);
    copy(&[Path::new("-o"), &down]);
    assert!(fs::read(&up).unwrap() == content && fs::read(&down).unwrap() == content);
    terminate(&mut jump);
}
