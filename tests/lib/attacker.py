"""A proxy as an attacker would build it: it speaks the link (net/link/header.h, roles/words/request.h) and asks for what it likes."""
import os
import re
import socket
import ssl
import struct

import mail

with open(os.path.join(mail.ROOT, "net", "link", "header.h"), encoding="utf-8") as header:
    VERSION = int(re.search(r"^#define LINK_VERSION\s+(\d+)$", header.read(), re.M).group(1))

OPEN, DATA, END, RESET, CREDIT, PING, HELLO = range(1, 8)
LOGIN, LOOKUP, IMAP, SYNC, DELIVER, SUBSCRIBE, TABLE, MEMBER, RENEW = range(1, 10)
FROM_OPENER, LAST = 0x80, 1
PROXY, DIRECTOR, BACKEND = 1, 2, 4
UNKNOWN, REFUSED, ELSEWHERE, TICKET = range(4)
NO_TICKET = bytes(48)


class Refused(Exception):
    """RESET: why."""


class Closed(Exception):
    """The other end has ended the connection."""


def sized(data):
    return struct.pack("<H", len(data)) + data


def token():
    return b"\1" + bytes(64)


class Proxy:
    """One link. `certificate`: (pem, key, ca)."""

    def __init__(self, port, name="p9", roles=PROXY, certificate=None, speaks=(VERSION, VERSION), more=b""):
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        try:
            if certificate is not None:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname = False
                context.load_cert_chain(certificate[0], certificate[1])
                context.load_verify_locations(certificate[2])
                context.set_alpn_protocols(["trireme-link"])
                self.sock = context.wrap_socket(self.sock)
            hello = b"TRLK" + struct.pack("<HH", *speaks) + os.urandom(8) + bytes([roles, 0, len(name)]) + name.encode()
            self.send(HELLO, hello + more)
            assert self.receive()[0] == HELLO
        except OSError as error:
            raise Closed(str(error))
        self.next = 0

    def close(self):
        self.sock.close()

    def send(self, kind, payload=b"", stream=0, value=0, flags=0, asks=0, head=0):
        self.sock.sendall(struct.pack("<BBBBIIHH", kind, asks, flags, 0, stream, value, len(payload), head) + payload)

    def exactly(self, size):
        data = b""
        while len(data) < size:
            try:
                more = self.sock.recv(size - len(data))
            except ConnectionError:
                more = b""
            if not more:
                raise Closed()
            data += more
        return data

    def receive(self):
        kind, _, _, _, stream, value, size, trailer = struct.unpack("<BBBBIIHH", self.exactly(16))
        payload = self.exactly(size)
        return kind, stream, value, payload[:size - trailer], payload[size - trailer:]

    def ask(self, asks, head, data=b"", route=0):
        """(data, trailer) of the answer; Refused."""
        self.next += 1
        stream = self.next
        self.send(OPEN, head + data, stream, route, FROM_OPENER | (0 if asks == SUBSCRIBE else LAST), asks, len(head))
        return self.answer(stream, asks)

    def answer(self, stream, asks):
        got = b""
        while True:
            kind, of, value, part, trailer = self.receive()
            if kind == PING or of != stream:
                self.send(PING)
                continue
            got += part
            if kind == RESET:
                raise Refused(value)
            if kind == END:
                return got, trailer
            if asks in (SUBSCRIBE, TABLE, MEMBER):
                return got, b""

    # ---- Of a director

    def reply(self, trailer):
        result, _, partition = struct.unpack("<xBIH", trailer[:8])
        return result, partition, trailer[8:56]

    def login(self, user, password, lookup=False):
        """(result, partition, ticket)"""
        head = bytes([1, lookup, 1]) + sized(user.encode()) + sized(password.encode())
        return self.reply(self.ask(LOOKUP if lookup else LOGIN, head, route=0)[1])

    def renew(self, user, ticket):
        return self.reply(self.ask(RENEW, b"\1" + ticket + sized(user.encode()))[1])

    # ---- Of a backend

    def imap(self, user, ticket, partition, text=b"a STATUS INBOX (MESSAGES)\r\n", asks=IMAP):
        head = b"\1" + os.urandom(16) + token() + bytes([0, 0, 0]) + ticket + sized(user.encode())
        return self.ask(asks, head, b"" if asks == SYNC else text, partition)[0]

    def subscribe(self, user, ticket, partition):
        """What the backend says of the account (roles/words/feed.h)."""
        assert self.ask(SUBSCRIBE, struct.pack("<BH", 1, partition), b"", partition)[0] == b"\1\1"
        self.send(DATA, b"\1" + struct.pack("<BI", 2, 77) + sized(user.encode()) + ticket, self.next, 0, FROM_OPENER)
        said = self.answer(self.next, SUBSCRIBE)[0]
        if said == struct.pack("<BBI", 1, 5, 77):
            raise Refused(TICKET)
        assert said.startswith(struct.pack("<BBI", 1, 4, 77)), said
        return said

    def deliver(self, user, ticket, partition, text=b"Subject: x\r\n\r\nx\r\n"):
        head = b"\1" + os.urandom(16) + struct.pack("<QB", 0, 0) + ticket + sized(user.encode()) + sized(b"")
        head += sized(b"a@b") + sized(user.encode()) + sized(b"Received: from x\r\n")
        _, trailer = self.ask(DELIVER, head, text, partition)
        return struct.unpack("<xH", trailer[:3])[0]
