"""Servers whose sessions sleep, and what their metrics say of it."""
import contextlib
import os
import re
import time
import urllib.request

import mail


@contextlib.contextmanager
def served(scratch, users, settings=()):
    """As mail.trireme(), with metrics."""
    port = mail.free_port_base()
    with mail.trireme(scratch, users, [f"admin.listen=127.0.0.1:{port}", *settings]) as server:
        server.admin = port
        yield server


def metric(server, name, **labels):
    with urllib.request.urlopen(f"http://127.0.0.1:{server.admin}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    wanted = "trireme_" + name + ("{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else "")
    found = re.search(rf"^{re.escape(wanted)} (\S+)$", text, re.M)
    assert found, wanted
    return int(found[1])


def asleep(server):
    return metric(server, "session_states", state="asleep")


def wakes(server, reason="bytes"):
    return metric(server, "session_wakes_total", reason=reason)


def wait(what, until, seconds=60):
    deadline = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < deadline, what
        time.sleep(0.005)


def eager():
    """Do sessions sleep as often as they can?"""
    return os.environ.get("TRIREME_DEBUG_SLEEP_AFTER", "idle") != "idle"
