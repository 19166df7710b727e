"""What tests/bench measures in: an instance, an OpenSSH jump host and brokers on loopback, each with a door that adds delay; and sessions
through them. Everything that is started here is ended here."""
import contextlib, http.server, json, os, pathlib, random, re, shutil, signal, socket, subprocess, sys, tempfile, threading, time

HZ = os.sysconf("SC_CLK_TCK")


def free_port(handed_out=set()):
    """Outside the range that connections take their ports from, and never the same twice."""
    for port in random.sample(range(10_000, 32_000), 1000):
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            if port not in handed_out:
                handed_out.add(port)
                return port
    raise SystemExit("bench: no port is free")


def await_port(port):
    for _ in range(1000):
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return
        time.sleep(0.01)
    raise SystemExit(f"bench: nothing listens on {port}")


def endpoint(port, secret):
    """The smallest endpoint that answers; the real checks are in the tests."""
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            access = {"Credentials": {"UserName": "root", "Secret": secret}, "FleetId": body.get("FleetId"),
                      "InstanceId": body.get("InstanceId"), "IpAddress": "127.0.0.1", "OperatingSystem": "bench"}
            out = json.dumps({"Response": {"InstanceAccess": access, "RequestId": "bench"}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(out)))
            self.end_headers()
            self.wfile.write(out)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def end(processes):
    for process in reversed(processes):
        process.send_signal(signal.SIGTERM)
    for process in processes:
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()


class Tree:
    """A process with all its descendants: the jump host forks for every connection, the broker does not."""

    def __init__(self, pid):
        self.pid = pid

    def pids(self):
        found = []
        with contextlib.suppress(OSError):
            for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
                for child in (task / "children").read_text().split():
                    found += Tree(int(child)).pids()
        return [self.pid, *found]

    def cpu(self):
        """Seconds, those of children that have ended included."""
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
                ticks += sum(map(int, fields[11:15]))
        return ticks / HZ

    def rss(self):
        """KiB."""
        total = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
                total += next((int(line.split()[1]) for line in lines if line.startswith("VmRSS")), 0)
        return total


class Way:
    """One way to the instance: the name to call, and whose cost it is (nobody's, when it is direct)."""

    def __init__(self, name, host, port, tree):
        self.name, self.host, self.port, self.tree = name, host, port, tree


class Lab:
    def __init__(self, brokers):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="bench."))
        self.started = []
        self.programs = brokers
        self.sessions = set()
        try:
            self.build(brokers)
        except BaseException:
            self.close()
            raise

    def build(self, brokers):
        for key in ("operator", "login"):
            self.keygen(key)
        (self.dir / "authorized").write_text((self.dir / "operator.pub").read_text() + (self.dir / "login.pub").read_text())
        self.instance, api, jump = free_port(), free_port(), free_port()
        endpoint(api, (self.dir / "login").read_text())
        self.sshd("instance", self.instance)
        self.ways = [Way("direct", "direct", self.instance, None), Way("plain -J", "plain", jump, Tree(self.sshd("jump", jump)))]
        for number, program in enumerate(brokers, 1):
            name = "broker" if len(brokers) == 1 else f"broker {number}"
            port = free_port()
            self.ways.append(Way(name, f"ins-a{number}.f", port, Tree(self.broker(program, number, port, api))))
        self.plain, self.broker_ways = self.ways[1], self.ways[2:]
        self.delays = {way.port: free_port() for way in self.ways}
        pairs = [f"{near}:{far}" for far, near in self.delays.items()]
        self.start([sys.executable, __file__, "20", *pairs])
        for near in self.delays.values():
            await_port(near)

    def close(self):
        for session in list(self.sessions):
            session.kill()
        end(self.started)
        shutil.rmtree(self.dir, ignore_errors=True)

    def start(self, command, **how):
        process = subprocess.Popen(command, **how)
        self.started.append(process)
        return process.pid

    def start_on(self, host, program, *rest, **how):
        """Starts a program from the host's own copies of it and of its libraries. On machines of their own the sshd of a jump host does not
        warm the processor's caches for the sshd of the instance; out of one file it would."""
        place = self.dir / f"{host}.files"
        if not place.exists():
            place.mkdir()
            libraries = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
            for file in [program, *re.findall(r"=> (/\S+)", libraries)]:
                shutil.copy(file, place)
        return self.start([place / pathlib.Path(program).name, *rest], env={**os.environ, "LD_LIBRARY_PATH": str(place)}, **how)

    def keygen(self, name):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.dir / name], check=True)

    def sshd(self, name, port):
        self.keygen(f"{name}_host")
        (self.dir / f"{name}.conf").write_text(
            f"ListenAddress 127.0.0.1:{port}\nHostKey {self.dir}/{name}_host\nAuthorizedKeysFile {self.dir}/authorized\nPidFile none\n"
            "StrictModes no\nUsePAM no\nPermitRootLogin yes\nMaxStartups 500\nMaxSessions 500\n")
        pathlib.Path("/run/sshd").mkdir(exist_ok=True)
        pid = self.start_on(name, "/usr/sbin/sshd", "-D", "-f", self.dir / f"{name}.conf", "-E", self.dir / f"{name}.log")
        await_port(port)
        return pid

    def broker(self, program, number, port, api):
        home = self.dir / f"broker{number}"
        home.mkdir()
        for name in ("state", "operators"):
            (home / name).mkdir(mode=0o700)
        shutil.copy(self.dir / "operator.pub", home / "operators/alice")
        for name in ("secret_id", "secret_key"):
            (home / name).write_text("benchbench")
            (home / name).chmod(0o600)
        (home / "broker.toml").write_text(f"""
state_dir = "{home}/state"
[listen]
addresses = ["127.0.0.1:{port}"]
[operators]
authorized_keys_dir = "{home}/operators"
[[grants]]
operators = ["alice"]
targets = ["*"]
[gse]
endpoint = "http://127.0.0.1:{api}"
region = "bench"
secret_id_file = "{home}/secret_id"
secret_key_file = "{home}/secret_key"
fleet_aliases = {{ f = "fleet-bench" }}
ssh_port = {self.instance}
[cache]
lease_ttl = "1h"
[upstream]
allowed_networks = ["127.0.0.0/8"]
[limits]
startups_per_source = 500
startups_per_netblock = 500
startups = 500
[audit]
path = "{home}/audit.jsonl"
""")
        return self.serve(program, home, port)

    def serve(self, program, home, port):
        with open(home / "broker.log", "a") as log:
            pid = self.start_on(home.name, program, "serve", "--config", home / "broker.toml", stderr=log)
        await_port(port)
        return pid

    def restart(self, way):
        """A broker anew: what was measured before has left its memory larger than it began."""
        number = self.broker_ways.index(way)
        old = next(process for process in self.started if process.pid == way.tree.pid)
        old.terminate()
        old.wait(20)
        self.started.remove(old)
        way.tree = Tree(self.serve(self.programs[number], self.dir / f"broker{number + 1}", way.port))
        subprocess.run(self.ssh(way, "true"), check=True, stdin=subprocess.DEVNULL)

    @contextlib.contextmanager
    def on_one_processor(self):
        """Everything that runs, and what it starts meanwhile."""
        everywhere = os.sched_getaffinity(0)
        def move(processors):
            os.sched_setaffinity(0, processors)
            for process in self.started:
                for pid in Tree(process.pid).pids():
                    with contextlib.suppress(OSError):
                        for task in os.listdir(f"/proc/{pid}/task"):
                            os.sched_setaffinity(int(task), processors)
        move({min(everywhere)})
        try:
            yield
        finally:
            move(everywhere)

    def ssh(self, way, *command, cipher=None, delayed=False):
        """The command line. The jump's own leg takes the same cipher; the broker chooses AES-GCM with this client whatever it is asked."""
        ciphers = f"  Ciphers {cipher}\n" if cipher else ""
        port = lambda port: self.delays[port] if delayed else port
        blocks = [f"Host direct\n  HostName 127.0.0.1\n  Port {port(self.instance)}\n  User root\n{ciphers}",
                  f"Host plain\n  HostName 127.0.0.1\n  Port {self.instance}\n  User root\n  ProxyJump jump\n{ciphers}",
                  f"Host jump\n  HostName 127.0.0.1\n  Port {port(self.plain.port)}\n  User root\n{ciphers}"]
        for number, broker in enumerate(self.broker_ways, 1):
            blocks += [f"Host broker{number}\n  HostName 127.0.0.1\n  Port {port(broker.port)}\n  User alice\n",
                       f"Host {broker.host}\n  ProxyJump broker{number}\n{ciphers}"]
        blocks.append(f"Host *\n  IdentityFile {self.dir}/operator\n  IdentitiesOnly yes\n  IdentityAgent none\n  StrictHostKeyChecking no\n"
                      "  UserKnownHostsFile /dev/null\n  LogLevel ERROR\n  BatchMode yes\n")
        config = self.dir / f"config.{cipher}.{delayed}"
        # Once: others may be reading it.
        if not config.exists():
            config.write_text("".join(blocks))
        return ["ssh", "-F", config, way.host, *command]


class Session:
    """An ssh whose command says `ready` and then does what it is told."""

    def __init__(self, lab, way, command, **how):
        self.lab, self.received = lab, 0
        self.process = subprocess.Popen(lab.ssh(way, f"echo ready; {command}", **how), stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        lab.sessions.add(self)

    def await_line(self, line):
        got = self.process.stdout.readline()
        if got.strip() != line:
            raise SystemExit(f"bench: a session said {got!r} where {line!r} was due")

    def kill(self):
        self.lab.sessions.discard(self)
        self.process.kill()
        self.process.wait()

    def end(self):
        self.process.stdin.close()
        self.process.wait(20)
        self.lab.sessions.discard(self)


class Sessions:
    """Several sessions that are open at the same time. `opened`: seconds until the last one was ready."""

    def __init__(self, lab, way, count, command, at_once=1000, **how):
        begin = time.monotonic()
        self.all = []
        while len(self.all) < count:
            opening = [Session(lab, way, command, **how) for _ in range(min(at_once, count - len(self.all)))]
            for session in opening:
                session.await_line(b"ready")
            self.all += opening
        self.opened = time.monotonic() - begin

    def __enter__(self):
        return self.all

    def __exit__(self, *_):
        for session in self.all:
            session.kill() if sys.exc_info()[0] else session.end()


def together(sessions, do):
    """Does it for all at the same time; gives the seconds until the last one is done."""
    threads = [threading.Thread(target=do, args=(session,), daemon=True) for session in sessions]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.monotonic() - begin


async def delay(milliseconds, pairs):
    """Passes each connection on, every byte `milliseconds` late."""
    import asyncio

    async def pass_on(reader, writer):
        line, room = asyncio.Queue(), asyncio.Semaphore(512)

        async def late():
            while (item := await line.get()) is not None:
                due, data = item
                await asyncio.sleep(due - time.monotonic())
                writer.write(data)
                await writer.drain()
                room.release()
            writer.write_eof()

        writing = asyncio.create_task(late())
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                await room.acquire()
                line.put_nowait((time.monotonic() + milliseconds / 1000, data))
        line.put_nowait(None)
        with contextlib.suppress(OSError):
            await writing

    async def serve(far, near_reader, near_writer):
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", far)
        except OSError:
            return near_writer.close()
        for writer in (near_writer, far_writer):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.gather(pass_on(near_reader, far_writer), pass_on(far_reader, near_writer), return_exceptions=True)
        for writer in (near_writer, far_writer):
            writer.close()

    for pair in pairs:
        near, far = map(int, pair.split(":"))
        await asyncio.start_server(lambda r, w, far=far: serve(far, r, w), "127.0.0.1", near)
    await asyncio.Event().wait()


if __name__ == "__main__":
    import asyncio

    asyncio.run(delay(float(sys.argv[1]), sys.argv[2:]))
