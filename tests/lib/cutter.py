"""Stands between nodes and cuts their links: each port that it listens on is passed on to one target, both ways, and either way can be held
back as a network would that loses one direction. A process of its own; `Cutter` talks to it.

    python3 cutter.py NAME:PORT:TARGET...      commands on standard input: hold NAME in|out, go NAME, reset NAME
"""
import os
import selectors
import socket
import subprocess
import sys

PIECE = 65536


class Cutter:
    def __init__(self, routes):
        """routes: {name: (port, target port)}"""
        self.process = subprocess.Popen([sys.executable, os.path.abspath(__file__),
                                         *(f"{n}:{p}:{t}" for n, (p, t) in routes.items())],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        assert line == "ok\n", f"the cutter says {line!r}"

    def command(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        self.answer()

    def hold(self, name, way):
        self.command(f"hold {name} {way}")

    def go(self, name):
        self.command(f"go {name}")

    def reset(self, name):
        self.command(f"reset {name}")

    def stop(self):
        self.process.stdin.close()
        self.process.wait(10)


class Way:
    """One direction of a connection."""

    def __init__(self, pair, source, target, held):
        self.pair, self.source, self.target, self.held = pair, source, target, held
        self.waiting, self.ended = b"", False


class Pair:
    """A connection and the one that it is passed on to."""

    def __init__(self, route, client, server):
        self.route, self.sockets = route, (client, server)
        self.ways = {"in": Way(self, client, server, route.held["in"]), "out": Way(self, server, client, route.held["out"])}


class Route:
    def __init__(self, name, port, target):
        self.name, self.target, self.pairs = name, target, set()
        self.held = {"in": False, "out": False}
        self.listener = socket.create_server(("127.0.0.1", port), backlog=256)
        self.listener.setblocking(False)


class Relay:
    def __init__(self, routes):
        self.selector = selectors.DefaultSelector()
        self.routes = {r.name: r for r in routes}
        for route in routes:
            self.selector.register(route.listener, selectors.EVENT_READ, route)
        self.selector.register(sys.stdin, selectors.EVENT_READ, None)

    def watch(self, pair):
        """What each socket is waited for: readable when its way is free, writable when something waits for it."""
        for i, sock in enumerate(pair.sockets):
            mine, other = pair.ways["in" if i == 0 else "out"], pair.ways["out" if i == 0 else "in"]
            events = selectors.EVENT_READ if not (mine.held or mine.waiting or mine.ended) else 0
            events |= selectors.EVENT_WRITE if other.waiting and not other.held else 0
            known = self.selector.get_map().get(sock.fileno())
            if known is None and events:
                self.selector.register(sock, events, pair)
            elif known is not None and not events:
                self.selector.unregister(sock)
            elif known is not None:
                self.selector.modify(sock, events, pair)

    def close(self, pair, reset=False):
        for sock in pair.sockets:
            if self.selector.get_map().get(sock.fileno()) is not None:
                self.selector.unregister(sock)
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            sock.close()
        pair.route.pairs.discard(pair)

    def accept(self, route):
        client, _ = route.listener.accept()
        server = socket.socket()
        try:
            server.connect(("127.0.0.1", route.target))
        except OSError:  # Nobody listens: neither does this.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            client.close()
            server.close()
            return
        for sock in (client, server):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        pair = Pair(route, client, server)
        route.pairs.add(pair)
        self.watch(pair)

    def move(self, way):
        if way.held or way.ended:
            return
        if not way.waiting:
            try:
                way.waiting = way.source.recv(PIECE)
            except BlockingIOError:
                return
            if not way.waiting:
                way.ended = True
                way.target.shutdown(socket.SHUT_WR)
                return
        try:
            way.waiting = way.waiting[way.target.send(way.waiting):]
        except BlockingIOError:
            pass

    def step(self, pair):
        try:
            for way in pair.ways.values():
                self.move(way)
        except OSError:
            self.close(pair, reset=True)
            return
        if all(way.ended for way in pair.ways.values()):
            self.close(pair)
        else:
            self.watch(pair)

    def command(self, verb, name, way=None):
        route = self.routes[name]
        if verb == "reset":
            for pair in list(route.pairs):
                self.close(pair, reset=True)
            return
        for side in ("in", "out"):
            route.held[side] = verb == "hold" and (route.held[side] or side == way)
            for pair in route.pairs:
                pair.ways[side].held = route.held[side]
        for pair in list(route.pairs):
            self.step(pair)

    def run(self):
        print("ok", flush=True)
        while True:
            for key, _ in self.selector.select():
                if key.data is None:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    self.command(*line.split())
                    print("ok", flush=True)
                elif isinstance(key.data, Route):
                    self.accept(key.data)
                elif key.data in key.data.route.pairs:
                    self.step(key.data)


if __name__ == "__main__":
    parts = [a.split(":") for a in sys.argv[1:]]
    Relay([Route(name, int(port), int(target)) for name, port, target in parts]).run()
