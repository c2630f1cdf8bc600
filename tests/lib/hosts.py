"""Machines to install on: each a mount and a network namespace with an address of its own, on a bridge that leads nowhere else.
Root only. What a machine writes below /etc, /usr/local/bin, /var/lib and /root is its own, and gone with it.

systemctl there is a stand-in that knows enable --now, daemon-reload and reload. It starts ExecStartPre and ExecStart as
they are written in /etc/systemd/system, as nobody but the unit's user, with no rights but the unit's, and waits for READY=1."""
import contextlib
import os
import signal
import subprocess
import time

import mail

NEEDED = ("unshare", "nsenter", "setpriv", "ip", "chroot")

SETUP = r"""
set -e
ip link set lo up
mount -t tmpfs trireme "$OVER"
for d in /etc /usr/local/bin /var/lib /root; do
    mkdir -p "$OVER/over$d" "$OVER/work$d"
    mount -t overlay trireme -o "lowerdir=$d,upperdir=$OVER/over$d,workdir=$OVER/work$d" $d
done
mkdir -p /etc/systemd/system
"""

POD_SETUP = r"""
set -e
ip link set lo up
mount --bind "$ROOT" "$OVER"
mount -o remount,bind,ro "$OVER"
for d in proc sys dev; do mount --rbind /$d "$OVER/$d"; done
while read -r from to mode; do
    mount --bind "$from" "$OVER$to"
    mount -o "remount,bind,$mode" "$OVER$to"
done <"$VOLUMES"
"""

SYSTEMCTL = r'''#!/usr/bin/env python3
import glob, grp, os, pwd, re, shlex, socket, subprocess, sys, time

RUN = os.environ["SYSTEMCTL_RUN"]

def unit(name):
    """{key: [values]}; an empty value forgets those before it."""
    template = re.sub("@.*[.]", "@.", name)
    keys = {}
    for path in ["/etc/systemd/system/" + template, *sorted(glob.glob(f"/etc/systemd/system/{name}.d/*.conf"))]:
        for line in open(path):
            if match := re.match(r"([A-Za-z]+)=(.*)$", line):
                key, value = match.group(1), match.group(2).replace("%i", name.partition("@")[2].partition(".")[0])
                keys[key] = keys.get(key, []) + [value] if value else []
    return keys

def one(keys, key):
    return keys.get(key, [""])[-1]

def start(name, block):
    keys = unit(name)
    user, group = pwd.getpwnam(one(keys, "User")), grp.getgrnam(one(keys, "Group"))
    state = "/var/lib/" + one(keys, "StateDirectory")
    os.makedirs(state, exist_ok=True)
    os.chown(state, user.pw_uid, group.gr_gid)
    os.chmod(state, int(one(keys, "StateDirectoryMode"), 8))
    rights = "".join(",+" + c.lower().removeprefix("cap_") for c in " ".join(keys.get("AmbientCapabilities", [])).split())
    path = f"{RUN}/{name}.notify"
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(path)
    os.chmod(path, 0o666)
    me = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={group.gr_gid}", "--clear-groups", "--no-new-privs",
          f"--inh-caps=-all{rights}", f"--ambient-caps=-all{rights}", f"--bounding-set=-all{rights}"]
    env = {"PATH": os.environ["PATH"], "TRIREME_CORES_SHARED": "true"}
    for line in keys.get("ExecStartPre", []):
        subprocess.run(me + shlex.split(line), check=True, env=env)
    keep(name, me + shlex.split(one(keys, "ExecStart")), env | {"NOTIFY_SOCKET": path})
    notify.settimeout(0.2)
    end = time.time() + 60
    while block and time.time() < end:
        assert not os.path.exists(f"{RUN}/{name}.status"), f"{name} ended:\n" + open(f"{RUN}/{name}.log").read()
        try:
            if b"READY=1" in notify.recv(4096):
                return
        except TimeoutError:
            pass
    assert not block, f"{name} is not ready:\n" + open(f"{RUN}/{name}.log").read()

def keep(name, command, env):
    """Its process id and, in the end, its exit status are in files."""
    if os.fork() > 0:
        return
    os.setsid()
    log = os.open(f"{RUN}/{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    null = os.open("/dev/null", os.O_RDONLY)
    for fd, to in ((null, 0), (log, 1), (log, 2)):
        os.dup2(fd, to)
    process = subprocess.Popen(command, env=env, cwd="/")
    open(f"{RUN}/{name}.pid", "w").write(str(process.pid))
    status = process.wait()
    open(f"{RUN}/{name}.status", "w").write(str(status))
    os._exit(0)

def main(words):
    flags = {w for w in words if w.startswith("--")}
    words = [w for w in words if not w.startswith("--")]
    for name in [w if "." in w else w + ".service" for w in words[1:]]:
        if words[0] == "enable" and "--now" in flags:
            start(name, "--no-block" not in flags)
        elif words[0] == "reload":
            pid = open(f"{RUN}/{name}.pid").read()
            subprocess.run(one(unit(name), "ExecReload").replace("$MAINPID", pid), shell=True, check=True)
        else:
            sys.exit(f"systemctl: {words[0]} is not known here")
    assert words[0] != "daemon-reload" or glob.glob("/etc/systemd/system/trireme*.service")

main(sys.argv[1:])
'''


SCP = r"""#!/bin/sh
set -e
for last; do :; done
enter="nsenter --mount --target $(cat "$HOSTS/pid-${last%%:*}")"
$enter mkdir -p "/root/${last#*:}"
while [ $# -gt 1 ]; do
    [ "$1" = -r ] || tar -C "$(dirname "$1")" -c "$(basename "$1")" | $enter tar -C "/root/${last#*:}" -x
    shift
done
"""


def need():
    if os.geteuid() != 0:
        mail.skip("namespaces: not root")
    mail.need(*NEEDED)


class Host:
    """A machine; with `root` a pod: that directory, which it cannot write to, and `volumes`, (from, to, rw or ro), are all that
    it sees of files."""

    def __init__(self, network, name, addresses, root=None, volumes=()):
        self.network, self.name, self.root, self.addresses = network, name, root, addresses
        self.over = os.path.join(network.scratch, "host-" + name)
        self.run_directory = os.path.join(network.scratch, "run-" + name)
        for path in (self.over, self.run_directory):
            os.makedirs(path)
        table = os.path.join(self.run_directory, "volumes")
        with open(table, "w") as f:
            f.writelines(" ".join(v) + "\n" for v in volumes)
        env = {"PATH": os.environ["PATH"], "OVER": self.over, "ROOT": root or "", "VOLUMES": table}
        self.holder = network.hold((POD_SETUP if root else SETUP), env)
        network.plug(self.holder.pid, addresses)
        if root is None:
            self.install("/usr/local/bin/systemctl", SYSTEMCTL)
            self.install("/usr/local/bin/scp", SCP)
            with open(os.path.join(network.scratch, "pid-" + addresses[0]), "w") as f:
                f.write(str(self.holder.pid))

    def enter(self, user=None):
        """Before a command; as `user` within the pod."""
        command = ["nsenter", "-t", str(self.holder.pid), "--mount", "--net", "--wd=" + (mail.ROOT if self.root is None else "/")]
        if user is not None:
            command += ["setpriv", "--no-new-privs", "chroot", f"--userspec={user}:{user}", f"--groups={user}", self.over]
        return command

    def install(self, path, text):
        subprocess.run(self.enter() + ["sh", "-c", f"cat >{path} && chmod 755 {path}"], input=text, text=True, check=True)

    def shell(self, script, **more):
        env = {"PATH": "/usr/local/bin:" + os.environ["PATH"], "HOME": "/root", "SYSTEMCTL_RUN": self.run_directory,
               "HOSTS": self.network.scratch}
        done = subprocess.run(self.enter() + ["sh", "-e", "-c", script], capture_output=True, text=True, timeout=120,
                              env=env, **more)
        assert done.returncode == 0, f"on {self.name}: {script}\n{done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def python(self, program, *arguments):
        """Mail in and out, from here."""
        done = subprocess.run(self.enter() + ["python3", "-c", program, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, f"on {self.name}: {arguments}\n{done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def logs(self):
        text = ""
        for name in sorted(os.listdir(self.run_directory)):
            if name.endswith(".log"):
                with open(os.path.join(self.run_directory, name), errors="replace") as f:
                    text += f"--- {name}\n{f.read()[-4000:]}"
        return text

    def pids(self):
        """{unit: process id}"""
        found = {}
        for name in os.listdir(self.run_directory):
            if name.endswith(".pid"):
                with open(os.path.join(self.run_directory, name)) as f:
                    found[name.removesuffix(".pid")] = int(f.read())
        return found


    def end(self, name):
        """Ends it gracefully: status 0, and no error in its log."""
        status = os.path.join(self.run_directory, name + ".status")
        os.kill(self.pids()[name], signal.SIGTERM)
        end = time.time() + 60
        while not (os.path.exists(status) and os.path.getsize(status)) and time.time() < end:
            time.sleep(0.02)
        with open(status) as f:
            text, logs = f.read(), self.logs()
        assert text == "0" and " error " not in logs and "ASSERT" not in logs, (name, text, logs)
        os.remove(os.path.join(self.run_directory, name + ".pid"))


class Network:
    def __init__(self, scratch):
        self.scratch, self.holders, self.hosts, self.plugged = scratch, [], [], 0
        self.switch = self.hold("set -e\nip link set lo up\nip link add bridge0 type bridge\nip link set bridge0 up\n",
                                {"PATH": os.environ["PATH"]})

    def hold(self, setup, env):
        """The namespaces live as long as this process."""
        holder = subprocess.Popen(["unshare", "--mount", "--net", "sh", "-c", setup + "\necho up\nexec sleep infinity"],
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        self.holders.append(holder)
        if holder.stdout.readline() != "up\n":
            raise RuntimeError("no namespace: " + holder.stderr.read())
        return holder

    def plug(self, pid, addresses):
        self.plugged += 1
        port = f"port{self.plugged}"
        script = f"ip link add {port} type veth peer name eth0 netns {pid}\nip link set {port} up master bridge0"
        subprocess.run(["nsenter", "-t", str(self.switch.pid), "--net", "sh", "-e", "-c", script], check=True)
        script = "\n".join([f"ip address add {a}/24 dev eth0" for a in addresses] + ["ip link set eth0 up"])
        subprocess.run(["nsenter", "-t", str(pid), "--net", "sh", "-e", "-c", script], check=True)

    def host(self, name, *addresses, **pod):
        self.hosts.append(Host(self, name, addresses, **pod))
        return self.hosts[-1]

    def end(self):
        for host in self.hosts:
            for pid in host.pids().values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
        for holder in self.holders:
            holder.kill()
            holder.wait()


@contextlib.contextmanager
def network(scratch):
    made = Network(scratch)
    try:
        yield made
    finally:
        made.end()


# Delivers by LMTP, reads by IMAP over TLS without asking whose certificate it is: ADDRESS LMTP-PORT IMAPS-PORT USER PASSWORD.
MAIL = r"""
import imaplib, smtplib, ssl, sys, time
address, lmtp, imaps, user, password = sys.argv[1:]
subject = f"Subject: {time.time()}"
smtplib.LMTP(address, int(lmtp)).sendmail("a@example.org", [user], subject + "\r\n\r\nHello\r\n")
client = imaplib.IMAP4_SSL(address, int(imaps), ssl_context=ssl._create_unverified_context(), timeout=30)
client.login(user, password)
count = int(client.select("INBOX")[1][0])
text = client.fetch(str(count), "(BODY.PEEK[])")[1][0][1].decode()
assert subject in text, text
print(count)
"""
