"""An asyncio datagram client of an echo server: `echo_client.py COUNT ADDR [LOCAL]`.

ADDR is HOST:PORT, /path or @abstract; LOCAL is the client's own name, which Unix servers need to
reply to. Sends COUNT datagrams of many sizes, empty and very large ones among them, checks that
all come back as they were and in order, and prints how many did.
"""

import asyncio
import random
import socket
import sys

WAIT = 30


def unix_name(addr):
    return addr.replace("@", "\0", 1) if addr[0] == "@" else addr


def connect(addr, local):
    if addr[0] in "/@":
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.bind(unix_name(local))
        sock.connect(unix_name(addr))
        return sock, [65000, 131072, 200000] if sys.platform == "linux" else [2000]
    host, _, port = addr.rpartition(":")
    family = socket.AF_INET6 if host[0] == "[" else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM)
    sock.connect((host.strip("[]"), int(port)))
    # The largest that UDP has; other systems have lower limits of their own.
    largest = 65507 if family == socket.AF_INET else 65527
    return sock, [9000, 32768, largest] if sys.platform == "linux" else [9000]


class Client(asyncio.DatagramProtocol):
    def __init__(self):
        self.received = asyncio.Queue()

    def datagram_received(self, data, addr):
        self.received.put_nowait(data)

    def error_received(self, exc):
        self.received.put_nowait(exc)


async def main():
    count, addr = int(sys.argv[1]), sys.argv[2]
    sock, large = connect(addr, sys.argv[3] if len(sys.argv) > 3 else None)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    transport, client = await loop.create_datagram_endpoint(Client, sock=sock)

    def send(data):
        # Before Python 3.13, asyncio sends no empty datagrams.
        if data:
            transport.sendto(data)
        else:
            sock.send(data)

    async def exchange(window):
        for data in window:
            send(data)
        for data in window:
            reply = await asyncio.wait_for(client.received.get(), WAIT)
            if reply != data:
                got = repr(reply) if isinstance(reply, Exception) else f"{len(reply)} bytes"
                sys.exit(f"sent {len(data)} bytes, got {got}")
        return len(window)

    dice = random.Random(count)
    sizes = [0, 1, 2, 511, 512, 1472, 1473]
    done = 0
    while done < count:
        # Few at a time, that no buffer overflows; the large ones one by one.
        if done % 5 == 0:
            done += await exchange([dice.randbytes(large[dice.randrange(len(large))])])
        window = min(8, count - done)
        if window:
            size = lambda: dice.choice(sizes + [dice.randrange(2000)])
            done += await exchange([dice.randbytes(size()) for _ in range(window)])
    print(f"{done} exchanged")


asyncio.run(main())
