"""What the metrics of a server say."""
import collections
import re
import urllib.request


def metrics(server):
    """{name: value}. One with labels is there with them, `shard` excepted, and its sum under its name alone."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.admin}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found = collections.Counter()
    for name, labels, value in re.findall(r"^(\w+)({[^}]*})? (\S+)$", text, re.M):
        found[name] += float(value)
        if labels not in ("", "{}") and not re.fullmatch(r'{shard="\d+"}', labels):
            found[name + labels] += float(value)
    return found


def metric(server, name, **labels):
    found = metrics(server)
    wanted = "trireme_" + name + ("{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "}" if labels else "")
    assert wanted in found, wanted
    return int(found[wanted])


def asleep(server):
    return metric(server, "session_states", state="asleep")


def wakes(server, reason="bytes"):
    return metric(server, "session_wakes_total", reason=reason)
