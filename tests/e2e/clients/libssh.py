"""libssh (through ansible-pylibssh) by way of the broker: SSH_CONFIG FILE DIRECTORY"""

import sys

from pylibsshext.session import Session

config, path, directory = sys.argv[1:]
content = open(path, "rb").read()
session = Session()
session.connect(
    host="ins-a",
    port=22,
    user="whoever",
    password="ignored",
    host_key_checking=False,
    look_for_keys=False,
    proxycommand=f"ssh -F {config} -W ins-a:22 broker",
    timeout=20,
)
for _ in range(2):
    done = session.new_channel().exec_command("echo out; echo err >&2; exit 7")
    assert (done.returncode, done.stdout, done.stderr) == (7, b"out\n", b"err\n"), done
sftp = session.sftp()
sftp.put(path, f"{directory}/libssh")
sftp.get(f"{directory}/libssh", f"{directory}/libssh.back")
sftp.close()
assert open(f"{directory}/libssh.back", "rb").read() == content
scp = session.scp()
scp.put(path, f"{directory}/libssh.scp")
assert open(f"{directory}/libssh.scp", "rb").read() == content
session.close()
print("libssh went through")
