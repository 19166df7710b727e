//! What people do with many instances at once, and what an editor does with one.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use super::in_venv;
use crate::lab::{Lab, Plan, Sshd, exchange, succeeded, terminate, text};

const NAMES: [&str; 20] = [
    "ins-a", "ins-b", "ins-c", "ins-d", "ins-e", "ins-f", "ins-g", "ins-h", "ins-i", "ins-j", "ins-k", "ins-l", "ins-m", "ins-n", "ins-o",
    "ins-p", "ins-q", "ins-r", "ins-s", "ins-t",
];
const ADDRESSES: [&str; 20] = [
    "127.0.0.1",
    "127.0.0.2",
    "127.0.0.3",
    "127.0.0.4",
    "127.0.0.5",
    "127.0.0.6",
    "127.0.0.7",
    "127.0.0.8",
    "127.0.0.9",
    "127.0.0.10",
    "127.0.0.11",
    "127.0.0.12",
    "127.0.0.13",
    "127.0.0.14",
    "127.0.0.15",
    "127.0.0.16",
    "127.0.0.17",
    "127.0.0.18",
    "127.0.0.19",
    "127.0.0.20",
];

#[test]
fn ansible_runs_on_twenty_instances_with_twenty_forks() {
    let ansible = in_venv("ansible");
    let instances = NAMES.iter().zip(ADDRESSES).map(|(name, address)| Sshd::new(name, address)).collect();
    let lab = Lab::with(Plan { instances, ..Plan::default() });
    fs::write(lab.path("hosts"), NAMES.join("\n") + "\n").unwrap();
    fs::write(lab.path("file"), "from the operator").unwrap();
    let run = |module: &str, arguments: &str| {
        let mut command = lab.program(150, ansible.to_str().unwrap());
        let options = format!("-F {}", lab.path("ssh_config").display());
        command.args(["all", "-f", "20", "-i"]).arg(lab.path("hosts"));
        command.args(["--ssh-common-args", &options, "-e", "ansible_python_interpreter=/usr/bin/python3", "-m", module, "-a", arguments]);
        command.env("ANSIBLE_PIPELINING", "1").env("ANSIBLE_SSH_ARGS", "-o ControlMaster=auto -o ControlPersist=20s");
        succeeded(&command.output().unwrap())
    };
    // Which instance a command reached shows in the address that it was reached at.
    let told = run("shell", "echo ${SSH_CONNECTION}");
    for (name, address) in NAMES.iter().zip(ADDRESSES) {
        let said = told.split(&format!("{name} | CHANGED")).nth(1).unwrap_or_else(|| panic!("{name}: {told}"));
        assert!(said.lines().nth(1).unwrap().contains(&format!(" {address} ")), "{name}: {told}");
    }
    let dir = lab.path("");
    run("copy", &format!("src={0}/file dest={0}/{{{{ inventory_hostname }}}}.copy", dir.display()));
    for name in NAMES {
        assert_eq!(fs::read_to_string(lab.path(&format!("{name}.copy"))).unwrap(), "from the operator");
    }
    let sessions = lab.audit().iter().filter(|event| event["event"] == "session.opened").count();
    assert!((20..=40).contains(&sessions), "{sessions} sessions");
}

/// The command line of VS Code's Remote-SSH: a shell without a terminal whose script comes on its input and starts a server, and one
/// SOCKS port that carries everything else.
#[test]
fn an_editors_remote_session_works() {
    let lab = Lab::start();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut ssh = lab.ssh(&["-v", "-T", "-D", &port.to_string(), "-o", "ConnectTimeout=15", "ins-a", "bash"]);
    let mut ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (mut script, mut said) = (ssh.stdin.take().unwrap(), BufReader::new(ssh.stdout.take().unwrap()));
    // As its install script does: answers between marks, a server in the background that outlives the script.
    let server = "import http.server,socketserver as s;s.ThreadingTCPServer.request_queue_size=99;h=s.ThreadingTCPServer(('127.0.0.1',0),http.server.SimpleHTTPRequestHandler);\
                  print('listeningOn=='+str(h.server_address[1])+'==',flush=True);h.serve_forever()";
    let dir = lab.path("").display().to_string();
    writeln!(script, "echo 'a1b2c3: running'\nuname -s\ncd {dir}\npython3 -c \"{server}\" 2>/dev/null &\nSERVER=$!\n").unwrap();
    let mut line = || {
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        line
    };
    assert_eq!((line(), line()), ("a1b2c3: running\n".to_owned(), "Linux\n".to_owned()));
    let listening = line();
    let remote: u16 = listening.split("==").nth(1).unwrap_or_else(|| panic!("{listening:?}")).parse().unwrap();
    fs::write(lab.path("served"), vec![b'x'; 300_000]).unwrap();
    std::thread::scope(|scope| {
        let fetch = || {
            let mut nc = lab.program(30, "nc");
            nc.args(["-N", "-X", "5", "-x", &format!("127.0.0.1:{port}"), "127.0.0.1", &remote.to_string()]);
            exchange(&mut nc, b"GET /served HTTP/1.0\r\n\r\n")
        };
        let all: Vec<_> = (0..30).map(|_| scope.spawn(fetch)).collect();
        for one in all {
            let out = one.join().unwrap();
            let (head, errors) = (text(out.stdout.get(..200).unwrap_or(&out.stdout)), text(&out.stderr));
            let whole = head.starts_with("HTTP/1.0 200") && out.stdout.ends_with(&[b'x'; 300_000]);
            assert!(whole, "{:?}, {} bytes: {head:?} {errors}", out.status, out.stdout.len());
        }
    });
    // One that stays open, as an editor's does, while the shell goes on.
    let mut stays = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stays.write_all(b"\x05\x01\0").unwrap();
    stays.read_exact(&mut [0; 2]).unwrap();
    writeln!(script, "kill $SERVER; echo done; exit 3").unwrap();
    assert_eq!(line(), "done\n");
    drop((script, stays));
    assert_eq!(ssh.wait().unwrap().code(), Some(3));
    terminate(&mut ssh);
}
