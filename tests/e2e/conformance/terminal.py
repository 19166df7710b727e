"""Runs a program on a terminal, types at it and changes the terminal's size: SCENE PROGRAM ARGUMENTS…

Prints what the terminal showed and how the program ended.
"""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

# What to wait for, then what to type or which size the terminal gets.
SCENES = {
    "sizes": [(b"ready", (100, 40)), (b"40 100", (132, 50)), (b"50 132", b"\x03"), (b"INT", b"exit 3\r")],
    "keys": [
        (b"ready", b"\x03"),
        (b"INT", b"\x1c"),
        (b"QUIT", b"\x1a"),
        (b"TSTP", b"word\x08\x7fd\x17again\r"),
        (b"<again>", b"\x04"),
        (b"ended", b""),
    ],
    "shell": [(b"# ", b"PS1=$; echo $((6*7)); stty size\r"), (b"42", b"sleep 20\r"), (b"sleep 20", b"\x03"), (b"\n$", b"exit 7\r")],
    "escape": [(b"ready", b"\r~."), (b"", b"")],
    "suspicious": [(b"ready", b"\r~~x\r"), (b"<~x>", b"")],
    "break": [(b"pty", b"\r"), (b"data", b"~B"), (b"break", (100, 40)), (b"size", b"\x00\x03"), (b"\\x03", b"q")],
    "typing": [(b"ready", b"a"), *[(bytes([c]), bytes([c + 1])) for c in range(ord("a"), ord("z"))], (b"z", b"\r"), (b"<abc", b"")],
}

scene, command = SCENES[sys.argv[1]], sys.argv[2:]


def resize(fd, columns, rows):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


pid, fd = pty.fork()
if pid == 0:
    resize(0, 80, 24)
    os.execvp(command[0], command)

shown, seen, deadline = b"", 0, time.monotonic() + 30
steps = list(scene)
while True:
    while steps and shown.find(steps[0][0], seen) >= 0:
        awaited, act = steps.pop(0)
        seen = shown.find(awaited, seen) + len(awaited)
        # A person's pace: the program is ready for the next before it comes.
        time.sleep(0.02 if sys.argv[1] == "typing" else 0.3)
        if isinstance(act, tuple):
            resize(fd, *act)
        elif act:
            os.write(fd, act)
    if time.monotonic() > deadline or not select.select([fd], [], [], 1)[0]:
        if time.monotonic() > deadline:
            print("not in time: waits for", steps[:1], "after", shown)
            sys.exit(1)
        continue
    try:
        block = os.read(fd, 65536)
    except OSError:
        break
    if not block:
        break
    shown += block

status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(shown.decode(errors="backslashreplace"), end="")
print("status", status, "steps left", len(steps))
