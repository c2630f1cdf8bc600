"""Connections as their clients have them: bytes and lines, in plain, under TLS, compressed."""
import socket
import ssl
import zlib


def anyone():
    """A TLS context that takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Connection:
    def __init__(self, port, tls=None, seconds=60, first=b"", receive_buffer=None):
        """tls: a context. first: what is said before TLS."""
        self.sock = socket.socket()
        if receive_buffer:  # The server has to keep what does not fit.
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(seconds)
        self.sock.connect(("127.0.0.1", port))
        self.buffer, self.inflate, self.deflate = b"", None, None
        if first:
            self.sock.sendall(first)
        if tls:
            self.start_tls(tls)

    def start_tls(self, context):
        self.sock = context.wrap_socket(self.sock, server_hostname="localhost")
        return self

    def start_deflate(self, level=6):
        self.inflate, self.deflate = zlib.decompressobj(-15), zlib.compressobj(level, zlib.DEFLATED, -15)

    def packed(self, data):
        return self.deflate.compress(data) + self.deflate.flush(zlib.Z_SYNC_FLUSH) if self.deflate else data

    def send(self, data):
        self.sock.sendall(self.packed(data))
        return self

    def receive(self):
        """What the socket has; EOFError at the end."""
        data = self.sock.recv(65536)
        if not data:
            raise EOFError(f"closed; left over: {self.buffer[-200:]!r}")
        return self.inflate.decompress(data) if self.inflate else data

    def line(self):
        while b"\r\n" not in self.buffer:
            self.buffer += self.receive()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def exactly(self, size):
        parts, left = [self.buffer], size - len(self.buffer)
        while left > 0:
            parts.append(self.receive())
            left -= len(parts[-1])
        data = b"".join(parts)
        self.buffer = data[size:]
        return data[:size]

    def until(self, start):
        """Lines up to the one that begins so."""
        lines = []
        while not lines or not lines[-1].startswith(start):
            lines.append(self.line())
        return lines

    def ok(self, command, tag=b"a"):
        self.send(tag + b" " + command + b"\r\n")
        lines = self.until(tag + b" ")
        assert lines[-1].startswith(tag + b" OK"), (command[:80], lines[-1])
        return lines

    def idle(self):
        self.send(b"b IDLE\r\n")
        self.until(b"+")
        return self

    def done(self):
        self.send(b"DONE\r\n")
        lines = self.until(b"b ")
        assert lines[-1].startswith(b"b OK"), lines
        return lines

    def rest(self, seconds):
        """Everything until the server closes, or says nothing for a while."""
        self.sock.settimeout(seconds)
        try:
            return self.ended()
        except TimeoutError:
            return self.buffer

    def ended(self):
        """Everything until the server closes."""
        try:
            while True:
                self.buffer += self.receive()
        except (EOFError, ConnectionResetError):
            return self.buffer

    def close(self):
        self.sock.close()
