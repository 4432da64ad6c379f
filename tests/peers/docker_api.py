"""What Docker's daemon answers, in its shapes, at a Unix socket: `docker_api.py PATH`.

Every answer names the connection that it comes over. Events are told to whom asks for them when
they happen, one event to one client.
"""

import http.server
import itertools
import json
import queue
import socketserver
import sys

CONTAINERS = [{"Id": f"{number:064x}", "Names": [f"/name{number}"]} for number in range(10_000)]
LOG = b"".join(b"line %d\n" % number for number in range(1_000_000))

events = queue.Queue()
connections = itertools.count()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.number = next(connections)

    def address_string(self):
        return "unix"

    def log_message(self, *args):
        pass

    def head(self, status, *headers):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Connection-Number", str(self.number))
        self.end_headers()

    def answer(self, status, data):
        if not isinstance(data, bytes):
            data = json.dumps(data).encode()
        self.head(status, ("Content-Length", str(len(data))))
        self.wfile.write(data)

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def chunks(self, parts):
        self.head(200, ("Transfer-Encoding", "chunked"))
        for data in parts:
            self.chunk(data)
        self.chunk(b"")

    def do_GET(self):
        if self.path == "/version":
            self.answer(200, {"Version": "24.0", "ApiVersion": "1.43"})
        elif self.path == "/containers/json":
            self.answer(200, CONTAINERS)
        elif self.path == "/containers/name1/logs":
            # Borders of all kinds.
            self.chunks(LOG[at : at + 77_777] for at in range(0, len(LOG), 77_777))
        elif self.path == "/containers/name2/logs":
            try:
                self.chunks(itertools.repeat(LOG[:65_536]))
            except ConnectionError:
                events.put("reader gone")
                raise
        elif self.path == "/events":
            # The end of them is an event that is empty.
            self.chunks(event.encode() for event in iter(events.get, ""))
        else:
            self.answer(404, {"message": f"page not found: {self.path}"})

    do_HEAD = do_DELETE = do_GET

    def body(self):
        if "Transfer-Encoding" not in self.headers:
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def do_POST(self):
        if self.path == "/containers/name1/attach":
            return self.attach()
        body = self.body()
        if self.path == "/build":
            self.answer(200, body)
        elif self.path == "/events":
            events.put(body.decode())
            self.head(204)
        else:
            self.answer(409, {"message": "conflict"})

    def attach(self):
        """The connection is a container's input and output from here on."""
        self.head(101, ("Connection", "Upgrade"), ("Upgrade", "tcp"))
        while data := self.rfile.read1(65_536):
            self.wfile.write(data.upper())
        self.wfile.write(b"<exit>")
        self.close_connection = True


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, request, client_address):
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


server = Server(sys.argv[1], Handler)
print(f"listening on {sys.argv[1]}", flush=True)
server.serve_forever()
