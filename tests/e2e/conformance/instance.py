"""An instance on asyncssh that tells what it is asked for: PORT HOST_KEY AUTHORIZED_KEYS"""

import asyncio
import sys

import asyncssh

port, host_key, authorized = sys.argv[1:]


class Session(asyncssh.SSHServerSession):
    def connection_made(self, chan):
        self.chan = chan

    def told(self, *words):
        self.chan.write(" ".join(map(str, words)) + "\n")

    def pty_requested(self, term_type, term_size, term_modes):
        self.pty = (term_type, term_size, sorted(term_modes.items()))
        return True

    def shell_requested(self):
        return True

    def exec_requested(self, command):
        self.command = command
        return True

    def session_started(self):
        if self.command.startswith("die "):
            _, signal, core, message, language = self.command.split(" ", 4)
            self.told("about to die")
            self.chan.exit_with_signal(signal, core == "core", message, language)
            return
        self.told("command", self.command)
        if hasattr(self, "pty"):
            self.told("pty", *self.pty)
        # The operator's side is asked something that it does not know.
        if self.command == "ask":
            self.chan.get_connection().create_task(self.ask())

    async def ask(self):
        answer, _ = await self.chan.get_connection()._make_global_request(b"nothing@lab")
        self.told("global", answer)
        self.told("channel", await self.chan._make_request(b"nothing@lab"))
        self.chan._send_request(b"nothing@lab")
        self.chan.exit(5)

    def data_received(self, data, datatype):
        self.told("data", repr(data))
        if "q" in data:
            self.chan.exit(9)

    def eof_received(self):
        self.told("eof")
        return True

    def break_received(self, msec):
        self.told("break", msec)
        return True

    def signal_received(self, signal):
        self.told("signal", signal)

    def terminal_size_changed(self, *size):
        self.told("size", size)


class Server(asyncssh.SSHServer):
    def session_requested(self):
        return Session()


async def main():
    await asyncssh.listen("127.0.0.1", int(port), server_factory=Server, server_host_keys=[host_key], authorized_client_keys=authorized, line_editor=False)
    await asyncio.Event().wait()


asyncio.run(main())
