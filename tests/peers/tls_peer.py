"""An asyncio peer that speaks TLS over a Unix socket.

tls_peer.py serve PATH CERT KEY        echoes until it is killed
tls_peer.py connect PATH CA NAME SIZE  sends SIZE bytes, checks that they come back, closes, and
                                       prints `echo`, the number of bytes and the version of TLS

`serve-over` and `connect-over` do the same with TLS over TLS: the client asks for it with the line
`STARTTLS`, and the server agrees with the line `OK`.
"""

import asyncio
import ssl
import sys


async def echo(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        print("closed", flush=True)
    except OSError as error:
        print(f"failed: {error!r}", flush=True)


async def serve(path, cert, key, over=False):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)

    async def echo_over(reader, writer):
        if await reader.readline() == b"STARTTLS\n":
            writer.write(b"OK\n")
            await writer.start_tls(context)
            await echo(reader, writer)

    server = await asyncio.start_unix_server(echo_over if over else echo, path, ssl=context)
    print(f"listening on {path}", flush=True)
    await server.serve_forever()


async def connect(path, ca, name, size, over=False):
    context = ssl.create_default_context(cafile=ca)
    reader, writer = await asyncio.open_unix_connection(path, ssl=context, server_hostname=name)
    if over:
        writer.write(b"STARTTLS\n")
        if await reader.readline() != b"OK\n":
            raise ValueError("the server does not agree")
        await writer.start_tls(context, server_hostname=name)
    data = bytes(n % 251 for n in range(int(size)))

    async def send():
        for at in range(0, len(data), 100_000):
            writer.write(data[at : at + 100_000])
            await writer.drain()

    _, back = await asyncio.gather(send(), reader.readexactly(len(data)))
    if back != data:
        raise ValueError("what came back is different")
    version = writer.get_extra_info("ssl_object").version()
    writer.close()
    await writer.wait_closed()
    print("echo", len(back), version, flush=True)


what, over = sys.argv[1].removesuffix("-over"), sys.argv[1].endswith("-over")
asyncio.run({"serve": serve, "connect": connect}[what](*sys.argv[2:], over=over))
