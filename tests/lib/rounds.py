"""Faults of a cluster's processes and links under mixed load, and what clients must see of them: every answer is true (a ledger keeps what
each message may be), a living proxy's clients keep their connections, whoever idles hears of everything within 5 seconds of the
heal, and nothing acknowledged is lost."""
import imaplib
import importlib.machinery
import importlib.util
import os
import random
import re
import threading
import time

import mail
from cluster import eventually

loader = importlib.machinery.SourceFileLoader("test_kill", os.path.join(mail.ROOT, "tests", "integration", "test_kill"))
kill = importlib.util.module_from_spec(importlib.util.spec_from_loader("test_kill", loader))
loader.exec_module(kill)

FAULT_SECONDS = 7    # Twice what a link may be silent.
HEAL_SECONDS = 30
IDLE_SECONDS = 5
ANSWER_SECONDS = 45  # A backend comes back sooner; limits.outcome_wait is longer.


def imap(proxy, user, password="pass"):
    client = imaplib.IMAP4("127.0.0.1", proxy.imap, timeout=ANSWER_SECONDS)
    client.login(user, password)
    client.validity = {}
    return client


# ---- Clients


class Undone(Exception):
    """NO [UNAVAILABLE]: nothing was done."""


class ImapWorker(kill.Worker):
    """A client that lives through it: every answer is true, and his connection ends with his own proxy alone."""

    def __init__(self, proxy, ledger, rng):
        super().__init__(proxy, ledger, rng)
        self.answers = self.unavailable = 0

    def run(self):
        try:
            self.work()
        except Exception as error:
            if self.server.process.poll() is None and not self.server.dying:
                self.failure = f"{self.ledger.user}: {type(error).__name__}: {error}"

    def work(self):
        self.client = eventually(lambda: imap(self.server, self.ledger.user))
        serial = 0
        while not self.stopping:
            folder = self.rng.choice(kill.FOLDERS)
            try:
                self.asked(self.client.select(folder))
                found = kill.rows(self.client, folder, self.ledger)
                if self.rng.random() < 0.3:
                    self.bodies(found)
            except Undone:
                continue
            except AssertionError as error:
                if "UNAVAILABLE" not in str(error):
                    raise
                self.unavailable += 1
                continue
            for ident in found:
                self.ledger.shown_present(folder, ident)
            for _ in range(self.rng.randrange(1, 6)):
                serial += 1
                self.step(folder, found, serial)

    def asked(self, reply):
        ok, data = reply
        self.answers += 1
        if ok == "NO" and b"UNAVAILABLE" in data[0]:
            self.unavailable += 1
            raise Undone()
        assert ok == "OK", data
        return data

    def bodies(self, found):
        """A long answer, byte for byte."""
        names = {uid: ident for ident, (uid, _) in found.items()}
        for part in self.asked(self.client.uid("FETCH", "1:*", "(UID BODY.PEEK[])")):
            if isinstance(part, tuple):
                ident = names.get(int(re.search(rb"UID (\d+)", part[0])[1]))
                body = mail.without_trace(part[1]) if ident is not None and ident[0] in "li" else part[1]
                if ident in self.ledger.bodies:
                    assert mail.digest(body) == self.ledger.bodies[ident], f"{ident} is not what was sent"

    def change(self, ident, after, call):
        """OK: done. NO: not done. Both are what the ledger holds the server to."""
        before = self.ledger.states.get(ident, {kill.GONE})
        self.ledger.doing(ident, after)
        try:
            self.asked(call())
        except Undone:
            with self.ledger.lock:
                self.ledger.states[ident] = set(before)
            return False
        self.ledger.done(ident, after)
        return True

    def step(self, folder, found, serial):
        client = self.client
        kind = self.rng.choice(["append", "append", "store", "move", "expunge"])
        mine = [i for i in found if i.startswith("a")]
        if kind == "append" or not mine:
            ident = f"a{self.ledger.user}.{time.monotonic_ns()}.{serial}"
            body = kill.message(ident, self.rng.choice([100, 3000, 40000, 400000]))
            self.ledger.bodies[ident] = mail.digest(body)
            self.change(ident, (folder, frozenset()), lambda: client.append(folder, None, None, body))
            return
        ident = self.rng.choice(sorted(mine))
        uid, flags = found[ident]
        if kind == "store":
            flags = frozenset(self.rng.sample(kill.FLAGS, self.rng.randrange(0, 3)))
            text = "(" + " ".join(sorted(flags)) + ")"
            if self.change(ident, (folder, flags), lambda: client.uid("STORE", str(uid), "FLAGS.SILENT", text)):
                found[ident] = (uid, flags)
        elif kind == "move":
            target = next(f for f in kill.FOLDERS if f != folder)
            if self.change(ident, (target, flags), lambda: client.uid("MOVE", str(uid), target)):
                del found[ident]
        else:
            deleted = flags | {"\\Deleted"}
            if not self.change(ident, (folder, deleted),
                               lambda: client.uid("STORE", str(uid), "+FLAGS.SILENT", "(\\Deleted)")):
                return
            found[ident] = (uid, deleted)
            if self.change(ident, kill.GONE, lambda: client.uid("EXPUNGE", str(uid))):
                del found[ident]


class LmtpWorker(kill.LmtpWorker):
    """250 is there, 451 may be tried again: a sender must not lose his connection while his proxy lives."""

    def run(self):
        try:
            self.work()
        except Exception as error:
            if self.server.process.poll() is None and not self.server.dying:
                self.failure = f"lmtp: {type(error).__name__}: {error}"

    def work(self):
        lmtp = mail.Lmtp(self.server)
        self.deferred = 0
        while not self.stopping:
            ledgers = self.rng.sample(self.ledgers, self.rng.choice([1, 1, 2, 3]))
            self.count += 1
            ident = f"l{time.monotonic_ns()}.{self.count}"
            body = kill.message(ident, self.rng.choice([200, 10000, 60000]))
            for ledger in ledgers:
                ledger.bodies[ident] = mail.digest(body)
                ledger.doing(ident, ("INBOX", frozenset()))
            replies = lmtp.deliver([l.user for l in ledgers], body)
            for ledger in ledgers:
                code, text = replies[ledger.user]
                assert code in (250, 451), (code, text)
                with ledger.lock:
                    if code == 250:
                        ledger.states[ident] = {s for s in ledger.states[ident] if s != kill.GONE}
                        ledger.acknowledged += 1
                    elif b"4.4.2" not in text:  # Nothing was done. (4.4.2: nobody knows.)
                        ledger.states[ident] = {kill.GONE}
                        self.deferred += 1


class IdleWorker(threading.Thread):
    """Idles all the time, by a proxy that lives; afterwards it must know within 5 seconds how many messages there are."""

    def __init__(self, proxy, user):
        super().__init__(daemon=True)
        self.proxy, self.user, self.lines, self.failure, self.done = proxy, user, [], None, False
        self.count, self.began = None, threading.Event()

    def run(self):
        try:
            client = eventually(lambda: imap(self.proxy, self.user))
            client.sock.settimeout(None)
            self.count = int(client.select("INBOX")[1][0])
            client.send(b"i1 IDLE\r\n")
            self.began.set()
            while not self.done:
                line = client.readline()
                if line == b"" or line.startswith(b"* BYE"):
                    raise EOFError(line)
                self.lines.append(line)
                if match := re.match(rb"\* (\d+) (EXISTS|EXPUNGE)", line):
                    self.count = int(match[1]) if match[2] == b"EXISTS" else self.count - 1
        except Exception as error:
            if not self.done:
                self.failure = f"idle {self.user}: {type(error).__name__}: {error}"

    def knows(self, count, end):
        while self.count != count:
            assert self.failure is None, self.failure
            assert time.time() < end, f"{self.user} idles and was shown {self.count} of {count} messages: {self.lines[-3:]}"
            time.sleep(0.01)

    def hears(self, ledger, count):
        """New mail, acknowledged now, beside `count` messages that are there: he need not have heard of the last of these yet."""
        ident = f"i{time.monotonic_ns()}"

        def deliver():
            replies = mail.Lmtp(self.proxy).deliver([self.user], kill.message(ident, 100))
            assert replies[self.user][0] == 250, replies

        ledger.doing(ident, ("INBOX", frozenset()))
        eventually(deliver)
        ledger.done(ident, ("INBOX", frozenset()))
        self.knows(count + 1, time.time() + IDLE_SECONDS)


# ---- Faults: each heals before it returns


def fault_kill(cluster, rng, node):
    node.kill()
    time.sleep(rng.uniform(0, 1.0))
    node.start()
    node.ready()


def fault_stop(cluster, rng, node):
    node.pause()
    time.sleep(rng.uniform(0.5, FAULT_SECONDS))
    node.go_on()


def cut(cluster, rng, node, *ways):
    for way in ways:
        cluster.cutter.hold(node.name, way)
    time.sleep(rng.uniform(0.5, FAULT_SECONDS))
    cluster.cutter.go(node.name)


def fault_cut_in(cluster, rng, node):
    """What goes to it is lost."""
    cut(cluster, rng, node, "in")


def fault_cut_out(cluster, rng, node):
    """What comes from it is lost."""
    cut(cluster, rng, node, "out")


def fault_cut(cluster, rng, node):
    cut(cluster, rng, node, "in", "out")


def fault_reset(cluster, rng, node):
    for _ in range(rng.randrange(1, 4)):
        cluster.cutter.reset(node.name)
        time.sleep(rng.uniform(0, 0.5))


def faults_of(cluster, rng, count):
    """Each fault of each process and of its links in turn, in an order of the seed's own."""
    pairs = [(f, n) for f in (fault_kill, fault_stop) for n in cluster.nodes]
    pairs += [(f, n) for f in (fault_cut_in, fault_cut_out, fault_cut, fault_reset) for n in cluster.nodes if n.role != "proxy"]
    chosen = []
    while len(chosen) < count:
        rng.shuffle(pairs)
        chosen += pairs
    return chosen[:count]


# ---- A round


def ledgers_of(cluster, users):
    """From here on with empty folders."""
    ledgers = [kill.Ledger(f"u{i}") for i in range(users)]
    for ledger in ledgers:
        ledger.bodies = {}
        client = imap(cluster.proxies[0], ledger.user)
        client.select("INBOX")
        client.store("1:*", "+FLAGS", "\\Deleted")
        client.expunge()
        assert client.create("Other")[0] == "OK"
        client.logout()
    return ledgers


def workers_of(cluster, ledgers, rng):
    proxies = cluster.proxies
    workers = [ImapWorker(proxies[i % len(proxies)], l, random.Random(rng.random())) for i, l in enumerate(ledgers)]
    return workers + [LmtpWorker(p, ledgers, random.Random(rng.random())) for p in proxies]


def idlers_of(cluster, ledgers, living):
    """By each proxy that lives, of an account of each backend."""
    homes = {cluster.home(l.user).name: l for l in reversed(ledgers)}
    return [(IdleWorker(p, l.user), l) for p in living for l in homes.values()]


def messages_of(proxy, user):
    client = imap(proxy, user)
    ok, data = client.select("INBOX")
    assert ok == "OK", data
    client.logout()
    return int(data[0])


def round_of(cluster, ledgers, rng, fault, victim):
    what = f"{fault.__name__[6:]} {victim.name}"
    for proxy in cluster.proxies:
        proxy.dying = proxy is victim and fault is fault_kill
    living = [p for p in cluster.proxies if not p.dying] or cluster.proxies
    idlers = idlers_of(cluster, ledgers, [p for p in living if not p.dying])
    workers = workers_of(cluster, ledgers, rng)
    for w in workers + [i for i, _ in idlers]:
        w.start()
    assert all(i.began.wait(30) for i, _ in idlers), "nobody can idle"
    time.sleep(rng.uniform(0.3, 1.0))
    begin = time.time()
    fault(cluster, rng, victim)
    healed = time.time()
    time.sleep(1.5)
    for w in workers:
        w.stopping = True
    for w in workers:
        w.join(90)
        assert not w.is_alive(), f"{what}: a client hangs"
        assert w.failure is None, f"{what}: {w.failure}"
    for proxy in cluster.proxies:
        eventually(lambda: imap(proxy, "u0").logout(), HEAL_SECONDS)
    quiet = time.time()
    assert quiet - healed < HEAL_SECONDS, f"{what}: {quiet - healed:.1f} s until everybody had his answer"
    for idler, ledger in idlers:
        idler.knows(messages_of(living[0], ledger.user), quiet + IDLE_SECONDS)
    shown = time.time() - quiet
    for idler, ledger in idlers:
        idler.hears(ledger, messages_of(living[0], ledger.user))
    for idler, ledger in idlers:
        idler.knows(messages_of(living[0], ledger.user), time.time() + IDLE_SECONDS)
        assert idler.failure is None, f"{what}: {idler.failure}"
        idler.done = True
    for ledger in ledgers:
        kill.verify(living[0], ledger)
    imaps = [w for w in workers if isinstance(w, ImapWorker)]
    print(f"  {what} for {healed - begin:.1f} s: {sum(w.answers for w in imaps)} answers, {sum(w.unavailable for w in imaps)} NO, "
          f"{sum(w.count for w in workers if isinstance(w, LmtpWorker))} messages, quiet after {quiet - healed:.1f} s, "
          f"idle clients after {shown:.1f} s more", flush=True)
