"""What an instance answers to messages that no usual client sends, in their order: SSH_CONFIG WAY PORT KEY

Every message of the connection protocol is shown as it came, but for window adjustments and the announcement of host keys.
"""

import queue
import socket
import sys

import paramiko
from paramiko.message import Message

config, way, port, key = sys.argv[1:]


class Raw(paramiko.Transport):
    """A transport that answers nothing of itself once it is authenticated."""

    def connect_raw(self):
        self.heard = queue.Queue()
        self.start_client(timeout=20)
        if way == "direct":
            self.auth_publickey("root", paramiko.Ed25519Key.from_private_key_file(key))
        else:
            self.auth_none("whoever")
        for number in list(range(80, 101)) + [192, 193]:
            self._handler_table[number] = lambda m, number=number: self.hear(number, m.asbytes())
        return self

    def hear(self, number, body):
        if number != 93 and b"hostkeys-00@openssh.com" not in body:
            self.heard.put((number, body))

    def say(self, number, *fields):
        m = Message()
        m.add_byte(bytes([number]))
        for field in fields:
            if isinstance(field, bool):
                m.add_boolean(field)
            elif isinstance(field, int):
                m.add_int(field)
            else:
                m.add_string(field)
        self._send_user_message(m)

    def next(self):
        return self.heard.get(timeout=20)

    def show_until(self, last):
        """Shows what comes; of data, the whole and the largest piece: where it is cut is the network's.

        sshd itself says its EOF and its exit status in either order.
        """
        data, largest, ends = {}, 0, []
        while True:
            number, body = self.next()
            if number in (94, 95):
                piece = body[8 if number == 94 else 12 :]
                data[number] = data.get(number, b"") + piece
                largest = max(largest, len(piece))
            elif number == 96 or b"exit-s" in body:
                ends.append((number, body))
            else:
                print(sorted(ends), number, body)
            if number == last:
                break
        for number, whole in sorted(data.items()):
            print("data", number, whole, "in pieces of 100 at most" if largest <= 100 else "")


def connect():
    if way == "direct":
        sock = socket.create_connection(("127.0.0.1", int(port)))
    else:
        sock = paramiko.ProxyCommand(f"ssh -F {config} -W {way}:22 broker")
    return Raw(sock).connect_raw()


def title(text):
    print("==", text)


def close(t, channel):
    """Ends a channel, and waits until its number is free again."""
    t.say(97, channel)
    t.say(80, "barrier@lab", True)
    assert t.next()[0] == 82


def open_session(t, number, window=1 << 20, packet=32768):
    t.say(90, "session", number, window, packet)
    kind, body = t.next()
    print(kind, body)
    return int.from_bytes(body[4:8], "big")


t = connect()

title("global requests, known and unknown, with a reply wanted and without")
for name, wanted in [("nothing@lab", True), ("keepalive@openssh.com", True), ("nothing@lab", False), ("", True), ("x" * 300, True)]:
    t.say(80, name, wanted)
t.say(80, "tcpip-forward", True, "127.0.0.1", 0)
for _ in range(4):
    print(t.next())
number, body = t.next()
print(number, len(body))
listening = int.from_bytes(body, "big")
socket.create_connection(("127.0.0.1", listening)).close()
number, body = t.next()
print(number, body.replace(listening.to_bytes(4, "big"), b"PORT")[:60])
t.say(92, int.from_bytes(body[19:23], "big"), 1, "nobody is here", "")
t.say(80, "cancel-tcpip-forward", True, "127.0.0.1", listening)
t.say(80, "cancel-tcpip-forward", True, "127.0.0.1", listening)
t.say(80, "streamlocal-forward@openssh.com", True, "/nonexistent/x")
t.say(80, "last@lab", True)
for _ in range(4):
    print(t.next())

title("opens of channels that nobody may open, and of one to a closed port")
for kind in ["nothing@lab", "x11", "auth-agent@openssh.com", "forwarded-tcpip", "y" * 300]:
    t.say(90, kind, 7, 1000, 1000, "127.0.0.1", 1, "127.0.0.1", 1)
    print(t.next())
t.say(90, "direct-tcpip", 8, 1000, 1000, "127.0.0.1", 1, "127.0.0.1", 1)
print(t.next())

title("every request of a session, and some that are none")
c = open_session(t, 5)
t.say(98, c, "nothing@lab", True)
t.say(98, c, "nothing@lab", False)
t.say(98, c, "env", True, "LAB_X", "yes")
t.say(98, c, "env", True, "OTHER", "no")
t.say(98, c, "signal", True, "TERM")
t.say(98, c, "xon-xoff", False, False)
t.say(98, c, "exec", True, b"echo $LAB_X$OTHER; cat; exit 3")
t.say(98, c, "exec", True, "true")
t.say(98, c, "keepalive@openssh.com", True)
t.say(94, c, b"")
t.say(94, c, b"\x03 some data\n")
t.say(93, c, 0)
t.say(96, c)
t.show_until(97)
close(t, c)

title("a terminal, a break, a size")
c = open_session(t, 6)
t.say(98, c, "pty-req", True, "xterm-lab", 91, 31, 0, 0, b"\x35\0\0\0\0\0")  # ECHO off
t.say(98, c, "exec", True, "stty size; echo $TERM; read x; stty size")
t.say(98, c, "break", True, 500)
t.say(98, c, "window-change", True, 92, 32, 0, 0)
t.say(98, c, "nothing@lab", True)
t.say(94, c, b"go\n")
t.show_until(97)
close(t, c)

title("data comes as the window lets it")
c = open_session(t, 9, window=5, packet=100)
t.say(98, c, "exec", True, "printf 0123456789; printf abc >&2; sleep 0.2")
print(t.next(), t.next())
for more in [1, 0, 3, 1000]:
    t.say(93, c, more)
    t.say(80, "mark@lab", True)
t.show_until(97)
close(t, c)
c = open_session(t, 9, window=1 << 20, packet=100)
t.say(98, c, "exec", False, "head -c 300 /dev/zero")
t.show_until(97)
close(t, c)

title("ends in an unusual order")
c = open_session(t, 10)
t.say(98, c, "exec", True, "cat")
t.say(96, c)
t.say(94, c, b"after the end")
t.say(96, c)
t.show_until(97)
close(t, c)
c = open_session(t, 11)
t.say(98, c, "exec", True, "cat >/dev/null; sleep 0.2")
t.say(97, c)
t.show_until(97)
c = open_session(t, 13)
t.say(98, c, "exec", True, "yes")
while t.next()[0] != 94:
    pass
t.say(98, c, "eow@openssh.com", False)
while True:
    number, body = t.next()
    if number != 94:
        print(number, body)
    if number == 97:
        break
close(t, c)
t.say(80, "still there@lab", True)
print(t.next())

title("no more sessions")
t.say(80, "no-more-sessions@openssh.com", False)
t.say(90, "session", 12, 1000, 1000)
t.join(20)
print("ended", not t.is_active(), t.heard.empty())

title("data for a channel that is not there")
t = connect()
t.say(94, 4000, b"x")
t.join(20)
print("ended", not t.is_active(), t.heard.empty())
