"""A server whose executable is replaced while it serves: who puts it there, who asks for it, and clients that miss nothing."""
import datetime
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import mail
import peers
from cluster import eventually
from connection import Connection, anyone

FAILED = 65  # Exit status of `ctl upgrade`: the old server serves on.
BUSY = 76  # One is under way.


class Talk(Connection):
    """Knows what it must read next. Any end of it, and any other byte, is an error."""

    def __init__(self, port, tls):
        """tls: False, True, or a context."""
        super().__init__(port, anyone() if tls is True else tls or None)
        self.count = 0
        assert self.line().startswith(b"* OK")

    def bytes(self, size, pause):
        """Piece by piece."""
        while len(self.buffer) < size:
            self.buffer += self.receive()
            time.sleep(pause)
        return self.exactly(size)

    def command(self, text, first=b""):
        self.count += 1
        tag = b"t%d" % self.count
        self.send(tag + b" " + text + b"\r\n" if not first else first)
        lines = []
        while True:
            line = self.line()
            lines.append(line)
            if line.startswith(tag + b" "):
                assert line.startswith(tag + b" OK"), (text[:60], line)
                return lines
            assert line.startswith(b"* "), (text[:60], line)

    def whole(self, text):
        """An answer with literals, whose lines are not looked at."""
        self.count += 1
        tag = b"t%d" % self.count
        self.send(tag + b" " + text + b"\r\n")
        while not self.line().startswith(tag + b" OK"):
            pass

    def login(self, user):
        self.command(b"LOGIN " + user.encode() + b" pass")
        self.command(b"SELECT INBOX")
        return self

    def compress(self):
        self.command(b"COMPRESS DEFLATE")
        self.start_deflate()
        return self


def lives(talk):
    try:
        talk.command(b"NOOP")
        return True
    except (EOFError, ConnectionError):
        return False


def children(server):
    with open(f"/proc/{server.pid}/task/{server.pid}/children") as f:
        return [int(x) for x in f.read().split()]


class Executable:
    """What is at the path that the supervisor was started from."""

    def __init__(self, scratch):
        self.path = os.path.join(scratch, "bin", "trireme")
        os.makedirs(os.path.dirname(self.path))
        self.good()

    def put(self, write):
        write(self.path + ".new")
        os.chmod(self.path + ".new", 0o755)
        os.rename(self.path + ".new", self.path)

    def good(self):
        self.put(lambda path: shutil.copyfile(mail.BINARY, path))

    def script(self, text):
        def write(path):
            with open(path, "w") as f:
                f.write(text)
        self.put(write)


def ctl_start(server):
    return subprocess.Popen([mail.BINARY, "ctl", "--socket", server.directory + "/data/ctl.sock", "upgrade", "--json"],
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def upgraded(server):
    """A new process serves, and nobody was dropped."""
    before = peers.child_of(server.pid)
    asked = ctl_start(server)
    out, errors = asked.communicate(timeout=120)
    assert asked.returncode == 0, (asked.returncode, out, errors)
    got = json.loads(out)
    eventually(lambda: len(children(server)) == 1 and children(server) != [before] or 1 / 0)
    assert got["dropped"] == 0 and got["moved"] > 0, got
    return got


def refused(server, named, meanwhile=lambda: None):
    before = peers.child_of(server.pid)
    asked = ctl_start(server)
    meanwhile()
    out, errors = asked.communicate(timeout=120)
    assert asked.returncode == FAILED and named in errors, (asked.returncode, out, errors)
    eventually(lambda: children(server) == [before] or 1 / 0)


# ---- A new server that dies in the middle of its upgrade


def log_of(server):
    with open(os.path.join(server.directory, "log"), errors="replace") as f:
        return f.read()


def lines_of(server, text):
    return [line for line in log_of(server).splitlines() if text in line]


def second(line):
    """Of a line of the log: when it was written."""
    return datetime.datetime.fromisoformat(line.split()[0].replace("Z", "+00:00")).timestamp()


TAKES = "sessions wait for the new server"
HAS = "sessions have come"


def all_taking_seconds(server):
    """From the moment that the new server may open `data` to the one that it serves, in the upgrades that went well."""
    begun, found = None, []
    for line in log_of(server).splitlines():
        if TAKES in line:
            begun = second(line)
        elif "new server has ended" in line:
            begun = None
        elif "info upgraded" in line and begun is not None:
            found.append(second(line) - begun)
    return found


def taking_seconds(server):
    """Of the fastest."""
    return min(all_taking_seconds(server))


class Killer:
    """A process of its own, which no thread of this one delays. It has some connections that say nothing, opened among others, so that
    some of them are among the first whom a new server takes."""

    def __init__(self, server):
        self.server = server
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *words):
        self.process.stdin.write("\t".join(map(str, words)) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def open(self):
        self.ask("open", self.server.imap)

    def ended(self):
        """Of its connections, since the last time."""
        return self.ask("ended")

    def half_way(self, moment=None, behind=TAKES):
        """The new server dies `moment` seconds after it may open `data`, or after `behind` is in the log; None: when it has answered one whom it
        has taken. The number of sessions that ended with it, as the server says."""
        log = os.path.join(self.server.directory, "log")
        self.process.stdin.write(f"kill\t{log}\t{os.path.getsize(log)}\t{behind}\t{-1 if moment is None else moment}\t{self.server.pid}\t"
                                 f"{children(self.server)[0]}\n")
        self.process.stdin.flush()
        out, errors = ctl_start(self.server).communicate(timeout=120)
        assert int(self.process.stdout.readline()) == 0
        count = re.search(r"sessions lost: (\d+)", errors)
        assert count, (out, errors)
        eventually(lambda: len(children(self.server)) == 1 or 1 / 0)
        return int(count[1])

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class KillerProcess:
    def __init__(self):
        self.socks, self.gone = [], 0

    def open(self, port):
        sock = socket.create_connection(("127.0.0.1", int(port)), 60)
        assert sock.recv(200).startswith(b"* OK")
        self.socks.append(sock)
        return 0

    def forget(self):
        gone = gone_of(self.socks)
        self.socks = [sock for sock in self.socks if sock not in gone]
        self.gone += len(gone)

    def ended(self):
        self.forget()
        count, self.gone = self.gone, 0
        return count

    def first_answer(self):
        for sock in self.socks:
            sock.setblocking(True)
            sock.sendall(b"x NOOP\r\n")
        poll = select.poll()
        for sock in self.socks:
            poll.register(sock, select.POLLIN)
        assert poll.poll(60000)

    def kill(self, log, offset, behind, moment, supervisor, old):
        self.forget()
        with open(log, "rb") as f:
            f.seek(int(offset))
            read = b""
            while behind.encode() not in read:
                read += f.read()
                time.sleep(0.0005)
        if float(moment) >= 0:
            time.sleep(float(moment))
        else:
            self.first_answer()
        with open(f"/proc/{supervisor}/task/{supervisor}/children") as f:
            os.kill([int(pid) for pid in f.read().split() if pid != old][0], signal.SIGKILL)
        return 0

    def run(self):
        for line in sys.stdin:
            name, *words = line.rstrip("\n").split("\t")
            print(getattr(self, name)(*words), flush=True)


def gone_of(socks):
    """Those whose other end has closed. Answers to NOOP are thrown away."""
    gone = set()
    for sock in socks:
        sock.setblocking(False)
        try:
            while data := sock.recv(4096):
                assert data.startswith(b"x OK"), data
            gone.add(sock)
        except BlockingIOError:
            pass
        except ConnectionError:
            gone.add(sock)
    return gone


class Memory(threading.Thread):
    """The most that all servers of a supervisor take together, proportional set size in KiB, since the last reset()."""

    def __init__(self, server):
        super().__init__(daemon=True)
        self.server, self.peak, self.over = server, 0, False

    def now(self):
        total = 0
        for pid in children(self.server):
            try:
                with open(f"/proc/{pid}/smaps_rollup") as f:
                    total += int(re.search(r"^Pss:\s+(\d+)", f.read(), re.M)[1])
            except (OSError, TypeError):
                pass
        return total

    def run(self):
        while not self.over:
            self.peak = max(self.peak, self.now())
            time.sleep(0.02)

    def reset(self):
        self.peak = 0


if __name__ == "__main__":
    KillerProcess().run()
