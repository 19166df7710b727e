"""Signals, breaks, sizes and ends by asyncssh: SSH_CONFIG WAY PORT KEY INSTANCE (which is sshd or asyncssh)"""

import asyncio
import logging
import sys

import asyncssh

# When the proxy's ssh has ended before its transport is closed, the closing reaps it, and asyncio's own watcher warns of a process that it
# does not know.
logging.getLogger("asyncio").setLevel(logging.ERROR)

config, way, port, key, instance = sys.argv[1:]


def connect():
    options = dict(config=None, agent_path=None, known_hosts=None)
    if way == "direct":
        return asyncssh.connect("127.0.0.1", int(port), username="root", client_keys=[key], **options)
    proxy = ["ssh", "-F", config, "-W", f"{way}:22", "broker"]
    return asyncssh.connect(way, 22, username="whoever", client_keys=None, proxy_command=proxy, **options)


async def line(process):
    print("line", repr(await process.stdout.readline()))


async def end(process):
    await process.wait_closed()
    print("end", repr(await process.stdout.read()), process.exit_status, process.exit_signal)


async def of_sshd(connection):
    # Every status, sixteen at a time; a command's first packet begins with each byte.
    async def one(status):
        given = bytes([status]) + bytes(range(256)) * 8
        done = await connection.run(f"cat; exit {status}", input=given, encoding=None)
        assert done.stdout == given, status
        return done.exit_status

    for start in range(0, 256, 16):
        print(await asyncio.gather(*(one(status) for status in range(start, start + 16))))
    # sshd signals no command of root's; it goes on.
    process = await connection.create_process("trap 'echo got; exit 1' USR1; echo ready; read x; echo $x; kill -TERM $$")
    await line(process)
    process.send_signal("USR1")
    process.stdin.write("on\n")
    await end(process)
    process = await connection.create_process(
        "stty -echo; echo ready; old='24 80'; while :; do new=$(stty size); test \"$new\" = \"$old\" || echo $new; old=$new; sleep 0.05; done", term_type="xterm", term_size=(80, 24)
    )
    await line(process)
    for size in [(100, 40), (1, 1), (400, 300)]:
        process.change_terminal_size(*size)
        await line(process)
    process.terminate()
    process.close()
    await process.wait_closed()
    # Ends of one side and then the other.
    process = await connection.create_process("cat; echo more; exit 6")
    process.stdin.write("given")
    process.stdin.write_eof()
    await end(process)


async def of_asyncssh(connection):
    process = await connection.create_process("events", term_type="lab", term_size=(91, 31, 910, 310), term_modes={asyncssh.PTY_ECHO: 0, asyncssh.PTY_VINTR: 5})
    await line(process)
    await line(process)
    process.send_break(1234)
    await line(process)
    for signal in ["HUP", "USR2", "lab@example.com"]:
        process.send_signal(signal)
        await line(process)
    process.change_terminal_size(92, 32, 920, 320)
    await line(process)
    process.stdin.write("some")
    await line(process)
    process.stdin.write_eof()
    await line(process)
    process.send_signal("TERM")
    await line(process)
    process.close()
    await process.wait_closed()
    for command in ["die SEGV core with_core en", "die TERM none without_core ", "die lab@example.com core ä de-AT"]:
        await end(await connection.create_process(command))
    process = await connection.create_process("ask")
    await end(process)


async def main():
    async with connect() as connection:
        await (of_sshd if instance == "sshd" else of_asyncssh)(connection)


asyncio.run(asyncio.wait_for(main(), 60))
