"""Nodes of a cluster, each a process of its own: a director, backends and proxies, over plain links or mutual TLS, with a cutter
in front of whoever is asked."""
import contextlib
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request

import cutter
import mail
import metrics
import peers

WAKES_MIN = 10  # Of sessions that sleep after each command, by a client that does something.


def eventually(try_it, seconds=15):
    end = time.time() + seconds
    while True:
        try:
            return try_it()
        except Exception:
            if time.time() > end:
                raise
            time.sleep(0.1)


class Node:
    """One process."""

    def __init__(self, cluster, role, name, port, settings):
        self.role, self.name, self.port = role, name, port
        self.directory = os.path.join(cluster.directory, name)
        os.makedirs(os.path.join(self.directory, "data"))
        self.settings = {"node": name, "data": self.directory + "/data", "cores": cluster.cores, "cores.shared": "true",
                         "log.level": "info", "shutdown.grace": "5s", **settings, **cluster.certificate(self)}
        self.config = ["--config", os.path.join(mail.ROOT, "deploy", "cluster", role + ".yaml")] if cluster.examples else []
        self.process, self.starts = None, 0

    def start(self):
        self.starts += 1
        self.log = open(os.path.join(self.directory, "log"), "ab")
        command = [mail.BINARY, "--role=" + self.role, *self.config]
        for key, value in self.settings.items():
            command += ["--set", f"{key}={value}"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def ready(self):
        end = time.time() + 30
        while time.time() < end:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with status {self.process.returncode}:\n{mail.log_tail(self)}")
            if mail.log_tail(self, 1 << 20).count("trireme: ready") >= self.starts:
                return
            time.sleep(0.02)
        raise RuntimeError(f"{self.name} is not ready:\n{mail.log_tail(self)}")

    def ctl(self, *words, status=0):
        return mail.ctl(self, *words, status=status)

    def lacks(self, what):
        """Does it say so, to whoever asks in whichever way?"""
        status = self.ctl("status")
        assert status.get("lacks") == what and status["ready"] is (what is None), (self.name, what, status)
        if "admin.listen" in self.settings:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/readyz", timeout=10) as answer:
                    got = answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                got = error.code, error.read().decode()
            assert got == (200 if what is None else 503, (what or "ready") + "\n"), got

    def kill(self):
        peers.kill_in_turn(self)

    def both(self, number):
        """To the process that serves and to its supervisor, which does not pass these on."""
        os.kill(peers.child_of(self.process.pid), number)
        self.process.send_signal(number)

    def pause(self):
        self.both(signal.SIGSTOP)

    def go_on(self):
        self.both(signal.SIGCONT)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(30)
        finally:
            self.log.close()


class Cluster:
    """examples: from the files of deploy/cluster, which have TLS; here with other addresses, names and paths. `with` one of them: at the
    end nothing of it is left, and if there was an error its logs are shown."""

    def __init__(self, directory, users, tls=False, proxies=2, backends=2, cores="1", examples=False):
        self.directory, self.tls, self.cores, self.examples = directory, tls or examples, cores, examples
        os.makedirs(directory)
        count = 1 + backends + proxies
        bases = [mail.free_port_base() for _ in range(2 * count)]
        link, clients, admin = bases[:1 + backends], bases[1 + backends:count], bases[count:]
        self.passwd = os.path.join(directory, "passwd")
        with open(self.passwd, "w") as f:
            f.writelines(f"u{i}:{{PLAIN}}pass::::::\n" for i in range(users))
        asked = [f"127.0.0.1:{port + 1}" for port in link]  # By way of the cutter.
        self.director = Node(self, "director", "d1", link[0],
                             {"link.listen": f"127.0.0.1:{link[0]}", "auth.passwd_file": self.passwd,
                              "backends": ",".join(asked[1:])})
        self.backends = [Node(self, "backend", f"b{i}", link[i], {"link.listen": f"127.0.0.1:{link[i]}"})
                         for i in range(1, 1 + backends)]
        self.proxies = [Node(self, "proxy", f"p{i}", port,
                             {"directors": asked[0], "link.ports": ",".join(str(p + 1) for p in link[1:]),
                              "imap.listen": f"127.0.0.1:{port}",
                              "lmtp.listen": f"127.0.0.1:{port + 2}"})
                        for i, port in enumerate(clients, 1)]
        self.nodes = [self.director] + self.backends + self.proxies
        self.cert = self.key = None
        if examples:
            self.cert, self.key = peers.make_certificate(directory)
        for proxy in self.proxies:
            proxy.imap, proxy.imaps, proxy.lmtp, proxy.cert = proxy.port, proxy.port + 1, proxy.port + 2, self.cert
            if examples:
                proxy.settings |= {"imaps.listen": f"127.0.0.1:{proxy.imaps}", "tls.cert": self.cert, "tls.key": self.key}
        for node, port in zip(self.nodes, admin):
            node.admin = port
            if examples:
                node.settings["admin.listen"] = f"127.0.0.1:{port}"
        self.cutter = cutter.Cutter({n.name: (n.port + 1, n.port) for n in [self.director] + self.backends})

    def certificate_of(self, name, role):
        """(certificate, key, authority)"""
        folder = os.path.join(self.directory, "certificates")
        mail.run([mail.BINARY, "ctl", "cluster", "init", "--certificates", folder, "--nodes", f"{name}:{role}"])
        return tuple(os.path.join(folder, name, f) for f in ("cluster.pem", "cluster.key", "ca.pem"))

    def certificate(self, node):
        keys = ("cluster.cert", "cluster.key", "cluster.ca")
        return dict(zip(keys, self.certificate_of(node.name, node.role))) if self.tls else {}

    def start(self):
        for node in self.nodes:
            node.start()
        self.director.ready()
        self.deal()
        for node in self.nodes:
            node.ready()
        for proxy in self.proxies:
            eventually(lambda: mail.imap(proxy, "u0").logout())

    def deal(self):
        """Nothing is anywhere before the operator's word, which is given once."""
        assert self.director.ctl("why", "u0").keys() == {"user", "disabled", "sessions"}
        for node in self.proxies:
            eventually(lambda: node.lacks("no partitions: cluster init is due"))
        dealt = self.director.ctl("cluster", "init")
        assert dealt == {"dealt": True, "backends": len(self.backends)}, dealt
        assert "already" in self.director.ctl("cluster", "init", status=76)
        eventually(lambda: self.backends[0].ctl("cluster", "init", status=76))  # It is no director.
        assert self.home("u0") in self.backends
        eventually(lambda: self.up(len(self.backends)))
        for node in self.proxies:
            eventually(lambda: node.lacks(None))

    def up(self, count):
        """Does the director say of so many backends that they are there?"""
        status = self.director.ctl("status")
        assert (status["backends"], status["backends_up"]) == (len(self.backends), count), status

    def home(self, user):
        name = self.director.ctl("why", user)["node"]
        return next(b for b in self.backends if b.name == name)

    def stop(self, expected=()):
        for node in reversed(self.nodes):
            assert node.stop() == 0, f"{node.name}:\n{mail.log_tail(node)}"
            for word in {"Sanitizer", "runtime error", "ASSERT", "ticket refused", " error "} - set(expected):
                text = mail.without_kills(mail.log_tail(node, 1 << 22))
                assert word not in text, f"{word!r} in the log of {node.name}:\n{text[text.index(word) - 500:][:2000]}"

    def __enter__(self):
        return self

    def __exit__(self, error, *_):
        if error is not None:
            for node in filter(lambda n: n.process is not None, self.nodes):
                print(f"---- {node.name} {node.role}\n{mail.log_tail(node, 2500)}")
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.kill()
        if self.cutter is not None:
            self.cutter.stop()


@contextlib.contextmanager
def served(scratch, users):
    """As mail.trireme(), by a proxy of a cluster: two of them, a director and three backends from the files under deploy/cluster."""
    with Cluster(os.path.join(scratch, "cluster"), users, proxies=2, backends=3, examples=True) as nodes:
        nodes.start()
        yield nodes.proxies[0]
        nodes.stop()


def each_served(users, flow):
    """flow(scratch, server) with one process, and with a cluster. Where sessions are to sleep all the time, they did."""
    for door in (mail.trireme, served):
        with mail.scratch_directory() as scratch, door(scratch, users) as server:
            flow(scratch, server)
            if os.environ.get("TRIREME_DEBUG_SLEEP_AFTER", "idle") != "idle":
                assert metrics.wakes(server) >= WAKES_MIN, "the sessions did not sleep"
                print(f"sessions were woken {metrics.wakes(server)} times")
