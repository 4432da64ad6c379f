"""An echo server on asyncio's datagram endpoint, with the standard loop or uvloop's."""

import argparse
import asyncio


class Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.sendto = transport.sendto

    def datagram_received(self, data, addr):
        self.sendto(data, addr)


async def serve(host, port):
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=(host, port))
    bound = transport.get_extra_info("sockname")
    print(f"listening on {bound[0]}:{bound[1]}", flush=True)
    await loop.create_future()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address", nargs="?", default="127.0.0.1:0")
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    host, _, port = arguments.address.rpartition(":")
    if arguments.uvloop:
        import uvloop

        run = uvloop.run
    else:
        run = asyncio.run
    run(serve(host.strip("[]"), int(port)))


if __name__ == "__main__":
    main()
