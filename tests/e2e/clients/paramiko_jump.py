"""paramiko through the broker: ADDRESS PORT OPERATOR_KEY SESSION_KEY.pub FILE DIRECTORY"""

import sys
import time

import paramiko

address, port, operator_key, session_key, path, directory = sys.argv[1:]
content = open(path, "rb").read()

broker = paramiko.SSHClient()
broker.set_missing_host_key_policy(paramiko.AutoAddPolicy())
key = paramiko.Ed25519Key.from_private_key_file(operator_key)
broker.connect(address, int(port), "alice", pkey=key, allow_agent=False, look_for_keys=False)
jump = broker.get_transport().open_channel("direct-tcpip", ("ins-a", 22), ("127.0.0.1", 0))

instance = paramiko.Transport(jump)
instance.start_client(timeout=20)
expected = open(session_key).read().split()[1]
assert instance.get_remote_server_key().get_base64() == expected, "another session key"
instance.auth_none("whoever")


def closed(channel):
    deadline = time.monotonic() + 10
    while not channel.closed:
        assert time.monotonic() < deadline, "the channel stays open"
        time.sleep(0.01)
    # "closed" is set before paramiko has sent its own CLOSE. Whoever has this answer knows that it was sent:
    # one thread of paramiko's does both, in order.
    instance.global_request("keepalive@openssh.com", wait=True)


def run(command, given=b""):
    channel = instance.open_session()
    channel.exec_command(command)
    # Both ways at once: paramiko's window is larger than what is sent.
    channel.sendall(given)
    channel.shutdown_write()
    output = channel.makefile("rb").read()
    errors = channel.makefile_stderr("rb").read()
    status = channel.recv_exit_status()
    closed(channel)
    return status, output, errors


assert run("echo out; echo err >&2; exit 7") == (7, b"out\n", b"err\n")
assert run("cat", content) == (0, content, b"")

sftp = paramiko.SFTPClient.from_transport(instance)
sftp.put(path, f"{directory}/paramiko")
sftp.get(f"{directory}/paramiko", f"{directory}/paramiko.back")
assert sftp.stat(f"{directory}/paramiko").st_size == len(content)
assert open(f"{directory}/paramiko.back", "rb").read() == content

terminal = instance.open_session()
terminal.get_pty("xterm", 100, 40)
terminal.exec_command("stty size")
assert terminal.makefile("rb").read().split() == [b"40", b"100"]
closed(terminal)

# With every channel closed: a CLOSE to answer in the midst of new keys makes paramiko 5.1 wait for itself.
sftp.close()
closed(sftp.get_channel())
instance.renegotiate_keys()
assert run("echo after new keys") == (0, b"after new keys\n", b"")
print("paramiko went through")
