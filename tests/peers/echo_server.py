"""An asyncio datagram server: `echo_server.py ADDR`, where ADDR is HOST:PORT, /path or @abstract.

It sends back every datagram with `echo:` in front.
"""

import asyncio
import socket
import sys


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, addr):
        self.transport.sendto(b"echo:" + data, addr)

    def error_received(self, exc):
        print(f"error: {exc}", file=sys.stderr, flush=True)


async def main():
    addr = sys.argv[1]
    if addr[0] in "/@":
        local = addr.replace("@", "\0", 1) if addr[0] == "@" else addr
        options = dict(local_addr=local, family=socket.AF_UNIX)
    else:
        host, _, port = addr.rpartition(":")
        options = dict(local_addr=(host.strip("[]"), int(port)))
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, **options)
    if addr[0] not in "/@":
        addr = f"{host}:{transport.get_extra_info('sockname')[1]}"
    print(f"listening on {addr}", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
