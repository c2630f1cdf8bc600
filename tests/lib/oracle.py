"""Two IMAP servers told the same, and their answers made comparable: whatever RFC 3501 leaves to the server (texts, order
of untagged data, order of items and flags, UIDVALIDITY, mod-sequences, quoted string or literal) is taken out."""
import datetime
import re
import socket

NUMBER = "n"


class Answer:
    """Tagged status and code, and the untagged data in comparable form."""

    def __init__(self, status, code, untagged):
        self.status, self.code, self.untagged = status, code, untagged


class Reader:
    """Values of a response (RFC 3501, 9). A response is bytes with its literals in place."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def peek(self):
        return self.data[self.at:self.at + 1]

    def skip(self, byte):
        if self.peek() != byte:
            raise ValueError(f"expected {byte!r} at {self.at}: {self.data[max(0, self.at - 60):self.at + 60]!r}")
        self.at += 1

    def value(self):
        byte = self.peek()
        if byte == b"(":
            self.at += 1
            items = []
            while self.peek() != b")":
                if self.peek() == b" ":
                    self.at += 1
                else:
                    items.append(self.value())
                if self.at >= len(self.data):
                    raise ValueError("a list without end")
            self.at += 1
            return items
        if byte == b'"':
            out = bytearray()
            self.at += 1
            while self.peek() != b'"':
                if self.peek() == b"\\":
                    self.at += 1
                if self.peek() in (b"", b"\r", b"\n"):
                    raise ValueError("a quoted string without end")
                out += self.peek()
                self.at += 1
            self.at += 1
            return ("string", bytes(out))
        found = re.compile(rb"~?\{(\d+)\}\r\n").match(self.data, self.at)
        if found:
            start = found.end()
            self.at = start + int(found[1])
            return ("string", self.data[start:self.at])
        return self.atom()

    def atom(self):
        start, depth = self.at, 0
        while self.at < len(self.data):
            byte = self.peek()
            if byte == b"[":
                depth += 1
            elif byte == b"]":
                depth -= 1
            elif depth <= 0 and byte in b" ()":
                break
            self.at += 1
        if self.at == start:
            raise ValueError(f"no value at {start}: {self.data[start - 30:start + 60]!r}")
        return self.data[start:self.at]


def fetch_items(data):
    r = Reader(data)
    values = r.value()
    if r.at != len(data) or len(values) % 2:
        raise ValueError(f"not pairs: {data[:200]!r}")
    items = {}
    for name, value in zip(values[::2], values[1::2]):
        name = re.sub(rb'"', b"", name).upper()
        if name == b"FLAGS":
            value = sorted(v for v in value if v.lower() != b"\\recent")
        elif name == b"MODSEQ":
            value = NUMBER
        elif name == b"INTERNALDATE":  # In whatever zone.
            value = datetime.datetime.strptime(value[1].decode().strip(), "%d-%b-%Y %H:%M:%S %z").timestamp()
        if name in items:
            raise ValueError(f"{name} twice")
        items[name] = value
    return items


def set_of(text):
    """A sequence set as its numbers."""
    out = []
    for part in text.split(b","):
        first, _, last = part.partition(b":")
        out += range(int(first), int(last or first) + 1)
    return sorted(out)


def code_of(code):
    """A response code, comparable; None for those that say nothing about what was done."""
    word, _, rest = code.partition(b" ")
    word = word.upper()
    if word in (b"UIDVALIDITY", b"HIGHESTMODSEQ"):
        return (word, NUMBER)
    if word == b"APPENDUID":
        return (word, set_of(rest.split()[1]))
    if word == b"COPYUID":
        _, source, target = rest.split()
        return (word, set_of(source), set_of(target))
    if word == b"MODIFIED":
        return (word, set_of(rest))
    if word == b"PERMANENTFLAGS":
        return (word, sorted(Reader(rest).value()))
    if word in (b"UNSEEN", b"UIDNEXT"):
        return (word, int(rest))
    if word in (b"READ-ONLY", b"READ-WRITE", b"TRYCREATE", b"NOMODSEQ", b"CLOSED", b"BADCHARSET", b"NONEXISTENT",
                b"ALREADYEXISTS", b"CANNOT", b"UNKNOWN-CTE"):
        return (word,)
    return None


# Says nothing that all servers say alike: RFC 3501 7.2.2 leaves \Marked, RFC 3348 the children of a mailbox optional.
OPTIONAL_ATTRIBUTES = (b"\\marked", b"\\unmarked")


def untagged(line):
    """One response without its '* ', comparable; None: to be left out."""
    number = re.match(rb"(\d+) (EXISTS|RECENT|EXPUNGE|FETCH)(?: (.*))?\Z", line, re.S | re.I)
    if number:
        kind = number[2].upper()
        if kind == b"RECENT":
            return None
        if kind == b"FETCH":
            return (kind, int(number[1]), fetch_items(number[3]))
        return (kind, int(number[1]))
    word, _, rest = line.partition(b" ")
    word = word.upper()
    if word in (b"OK", b"NO", b"BAD", b"BYE", b"PREAUTH"):
        code = re.match(rb"\[(.*?)\]", rest)
        code = code_of(code[1]) if code else None
        return (word, code) if code or word in (b"BAD", b"BYE") else None
    if word == b"CAPABILITY" or word == b"ID":
        return (word,)
    if word == b"FLAGS":
        return (word, sorted(Reader(rest).value()))
    if word in (b"LIST", b"LSUB"):
        r = Reader(rest)
        attributes = sorted(a.lower() for a in r.value() if a.lower() not in OPTIONAL_ATTRIBUTES)
        r.skip(b" ")
        separator = r.value()
        r.skip(b" ")
        name = r.value()
        name = name[1] if isinstance(name, tuple) else name
        return (word, name, separator, attributes, rest[r.at:])
    if word == b"STATUS":
        r = Reader(rest)
        name = r.value()
        name = name[1] if isinstance(name, tuple) else name
        r.skip(b" ")
        items = r.value()
        items = {k.upper(): NUMBER if k.upper() in (b"UIDVALIDITY", b"HIGHESTMODSEQ", b"RECENT") else v
                 for k, v in zip(items[::2], items[1::2])}
        return (word, name, items)
    if word == b"SEARCH":
        modseq = b"(MODSEQ" in rest.upper()
        numbers = re.sub(rb"\(.*\)", b"", rest).split()
        return (word, sorted(map(int, numbers)), modseq)
    if word == b"ESEARCH":
        rest = re.sub(rb'\(TAG "?[^)]*\) ?', b"", rest)
        words = rest.split()
        uid = bool(words) and words[0].upper() == b"UID"
        words = words[1:] if uid else words
        items = {}
        for name, value in zip(words[::2], words[1::2]):
            items[name.upper()] = set_of(value) if name.upper() == b"ALL" else NUMBER \
                if name.upper() == b"MODSEQ" else int(value)
        return (word, uid, items)
    if word == b"ENABLED":
        return (word, sorted(rest.upper().split()))
    if word == b"NAMESPACE":
        return (word, rest)
    return (word, rest)


class Session:
    def __init__(self, port, user="u0"):
        self.sock = socket.create_connection(("127.0.0.1", port), 30)
        self.buffer = b""
        self.tag = 0
        self.strays = []  # Tagged lines that answer nothing: literals that were taken for commands.
        self.response()
        if user:
            answer = self.command(b"LOGIN " + user.encode() + b" pass")
            assert answer.status == b"OK", "LOGIN failed"

    def more(self):
        data = self.sock.recv(1 << 20)
        if not data:
            raise EOFError(f"closed, after {self.buffer[-200:]!r}")
        self.buffer += data

    def response(self):
        """One response, its literals in place, without the last CRLF."""
        at = 0
        while True:
            end = self.buffer.find(b"\r\n", at)
            if end < 0:
                self.more()
                continue
            literal = re.search(rb"\{(\d+)\}\Z", self.buffer[at:end])
            if literal is None:
                out, self.buffer = self.buffer[:end], self.buffer[end + 2:]
                return out
            at = end + 2 + int(literal[1])
            while len(self.buffer) < at:
                self.more()

    def command(self, text, wanted_tag=None):
        """text may hold literals (LITERAL+); without a tag, one is put in front."""
        self.tag += 1
        tag = b"t%d" % self.tag
        self.sock.sendall(tag + b" " + text + b"\r\n")
        return self.answer(tag)

    def raw(self, data, tag):
        self.sock.sendall(data)
        return self.answer(tag)

    def answer(self, tag):
        found = []
        while True:
            line = self.response()
            if line.startswith(b"* "):
                item = untagged(line[2:])
                if item is not None:
                    found.append(item)
            elif line.startswith(b"+"):
                raise ValueError(f"a continuation was not expected: {line!r}")
            elif line.startswith(tag + b" "):
                words = line[len(tag) + 1:]
                code = re.match(rb"\w+ \[(.*?)\]", words)
                return Answer(words.split(b" ")[0].upper(), code_of(code[1]) if code else None, found)
            else:
                self.strays.append(line)

    def close(self):
        self.sock.close()


def in_order(items):
    """EXPUNGE keeps its order, as everything that comes between two of them; the rest has none."""
    groups = [[]]
    for item in items:
        if item[0] == b"EXPUNGE":
            groups.append([item])
            groups.append([])
        else:
            groups[-1].append(item)
    return [sorted(g, key=repr) for g in groups if g]


def merge(items):
    """Several FETCH responses of one message are one; what is said twice alike is said once."""
    out, fetched = [], {}
    for item in items:
        if item[0] == b"FETCH":
            if item[1] in fetched:
                fetched[item[1]].update(item[2])
                continue
            fetched[item[1]] = item[2]
        elif item[0] == b"EXPUNGE":
            fetched = {}
        elif item in out:
            continue
        out.append(item)
    return in_order(out)


def short(value, size=400):
    text = repr(value)
    return text if len(text) <= size else text[:size] + f"... ({len(text)})"


def differences(a, b):
    """Lines that say how answer a differs from answer b; empty: alike."""
    out = []
    if a.status != b.status:
        out.append(f"status {a.status.decode()} / {b.status.decode()}")
    if a.code != b.code:
        out.append(f"code {short(a.code)} / {short(b.code)}")
    left, right = [i for g in merge(a.untagged) for i in g], [i for g in merge(b.untagged) for i in g]
    only_a, only_b = [i for i in left if i not in right], [i for i in right if i not in left]
    fetched = {i[1]: i[2] for i in only_b if i[0] == b"FETCH"}
    for item in only_a:
        other = fetched.get(item[1]) if item[0] == b"FETCH" else None
        if other is None:
            out.append(f"only left: {short(item)}")
            continue
        for name in {**item[2], **other}:
            if item[2].get(name) != other.get(name):
                out.append(f"{item[1]} {name.decode()}: {short(item[2].get(name))} / {short(other.get(name))}")
        only_b = [i for i in only_b if i[2:] != (other,) or i[1] != item[1]]
    out += [f"only right: {short(i)}" for i in only_b]
    if not out and merge(a.untagged) != merge(b.untagged):
        out.append(f"order: {short(a.untagged)} / {short(b.untagged)}")
    return out
