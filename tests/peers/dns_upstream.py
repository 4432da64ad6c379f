"""An authoritative DNS server for tests: `dns_upstream.py HOST`, on a port of the system's choice.

It serves the zone `test`, and tells through TXT records what it was asked:
`count.NAME` is how many queries there were for NAME.

    a.test          A 127.0.0.10, AAAA ::1, TXT "hello", all for 300 s
    short.test      A for 1 s
    mixed.test      A for 300 s and for 30 s
    alias.test      CNAME a.test, with its A
    *.many.test     A for 300 s
    large.test      TXT of about 1000 bytes; truncated if the client has less room
    huge.test       TXT of about 3000 bytes; likewise
    empty.test      exists, and has no records (SOA minimum 60)
    gone.test       does not exist, and does for 1 s at most (SOA minimum 1)
    nosoa.test      does not exist, says an answer that does not say for how long
    broken.test     SERVFAIL
    lost.test       A, but the first query is not answered
    hold.test       A, but not before TXT release.hold.test is asked for
    forged.test     A, behind answers with another ID, another question, and garbage
    silent.test     never answered
    anything else   does not exist (SOA minimum 60)
"""

import random
import socket
import struct
import sys

A, NS, CNAME, SOA, TXT, AAAA, OPT = 1, 2, 5, 6, 16, 28, 41
NOERROR, SERVFAIL, NXDOMAIN = 0, 2, 3


def wire_name(name):
    labels = [label.encode() for label in name.split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def read_name(data, at):
    labels = []
    while data[at]:
        length = data[at]
        labels.append(data[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels), at + 1


def record(kind, ttl, data, name=b"\xc0\x0c"):
    """A record of the name in the question, unless another is given."""
    return name + struct.pack("!HHIH", kind, 1, ttl, len(data)) + data


def text(value):
    chunks = [value[at : at + 200] for at in range(0, len(value), 200)]
    return b"".join(bytes([len(chunk)]) + chunk.encode() for chunk in chunks)


def soa(minimum):
    numbers = struct.pack("!IIIII", 1, 3600, 600, 86400, minimum)
    data = wire_name("ns.test") + wire_name("admin.test") + numbers
    return record(SOA, 3600, data, wire_name("test"))


class Query:
    def __init__(self, data, addr):
        self.addr = addr
        self.id, self.flags, _, _, _, extra = struct.unpack("!HHHHHH", data[:12])
        self.name, end = read_name(data, 12)
        self.kind = struct.unpack("!H", data[end : end + 2])[0]
        self.question = data[12 : end + 4]
        self.room, self.edns = 512, False
        # An OPT record is all that a query has behind its question.
        if extra and data[end + 4] == 0 and data[end + 6] == OPT:
            self.edns = True
            self.room = struct.unpack("!H", data[end + 7 : end + 9])[0]

    def reply(self, answers=(), authority=(), rcode=NOERROR, id=None, question=None):
        opt = b"\0" + struct.pack("!HHIH", OPT, 1232, 0, 0) if self.edns else b""

        def message(answers, flags):
            header = struct.pack(
                "!HHHHHH",
                self.id if id is None else id,
                0x8400 | flags | (self.flags & 0x0100) | rcode,
                1,
                len(answers),
                len(authority),
                int(self.edns),
            )
            body = b"".join(answers) + b"".join(authority)
            return header + (question or self.question) + body + opt

        whole = message(answers, 0)
        return whole if len(whole) <= self.room else message((), 0x0200)


def respond(query, counts, held):
    """The datagrams to send, each with its address."""
    name, kind = query.name.lower(), query.kind
    first, _, rest = name.partition(".")

    if first == "count":
        answers = [record(TXT, 0, text(str(counts.get(rest, 0))))]
        return [(query.reply(answers), query.addr)]
    if first == "release":
        released = [(item.reply([record(A, 300, b"\x7f\0\0\x0a")]), item.addr) for item in held]
        held.clear()
        return released + [(query.reply([record(TXT, 0, text("released"))]), query.addr)]

    counts[name] = counts.get(name, 0) + 1
    address = record(A, 300, b"\x7f\0\0\x0a")
    answers, authority, rcode = [], [], NOERROR
    sent = []
    if name == "a.test":
        answers = {
            A: [address],
            AAAA: [record(AAAA, 300, b"\0" * 15 + b"\1")],
            TXT: [record(TXT, 300, text("hello"))],
        }.get(kind, [])
        if not answers:
            authority = [soa(60)]
    elif name == "short.test":
        answers = [record(A, 1, b"\x7f\0\0\x0b")]
    elif name == "mixed.test":
        answers = [address, record(A, 30, b"\x7f\0\0\x0b")]
    elif name == "alias.test":
        target = wire_name("a.test")
        answers = [record(CNAME, 300, target), record(A, 300, b"\x7f\0\0\x0a", target)]
    elif rest == "many.test":
        answers = [address]
    elif name in ("large.test", "huge.test"):
        size = 1000 if name == "large.test" else 3000
        answers = [record(TXT, 300, text("x" * size))]
    elif name == "empty.test":
        authority = [soa(60)]
    elif name == "gone.test":
        authority, rcode = [soa(1)], NXDOMAIN
    elif name == "nosoa.test":
        rcode = NXDOMAIN
    elif name == "broken.test":
        rcode = SERVFAIL
    elif name == "lost.test":
        if counts[name] == 1:
            return []
        answers = [address]
    elif name == "hold.test":
        held.append(query)
        return []
    elif name == "silent.test":
        return []
    elif name == "forged.test":
        wrong = [record(A, 300, b"\x7f\0\0\xff")]
        other = wire_name("other.test") + query.question[-4:]
        sent.append(query.reply(wrong, id=query.id ^ 1))
        sent.append(query.reply(wrong, question=other))
        answers = [address]
        # Unsound answers with everything right in front.
        dice = random.Random(7)
        head = len(query.question) + 12
        for _ in range(200):
            tail = bytes(dice.randrange(256) for _ in range(dice.randrange(40)))
            counts_of_records = struct.pack("!HHH", 1 + dice.randrange(9), 0, 0)
            start = query.reply()[:head]
            sent.append(start[:6] + counts_of_records + start[12:] + b"\xc0" + tail)
    else:
        authority, rcode = [soa(60)], NXDOMAIN
    sent.append(query.reply(answers, authority, rcode))
    return [(data, query.addr) for data in sent]


def main():
    host = sys.argv[1]
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.socket(family, socket.SOCK_DGRAM)
    server.bind((host, 0))
    shown = f"[{host}]" if ":" in host else host
    print(f"listening on {shown}:{server.getsockname()[1]}", flush=True)
    counts, held = {}, []
    while True:
        data, addr = server.recvfrom(65536)
        try:
            query = Query(data, addr)
        except (IndexError, struct.error, UnicodeDecodeError):
            continue
        for reply, to in respond(query, counts, held):
            server.sendto(reply, to)


main()
