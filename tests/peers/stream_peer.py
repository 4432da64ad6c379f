"""An asyncio peer for connections: `stream_peer.py serve|connect ADDR SCENARIO SIZE`.

ADDR is HOST:PORT, /path or @abstract. The server serves until it is killed, the client connects
once. Both print a line for each connection that has come to its end: `SCENARIO` and the number of
bytes that came, all as they had to be; or what was wrong.

  echo    the server sends back what comes, until the end; the client checks it
  swap    both send SIZE bytes at once, and check what the other sends
  ask     sends SIZE bytes, ends its direction, and expects the answer to that
  answer  waits for the end, and answers with all bytes backwards
  reset   waits for a byte, and breaks the connection off
"""

import array
import asyncio
import random
import socket
import struct
import sys

ROLE, ADDR, SCENARIO, SIZE = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])

# What the server's numbers begin with; the client's begin with 0.
SERVERS = 1 << 24


def numbers(first):
    """SIZE bytes that do not repeat: numbers of four bytes."""
    return array.array("I", range(first, first + SIZE // 4)).tobytes()


async def send(writer, data):
    """Sends in pieces of many sizes, as fast as the peer takes them."""
    dice = random.Random(SIZE)
    at = 0
    while at < len(data):
        size = dice.choice([1, 100, 5_000, 100_000, 300_000])
        writer.write(data[at : at + size])
        await writer.drain()
        at += size
    writer.write_eof()


async def receive(reader, expected):
    data = await reader.read(-1)
    if data == expected:
        return len(data)
    same = next((at for at, pair in enumerate(zip(data, expected)) if len(set(pair)) > 1), "end")
    raise ValueError(f"{len(data)} bytes, not {len(expected)}; equal up to {same}")


async def send_and_receive(reader, writer, data, expected):
    return (await asyncio.gather(send(writer, data), receive(reader, expected)))[1]


async def scenario(reader, writer):
    is_server = ROLE == "serve"
    if SCENARIO == "echo" and is_server:
        count = 0
        while data := await reader.read(65536):
            count += len(data)
            writer.write(data)
            await writer.drain()
        return count
    if SCENARIO == "echo":
        return await send_and_receive(reader, writer, numbers(0), numbers(0))
    if SCENARIO == "swap":
        ours, theirs = (SERVERS, 0) if is_server else (0, SERVERS)
        return await send_and_receive(reader, writer, numbers(ours), numbers(theirs))
    if SCENARIO == "ask":
        await send(writer, numbers(0))
        return await receive(reader, numbers(0)[::-1])
    if SCENARIO == "answer":
        data = await reader.read(-1)
        writer.write(data[::-1])
        return len(data)
    if SCENARIO == "reset":
        count = len(await reader.readexactly(1))
        # Closing drops the connection instead of ending it.
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        return count
    raise ValueError("no such scenario")


async def connection(reader, writer):
    try:
        count = await scenario(reader, writer)
        writer.close()
        await writer.wait_closed()
        print(SCENARIO, count, flush=True)
    except (OSError, ValueError, EOFError) as error:
        print(f"{SCENARIO} failed: {error!r}", flush=True)
        writer.transport.abort()


async def main():
    is_unix = ADDR[0] in "/@"
    path = ADDR.replace("@", "\0", 1) if ADDR[0] == "@" else ADDR
    host, _, port = ADDR.rpartition(":")
    if ROLE == "connect":
        opening = (
            asyncio.open_unix_connection(path)
            if is_unix
            else asyncio.open_connection(host.strip("[]"), int(port))
        )
        await connection(*await opening)
        return
    if is_unix:
        server = await asyncio.start_unix_server(connection, path)
        name = ADDR
    else:
        server = await asyncio.start_server(connection, host.strip("[]"), int(port))
        name = f"{host}:{server.sockets[0].getsockname()[1]}"
    print(f"listening on {name}", flush=True)
    await server.serve_forever()


asyncio.run(main())
