"""An echo server on asyncio's Unix server, with the standard loop or uvloop's."""

import argparse
import asyncio


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
        self.write = transport.write

    def data_received(self, data):
        self.write(data)

    # A peer that does not read is not read from either, or the queue would have no end.
    def pause_writing(self):
        self.transport.pause_reading()

    def resume_writing(self):
        self.transport.resume_reading()


async def serve(path):
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(Echo, path)
    print(f"listening on {path}", flush=True)
    await server.serve_forever()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path")
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    if arguments.uvloop:
        import uvloop

        run = uvloop.run
    else:
        run = asyncio.run
    run(serve(arguments.path))


if __name__ == "__main__":
    main()
