"""libssh2 (through ssh2-python) by way of the broker: SSH_CONFIG FILE DIRECTORY"""

import socket
import subprocess
import sys

from ssh2.session import Session
from ssh2.sftp import LIBSSH2_FXF_CREAT, LIBSSH2_FXF_READ, LIBSSH2_FXF_WRITE, LIBSSH2_SFTP_S_IRUSR, LIBSSH2_SFTP_S_IWUSR

config, path, directory = sys.argv[1:]
content = open(path, "rb").read()
ours, theirs = socket.socketpair()
jump = subprocess.Popen(["ssh", "-F", config, "-W", "ins-a:22", "broker"], stdin=theirs, stdout=theirs)
theirs.close()
session = Session()
session.handshake(ours)
session.userauth_list("whoever")
assert session.userauth_authenticated(), "the jump has proven the operator: none is enough"


def read(piece):
    got = b""
    while True:
        n, data = piece()
        if n <= 0:
            return got
        got += data


channel = session.open_session()
channel.execute("echo out; echo err >&2; exit 7")
assert (read(channel.read), read(channel.read_stderr)) == (b"out\n", b"err\n")
channel.wait_eof()
channel.close()
channel.wait_closed()
assert channel.get_exit_status() == 7
sftp = session.sftp_init()
mode = LIBSSH2_SFTP_S_IRUSR | LIBSSH2_SFTP_S_IWUSR
with sftp.open(f"{directory}/libssh2", LIBSSH2_FXF_CREAT | LIBSSH2_FXF_WRITE, mode) as f:
    f.write(content)
with sftp.open(f"{directory}/libssh2", LIBSSH2_FXF_READ, 0) as f:
    assert b"".join(block for n, block in f) == content
session.disconnect()
print("libssh2 went through")
