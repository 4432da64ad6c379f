"""Python's HTTP server at a Unix socket: `http_server.py PATH FOLDER`.

It serves the files of FOLDER, and under /as/ answers of every form, some of them wrong.
"""

import http.server
import os
import socketserver
import sys
import time

BODY = "".join(f"line {number}\n" for number in range(2000)).encode()

# Answers as they are sent; then the connection is closed.
WHOLE = {
    "/as/length": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    # More comes than belongs to the answer.
    "/as/length-and-more": b"HTTP/1.1 200 OK\r\ncontent-LENGTH:5\r\n\r\nhelloHTTP/1.1 500 No\r\n\r\n",
    "/as/empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "/as/no-content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "/as/nothing-new": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    "/as/until-closed": b"HTTP/1.0 200 OK\r\nServer: x\r\n\r\n" + BODY,
    "/as/bare-lines": b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
    "/as/no-reason": b"HTTP/1.1 200\r\nContent-Length: 5\r\n\r\nhello",
    "/as/interim": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "/as/chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: Chunked\r\n\r\n"
    b"1\r\nh\r\n3;name=value\r\nell\r\n0001\r\no\r\n0\r\nSum: 5\r\n\r\nmore",
    "/as/failed": b"HTTP/1.1 500 Not Today\r\nContent-Length: 5\r\n\r\nsorry",
    "/as/moved": b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
}

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BROKEN = {
    "/as/nothing": b"",
    "/as/half-a-head": HEAD + b"Content-Le",
    "/as/half-a-body": HEAD + b"Content-Length: 10\r\n\r\nhello",
    "/as/half-a-chunk": CHUNKED + b"a\r\nhello",
    "/as/no-last-chunk": CHUNKED + b"5\r\nhello\r\n",
    "/as/chunk-of-nonsense": CHUNKED + b"x\r\nhello\r\n0\r\n\r\n",
    "/as/chunk-of-no-size": CHUNKED + b"\r\n\r\n",
    "/as/chunk-with-a-sign": CHUNKED + b"+5\r\nhello\r\n0\r\n\r\n",
    "/as/chunk-that-goes-on": CHUNKED + b"5\r\nhello, world\r\n0\r\n\r\n",
    "/as/chunk-too-large": CHUNKED + b"fffffffffffffffff\r\n",
    "/as/unknown-coding": HEAD + b"Transfer-Encoding: gzip\r\n\r\nhello",
    "/as/length-of-nonsense": HEAD + b"Content-Length: five\r\n\r\nhello",
    "/as/length-with-a-sign": HEAD + b"Content-Length: +5\r\n\r\nhello",
    "/as/length-too-large": HEAD + b"Content-Length: 99999999999999999999\r\n\r\nhello",
    "/as/two-lengths": HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
    "/as/no-header": HEAD + b"nonsense\r\n\r\n",
    "/as/long-header": HEAD + b"Long: " + "é".encode() * 100_000 + b"\r\n\r\n",
    "/as/many-headers": HEAD + b"X: y\r\n" * 10_000 + b"\r\n",
    "/as/another-protocol": b"SSH-2.0-OpenSSH_9.6\r\n",
    "/as/another-version": b"HTTP/2 200\r\n\r\n",
    "/as/bytes": bytes(range(128, 256)) * 1000,
}


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def address_string(self):
        return "unix"

    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path == "/as/pieces":
            return self.pieces()
        if self.path == "/as/silence":
            time.sleep(600)
        if self.path == "/as/request":
            return self.request_itself()
        answer = WHOLE.get(self.path, BROKEN.get(self.path))
        if answer is None:
            return super().do_GET()
        self.wfile.write(answer)
        self.close_connection = True

    def pieces(self):
        """A byte at a time, chunks of all sizes."""
        answer = CHUNKED
        size, at = 1, 0
        while at < len(BODY):
            chunk = BODY[at : at + size]
            answer += b"%x\r\n%b\r\n" % (len(chunk), chunk)
            size, at = size * 2 % 1021 + 1, at + size
        for byte in answer + b"0\r\n\r\n":
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def request_itself(self):
        body = (self.requestline + "\n" + str(self.headers)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, request, client_address):
        # A client that has read enough is none.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


path, folder = sys.argv[1:]
os.chdir(folder)
server = Server(path, Handler)
print(f"listening on {path}", flush=True)
server.serve_forever()
