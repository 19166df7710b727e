//! Forwards of every kind, with protocols in which the server speaks first.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::{Outcome, same};
use crate::lab::{Lab, exchange, pattern, terminate, text, until};

const GREETING: &[u8] = b"220 speaks first\r\n";

/// Greets, gives back what comes, and says goodbye after the other side's end.
fn serve(mut stream: impl Read + Write) {
    let mut block = vec![0; 65536];
    let mut told = stream.write_all(GREETING);
    while let (Ok(()), Ok(n @ 1..)) = (&told, stream.read(&mut block)) {
        told = stream.write_all(&block[..n]);
    }
    let _ = stream.write_all(b"bye");
}

fn tcp_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|stream| drop(std::thread::spawn(|| serve(stream.unwrap())))));
    address
}

fn unix_server(path: &std::path::Path) {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|stream| drop(std::thread::spawn(|| serve(stream.unwrap())))));
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A stream that can end one way.
trait Stream: Read + Write + Send + Sized {
    fn twin(&self) -> Self;
    fn end(&self);
}

impl Stream for TcpStream {
    fn twin(&self) -> Self {
        self.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        self.try_clone().unwrap()
    }
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

impl Stream for UnixStream {
    fn twin(&self) -> Self {
        self.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        self.try_clone().unwrap()
    }
    fn end(&self) {
        self.shutdown(Shutdown::Write).unwrap();
    }
}

/// Waits for the greeting, sends, ends its side, and reads to the other's end.
fn converse(mut stream: impl Stream) -> String {
    let given = pattern(1 << 20);
    let mut greeting = vec![0; GREETING.len()];
    stream.read_exact(&mut greeting).unwrap();
    let mut writer = stream.twin();
    let mut got = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            writer.write_all(&given).unwrap();
            writer.end();
        });
        stream.read_to_end(&mut got).unwrap();
    });
    let whole = got.strip_suffix(b"bye").is_some_and(|got| got == given);
    format!("{} {whole}\n", text(&greeting).trim_end())
}

const CONVERSED: &str = "220 speaks first true\n";

/// `ssh -N` with forwards, ended when dropped.
struct Forwarding(Child);

impl Forwarding {
    fn start(lab: &Lab, way: &str, arguments: &[&str]) -> Self {
        Self(lab.ssh(&[&["-N", "-o", "ExitOnForwardFailure=yes"], arguments, &[way]].concat()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// What it has said on its errors when it is ended now.
    fn end(mut self) -> String {
        terminate(&mut self.0);
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        terminate(&mut self.0);
    }
}

fn connected(port: u16) -> TcpStream {
    let mut stream = None;
    until("a forward that listens", || {
        stream = TcpStream::connect(("127.0.0.1", port)).ok();
        stream.is_some()
    });
    stream.unwrap()
}

#[test]
fn local_forwards_carry() {
    local_forwards(Lab::start());
}

pub fn local_forwards(lab: Lab) {
    let server = tcp_server();
    unix_server(&lab.path("server.sock"));
    let outcome = same("-L", |way| {
        let (port, to_socket) = (free_port(), free_port());
        let socket = lab.path(&format!("{way}.sock"));
        let forwards = [
            format!("{port}:{server}"),
            format!("{}:{server}", socket.display()),
            format!("{to_socket}:{}", lab.path("server.sock").display()),
        ];
        let _ssh = Forwarding::start(&lab, way, &["-L", &forwards[0], "-L", &forwards[1], "-L", &forwards[2]]);
        let mut told = converse(connected(port));
        told += &converse(UnixStream::connect(socket).unwrap());
        told += &converse(connected(to_socket));
        // Ten at once.
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..10).map(|_| scope.spawn(|| converse(connected(port)))).collect();
            all.into_iter().for_each(|one| told += &one.join().unwrap());
        });
        Outcome::told(told)
    });
    assert_eq!(outcome.shown(), CONVERSED.repeat(13));
}

#[test]
fn remote_forwards_carry() {
    remote_forwards(Lab::start());
}

pub fn remote_forwards(lab: Lab) {
    let server = tcp_server();
    unix_server(&lab.path("server.sock"));
    let outcome = same("-R", |way| {
        let (port, socket) = (free_port(), lab.path(&format!("{way}.sock")));
        let forwards =
            [format!("{port}:{server}"), format!("{}:{server}", socket.display()), format!("0:{}", lab.path("server.sock").display())];
        let ssh = Forwarding::start(&lab, way, &["-R", &forwards[0], "-R", &forwards[1]]);
        let mut told = converse(connected(port));
        told += &converse(UnixStream::connect(socket).unwrap());
        drop(ssh);
        // A port of the instance's choice: told to the client, which tells the operator.
        let command = "read port; exec 3<>/dev/tcp/127.0.0.1/$port; head -n 1 <&3; printf 'x' >&3; head -c 1 <&3; exit 3";
        let mut ssh = lab.ssh(&["-R", &forwards[2], way, &format!("exec bash -c '{command}'")]);
        let mut ssh = ssh.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = Vec::new();
        let errors = ssh.stderr.as_mut().unwrap();
        while said.last() != Some(&b'\n') {
            let mut byte = [0];
            errors.read_exact(&mut byte).unwrap();
            said.push(byte[0]);
        }
        let said = text(&said);
        let port: u16 = said.split_whitespace().nth(2).unwrap().parse().unwrap();
        writeln!(ssh.stdin.as_mut().unwrap(), "{port}").unwrap();
        let mut out = Outcome::of(&ssh.wait_with_output().unwrap());
        out.stderr = said.replace(&port.to_string(), "PORT") + &out.stderr;
        out.stdout.splice(0..0, told.into_bytes());
        out
    });
    assert_eq!(outcome.shown(), CONVERSED.repeat(2) + "220 speaks first\r\nx");
    assert!(outcome.stderr.starts_with("Allocated port PORT for remote forward to"), "{outcome:?}");
    assert_eq!(outcome.code, Some(3));
}

#[test]
fn socks_forwards_carry() {
    socks_forwards(Lab::start());
}

pub fn socks_forwards(lab: Lab) {
    let server = tcp_server();
    let outcome = same("-D", |way| {
        let port = free_port();
        let _ssh = Forwarding::start(&lab, way, &["-D", &port.to_string()]);
        drop(connected(port));
        let through = |version: &str, to: u16| {
            let mut nc = lab.program(20, "nc");
            nc.args(["-N", "-X", version, "-x", &format!("127.0.0.1:{port}"), "127.0.0.1", &to.to_string()]);
            Outcome::of(&exchange(&mut nc, b"through"))
        };
        Outcome::told(format!("{:?}{:?}{:?}", through("5", server.port()), through("4", server.port()), through("5", 1)))
    });
    assert_eq!(outcome.shown().matches("220 speaks first\r\nthroughbye").count(), 2, "{outcome:?}");
}

#[test]
fn standard_input_and_output_are_forwarded() {
    standard_input_and_output(Lab::start());
}

pub fn standard_input_and_output(lab: Lab) {
    let (server, given) = (tcp_server(), pattern(2 << 20));
    let outcome = same("-W", |way| Outcome::of(&exchange(&mut lab.ssh(&["-W", &server.to_string(), way]), &given)));
    let expected = [GREETING, &given, b"bye"].concat();
    assert!(outcome.code == Some(0) && outcome.stdout == expected, "{outcome:?}");
    let refused = same("-W to nobody", |way| Outcome::of(&lab.run(&["-W", "127.0.0.1:1", way])));
    assert!(refused.stderr.contains("Connection refused"), "{refused:?}");
}

#[test]
fn forwards_are_refused_alike() {
    refused_forwards(Lab::start());
}

pub fn refused_forwards(lab: Lab) {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let _too = TcpListener::bind(("::1", taken.local_addr().unwrap().port()));
    let socket = lab.path("nobody.sock").display().to_string();
    let cases = [
        ("a port that is taken", vec!["-R".to_owned(), format!("{}:127.0.0.1:1", taken.local_addr().unwrap().port())]),
        ("a socket in no directory", vec!["-R".to_owned(), "/nonexistent/x:127.0.0.1:1".to_owned()]),
    ];
    for (name, forward) in &cases {
        let outcome = same(name, |way| Outcome::of(&lab.run(&[&forward[0], &forward[1], way, "sleep 0.5; echo on; exit 2"])));
        assert!(outcome.stderr.contains("remote port forwarding failed") && outcome.code == Some(2), "{outcome:?}");
    }
    for (name, target) in [("a closed port", "127.0.0.1:1"), ("no socket", &socket)] {
        let outcome = same(name, |way| {
            let port = free_port();
            let ssh = Forwarding::start(&lab, way, &["-L", &format!("{port}:{target}")]);
            let mut got = Vec::new();
            let _ = connected(port).read_to_end(&mut got);
            let said = ssh.end();
            Outcome::told(format!("{got:?} {}", said.lines().next().unwrap_or_default()))
        });
        assert!(outcome.shown().contains("open failed: connect failed"), "{outcome:?}");
    }
}

/// No grant is for tunnels of whole networks. What is asked for beside one goes on.
#[test]
fn a_tunnel_is_refused_and_the_session_goes_on() {
    let lab = Lab::start();
    let device = Command::new("test").args(["-c", "/dev/net/tun"]).status().unwrap();
    assert!(device.success(), "there is no /dev/net/tun: ssh gives up before it asks for a tunnel");
    let out = lab.run(&["-w", "any:any", "-o", "ExitOnForwardFailure=no", "ins-a", "sleep 0.3; echo on; exit 3"]);
    assert_eq!((out.status.code(), text(&out.stdout)), (Some(3), "on\n".to_owned()), "{}", text(&out.stderr));
    assert!(text(&out.stderr).contains("open failed"), "{}", text(&out.stderr));
    lab.await_event(|event| event["event"] == "channel.refused" && event["kind"] == "tun@openssh.com" && event["by"] == "broker");
}

/// `-N` asks for nothing; the client ends when it is told to.
#[test]
fn a_connection_without_a_command_stays_until_it_is_ended() {
    let lab = Lab::start();
    same("-N", |way| {
        let master = super::Master::start(&lab, way, &[]);
        assert!(master.ssh(&["-O", "check"], "").status().unwrap().success());
        drop(master);
        let mut out = lab.program(2, "ssh").arg("-F").arg(lab.path("ssh_config")).args(["-N", way]).output().unwrap();
        // The client and its jump are told at the same time: which one is the first to end is nobody's choice.
        if text(&out.stderr).trim_end() == "client_loop: send disconnect: Broken pipe" {
            out.stderr.clear();
        }
        Outcome::of(&out)
    });
}

/// Runs a command over `ssh -L PORT:INSTANCE:22 broker`, by which any client comes in. An old one looks for the certificate's name in the
/// address, whatever the alias: it trusts the session key itself.
pub fn through_a_forwarded_port(lab: &Lab, instance: &str, command: &str) -> Outcome {
    let (port, known) = (free_port(), lab.path("session_known"));
    let key = std::fs::read_to_string(lab.path("state/session_ed25519.pub")).unwrap();
    std::fs::write(&known, format!("{instance} {key}")).unwrap();
    let _jump = Forwarding::start(lab, "broker", &["-L", &format!("{port}:{instance}:22")]);
    drop(connected(port));
    let (alias, known) = (format!("HostKeyAlias={instance}"), format!("UserKnownHostsFile={}", known.display()));
    let options = ["ProxyCommand=none", "HostName=127.0.0.1", "HostKeyAlgorithms=ssh-ed25519", &alias, &known];
    let options: Vec<&str> = options.into_iter().flat_map(|option| ["-o", option]).collect();
    Outcome::of(&lab.run(&[&options[..], &["-p", &port.to_string(), instance, command]].concat()))
}
