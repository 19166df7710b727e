"""asyncssh through the broker: ADDRESS PORT OPERATOR_KEY KNOWN_HOSTS FILE DIRECTORY"""

import asyncio
import sys

import asyncssh

address, port, operator_key, known_hosts, path, directory = sys.argv[1:]
content = open(path, "rb").read()


async def main():
    ours = dict(known_hosts=known_hosts, config=None, agent_path=None)
    async with asyncssh.connect(address, int(port), username="alice", client_keys=[operator_key], **ours) as broker:
        async with asyncssh.connect("ins-a", 22, tunnel=broker, username="whoever", client_keys=None, **ours) as instance:
            done = await instance.run("echo out; echo err >&2; exit 7")
            assert (done.exit_status, done.stdout, done.stderr) == (7, "out\n", "err\n"), done
            done = await instance.run("cat", input=content, encoding=None)
            assert done.exit_status == 0 and done.stdout == content

            # Many at once on one connection.
            results = await asyncio.gather(*(instance.run(f"echo {i}") for i in range(20)))
            assert [result.stdout for result in results] == [f"{i}\n" for i in range(20)]

            async with instance.start_sftp_client() as sftp:
                await sftp.put(path, f"{directory}/asyncssh")
                await sftp.get(f"{directory}/asyncssh", f"{directory}/asyncssh.back")
            assert open(f"{directory}/asyncssh.back", "rb").read() == content

            reader, writer = await instance.open_connection("127.0.0.1", int(port))
            assert (await reader.readline()).startswith(b"SSH-2.0-")
            writer.close()
    print("asyncssh went through")


asyncio.run(asyncio.wait_for(main(), 60))
