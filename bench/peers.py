"""Servers to measure and to compare with: Trireme as one process and as three, and what stands beside it in Debian: Dovecot
2.3 alone and as proxy, director and backend, nginx's mail proxy, HAProxy.

Each is started with a directory of its own under a scratch directory, listens on 127.0.0.1 only, and is ended by its
process id. All know the users u0 to uN-1 with the password 'pass', stored as {PLAIN}, and keep their login caches on.
"""
import json
import os
import shutil
import signal
import socket
import subprocess
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def make_certificate(directory):
    """A self-signed ECDSA P-256 certificate."""
    cert, key = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                    "-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
                    "-keyout", key, "-out", cert],
                   check=True, stderr=subprocess.DEVNULL)
    return cert, key


def openssl(directory, *arguments):
    subprocess.run(["openssl", *arguments], cwd=directory, check=True, stderr=subprocess.DEVNULL)


def make_authority(directory):
    """Signs the certificates of a cluster's nodes."""
    openssl(directory, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
            "-subj", "/CN=cluster", "-keyout", "ca.key", "-out", "ca.pem")


def make_node_certificate(directory, name, role):
    """(certificate, key, authority)"""
    openssl(directory, "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj",
            f"/OU={role}/CN={name}", "-keyout", name + ".key", "-out", name + ".csr")
    openssl(directory, "x509", "-req", "-in", name + ".csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", "30",
            "-CAcreateserial", "-out", name + ".pem")
    return tuple(os.path.join(directory, f) for f in (name + ".pem", name + ".key", "ca.pem"))


def child_of(pid):
    """Of a supervisor. 0: it has none yet, or no more."""
    with open(f"/proc/{pid}/task/{pid}/children") as f:
        children = f.read().split()
    return int(children[0]) if children else 0


def ended(pid):
    """Nobody may have waited for it."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def kill_in_turn(server):
    child = child_of(server.process.pid)
    server.kills = getattr(server, "kills", 0) + 1
    if server.kills % 2 or child == 0:
        server.process.kill()
    else:
        os.kill(child, signal.SIGKILL)
    server.process.wait()
    end = time.time() + 10
    while child != 0 and not ended(child):
        if time.time() > end:
            raise RuntimeError(f"the server {child} outlives its supervisor")
        time.sleep(0.005)


def wait_ready(server, before, seconds=30):
    """Until it says so, behind `before` in its log: one shard may answer before the others serve."""
    path, end = os.path.join(server.directory, "log"), time.monotonic() + seconds
    while time.monotonic() < end:
        with open(path, "rb") as f:
            f.seek(before)
            if b"trireme: ready\n" in f.read():
                return
        if server.process.poll() is not None:
            raise RuntimeError(f"ended with status {server.process.returncode} before it was ready: {said(path, before)}")
        time.sleep(0.02)
    raise RuntimeError(f"not ready in time: {said(path, before)}")


def said(path, before):
    """The end of what a server has logged since."""
    with open(path, "rb") as f:
        f.seek(before)
        return f.read()[-2000:].decode(errors="replace")


def wait_port(port, process, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        if process is not None and process.poll() is not None:
            raise RuntimeError(f"the server ended with status {process.returncode}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"nothing listens on port {port}")


def wait_login(server, user="u0", seconds=60):
    """A listener may be there before the passwords are."""
    end = time.time() + seconds
    while True:
        try:
            with socket.create_connection(("127.0.0.1", server.imap), 5) as s:
                s.sendall(b"a LOGIN %s pass\r\nb SELECT INBOX\r\n" % user.encode())
                text = b""
                while not (text.count(b"\r\nb ") and text.endswith(b"\r\n")):
                    text += s.recv(4096) or b"\r\nb NO\r\n"
                if b"\r\nb OK" in text:
                    return
        except OSError:
            pass
        if time.time() > end:
            raise RuntimeError(f"nobody can log in to {server.name}")
        time.sleep(0.2)


class Server:
    name = ""
    pid = 0

    def __init__(self, directory, users, port_base, scheme_password="{PLAIN}pass"):
        self.directory = os.path.join(directory, self.name)
        self.imap, self.imaps, self.lmtp = port_base, port_base + 1, port_base + 2
        self.users, self.scheme_password = users, scheme_password
        os.makedirs(self.directory, exist_ok=True)
        os.chmod(self.directory, 0o755)
        self.cert, self.key = make_certificate(self.directory)

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as f:
            f.write(text)
        return path

    def passwd(self):
        return self.write("passwd", "".join(f"u{i}:{self.scheme_password}::::::\n" for i in range(self.users)))

    def layers(self):
        """Process by layer; each with all its descendants."""
        return {"server": self.pid}

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)


class Trireme(Server):
    name = "trireme"

    def __init__(self, *args, binary=None, extra=(), address="127.0.0.1", **kwargs):
        super().__init__(*args, **kwargs)
        self.binary = binary or os.path.join(ROOT, "build", "trireme")
        self.extra, self.address, self.admin = list(extra), address, self.lmtp + 1

    def config(self):
        return self.write("trireme.yaml", f"""\
data: {self.directory}/data
cores.shared: true
imap.listen: {self.address}:{self.imap}
imaps.listen: {self.address}:{self.imaps}
lmtp.listen: 127.0.0.1:{self.lmtp}
admin.listen: 127.0.0.1:{self.admin}
tls:
  cert: {self.cert}
  key: {self.key}
auth.passwd_file: {self.passwd()}
log.level: warn
""")

    def start(self):
        os.makedirs(os.path.join(self.directory, "data"), exist_ok=True)
        self.log = open(os.path.join(self.directory, "log"), "ab")
        command = [self.binary, "--role=all", "--config", self.config()]
        for item in self.extra:
            command += ["--set", item]
        before = self.log.tell()  # Not later: it is the server's place in the file, too, and moves on with each line.
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.pid = self.process.pid
        try:
            wait_ready(self, before)
        except RuntimeError:
            self.process.kill()
            raise
        return self

    def serving(self):
        """The process that serves; `process` is its supervisor, which the signals go to."""
        return child_of(self.pid)

    def kill(self):
        """In turn the supervisor, with whom the server ends, and the server."""
        kill_in_turn(self)

    def stop(self, seconds=45):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            status = self.process.wait()
        self.log.close()
        return status


class TriremeOne(Trireme):
    """With a single shard, as each process of TriremeCluster."""
    name = "trireme1"

    def __init__(self, *args, extra=(), **kwargs):
        super().__init__(*args, extra=[*extra, "cores=1"], **kwargs)


class Dovecot(Server):
    """Tuned as its own performance documents say: login processes in high-performance mode, imap processes reused,
    sdbox; mail_fsync=always for deliveries, since an acknowledged message must be on the disk."""
    name = "dovecot"
    extra = ""
    login_executable = ""

    def config(self):
        return self.write("dovecot.conf", f"""\
{self.base()}
mail_location = sdbox:{self.directory}/mail/%n
mail_fsync = optimized
passdb {{
  driver = passwd-file
  args = username_format=%n {self.passwd()}
}}
userdb {{
  driver = static
  args = uid=mail gid=mail home={self.directory}/mail/%n
}}
namespace inbox {{
  inbox = yes
  separator = /
  mailbox Drafts {{
    special_use = \\Drafts
  }}
  mailbox Trash {{
    special_use = \\Trash
  }}
}}
protocol lmtp {{
  mail_fsync = always
}}
service imap {{
  service_count = 1000
  process_min_avail = 2
  process_limit = 5000
}}
{self.extra}
""")

    def base(self):
        """What each of Dovecot's layers needs: listeners, TLS, and processes that hold many connections."""
        return f"""\
base_dir = {self.directory}/run
state_dir = {self.directory}/state
log_path = {self.directory}/log
listen = 127.0.0.1
protocols = imap lmtp
ssl = yes
ssl_cert = <{self.cert}
ssl_key = <{self.key}
ssl_min_protocol = TLSv1.2
disable_plaintext_auth = no
auth_username_format = %n
auth_cache_size = 100M
auth_mechanisms = plain login
first_valid_uid = 1
mail_max_userip_connections = 0
default_client_limit = 20000
default_process_limit = 5000
default_vsz_limit = 0
service imap-login {{
  {self.login_executable}
  service_count = 0
  process_min_avail = 2
  client_limit = 20000
  inet_listener imap {{
    port = {self.imap}
  }}
  inet_listener imaps {{
    port = {self.imaps}
    ssl = yes
  }}
}}
service lmtp {{
  process_min_avail = 2
  service_count = 1000
  inet_listener lmtp {{
    port = {self.lmtp}
  }}
}}
service stats {{
  client_limit = 20000
}}
service anvil {{
  client_limit = 20000
}}
"""

    def start(self):
        os.makedirs(f"{self.directory}/mail", exist_ok=True)
        shutil.chown(f"{self.directory}/mail", "mail", "mail")
        self.process = subprocess.Popen(["dovecot", "-F", "-c", self.config()])
        self.pid = self.process.pid
        wait_port(self.imap, self.process)
        wait_port(self.lmtp, self.process)
        return self

    def stop(self):
        self.process.terminate()
        self.process.wait(30)
        return self.process.returncode


class DovecotHibernating(Dovecot):
    """Idle sessions leave their processes soon."""
    extra = """\
imap_hibernate_timeout = 2s
service imap {
  service_count = 1000
  process_min_avail = 2
  process_limit = 5000
  extra_groups = $default_internal_group
  unix_listener imap-master {
    user = $default_internal_user
  }
}
service imap-hibernate {
  client_limit = 20000
}
"""


class DovecotProxy(Dovecot):
    """A Dovecot without mail: it takes any password and passes the login on to `behind`, who checks it."""
    name = "dovecot-proxy"
    extra_fields = "host=127.0.0.1"

    def __init__(self, *args, behind=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.behind = behind

    def config(self):
        return self.write("dovecot.conf", f"""\
{self.base()}
lmtp_proxy = yes
passdb {{
  driver = static
  args = nopassword=y proxy=y {self.extra_fields} port=%{{if;%s;eq;lmtp;{self.behind.lmtp};{self.behind.imap}}}
}}
protocol lmtp {{
  {self.lmtp_socket}
}}
{self.extra}
""")

    lmtp_socket = ""


class DovecotDirector(DovecotProxy):
    """A director, whose ring is itself and whose one backend is `behind`."""
    name = "dovecot-director"
    extra_fields = ""
    login_executable = "executable = imap-login director"
    lmtp_socket = "auth_socket_path = director-userdb"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.extra = f"""\
director_servers = 127.0.0.1:{self.lmtp + 1}
director_mail_servers = 127.0.0.1
service director {{
  unix_listener login/director {{
    mode = 0666
  }}
  fifo_listener login/proxy-notify {{
    mode = 0666
  }}
  unix_listener director-userdb {{
    mode = 0600
  }}
  inet_listener {{
    address = 127.0.0.1
    port = {self.lmtp + 1}
  }}
}}
"""


class Fronts:
    """What stands in front of a backend that others started and will stop. Its ports are those of the first layer."""
    name = ""

    def __init__(self, backend, parts):
        self.backend, self.parts = backend, parts
        first = next(iter(parts.values()))
        self.imap, self.imaps, self.lmtp = first.imap, first.imaps, first.lmtp
        self.pid = 0

    def start(self):
        for part in reversed(self.parts.values()):
            part.start()
        self.pid = next(iter(self.parts.values())).pid
        return self

    def layers(self):
        return {**{layer: part.pid for layer, part in self.parts.items()}, "backend": self.backend.pid}

    def stop(self):
        end(self.parts.values())


class DovecotCluster(Fronts):
    """Dovecot's proxy and director in front of a Dovecot."""
    name = "dovecot3"

    def __init__(self, directory, users, port_base, backend):
        director = DovecotDirector(directory, users, port_base + 10, behind=backend)
        super().__init__(backend, {"proxy": DovecotProxy(directory, users, port_base, behind=director), "director": director})


class Front(Server):
    """Stands before a backend, `behind`; command() runs it."""

    def __init__(self, *args, behind=None, **kwargs):
        super().__init__(*args, **kwargs)
        self.behind = behind

    def start(self):
        self.process = subprocess.Popen(self.command(), stderr=subprocess.DEVNULL)
        self.pid = self.process.pid
        wait_port(self.imap, self.process)
        return self

    def stop(self):
        self.process.terminate()
        return self.process.wait(30)


class NginxMail(Front):
    """nginx's mail proxy, which asks itself over HTTP where to go. It has no LMTP."""
    name = "nginx-mail"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.lmtp = None

    def config(self):
        auth = self.imap + 3
        return self.write("nginx.conf", f"""\
load_module /usr/lib/nginx/modules/ngx_mail_module.so;
daemon off;
worker_processes 2;
worker_rlimit_nofile 20000;
pid {self.directory}/pid;
error_log {self.directory}/log;
events {{
  worker_connections 19000;
}}
mail {{
  auth_http 127.0.0.1:{auth}/auth;
  imap_auth plain login;
  imap_capabilities IMAP4rev1 SASL-IR LITERAL+;
  ssl_certificate {self.cert};
  ssl_certificate_key {self.key};
  ssl_protocols TLSv1.2 TLSv1.3;
  ssl_session_cache shared:mail:10m;
  server {{
    listen 127.0.0.1:{self.imap};
    protocol imap;
  }}
  server {{
    listen 127.0.0.1:{self.imaps} ssl;
    protocol imap;
  }}
}}
http {{
  access_log off;
  keepalive_timeout 0;
  server {{
    listen 127.0.0.1:{auth};
    location = /auth {{
      add_header Auth-Status OK;
      add_header Auth-Server 127.0.0.1;
      add_header Auth-Port {self.behind.imap};
      return 200 "";
    }}
  }}
}}
""")

    def command(self):
        return ["nginx", "-p", self.directory, "-c", self.config()]


class Nginx(Fronts):
    name = "nginx"

    def __init__(self, directory, users, port_base, backend):
        super().__init__(backend, {"proxy": NginxMail(directory, users, port_base, behind=backend)})


class HaproxyTcp(Front):
    """HAProxy passes bytes, and ends TLS; it does not look into them."""
    name = "haproxy-tcp"

    def config(self):
        with open(self.cert) as cert, open(self.key) as key:
            pem = self.write("both.pem", cert.read() + key.read())
        return self.write("haproxy.cfg", f"""\
global
  maxconn 9900
  nbthread 2
defaults
  mode tcp
  timeout connect 10s
  timeout client 1h
  timeout server 1h
listen imap
  bind 127.0.0.1:{self.imap}
  server backend 127.0.0.1:{self.behind.imap}
listen imaps
  bind 127.0.0.1:{self.imaps} ssl crt {pem}
  server backend 127.0.0.1:{self.behind.imap}
listen lmtp
  bind 127.0.0.1:{self.lmtp}
  server backend 127.0.0.1:{self.behind.lmtp}
""")

    def command(self):
        return ["haproxy", "-db", "-q", "-f", self.config()]


class Haproxy(Fronts):
    name = "haproxy"

    def __init__(self, directory, users, port_base, backend):
        super().__init__(backend, {"proxy": HaproxyTcp(directory, users, port_base, behind=backend)})


class BareRelay(Front):
    """A program of ours that passes bytes, and nothing else: what a hop more costs at least. Plain IMAP."""
    name = "bare-relay"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.lmtp = self.imaps = None

    def command(self):
        return [os.path.join(os.path.dirname(self.behind.binary), "trireme-bench"), "relay", "--host", "127.0.0.1", "--port", str(self.imap),
                "--port2", str(self.behind.imap), "--seconds", "3600"]


class Relay(Fronts):
    """A bare relay in front of one Trireme process: the least that two processes can cost."""
    name = "relay"

    def __init__(self, directory, users, port_base, backend):
        super().__init__(backend, {"proxy": BareRelay(directory, users, port_base, behind=backend)})


class TriremeCluster(Server):
    """One proxy, one director, one backend: deploy/cluster on one machine, a shard each, since a CPU belongs to one process.
    Links are plain, as they may be on loopback and as those of the peers are; link_tls makes them mutual TLS."""
    name = "trireme3"

    def __init__(self, *args, binary=None, extra=(), link_tls=False, cores="1", proxies=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.proxies, self.imaps2, self.admin = proxies, self.lmtp + 4, self.lmtp + 5
        self.binary = binary or os.path.join(ROOT, "build", "trireme")
        self.extra, self.link_tls, self.cores, self.processes = list(extra), link_tls, cores, {}

    def settings(self):
        director, backend = (f"127.0.0.1:{self.lmtp + i}" for i in (1, 2))
        tls = {"directors": director, "link.ports": backend.rpartition(":")[2], "tls.cert": self.cert, "tls.key": self.key}
        found = {"backend": {"link.listen": backend},
                 "director": {"link.listen": director, "backends": backend, "auth.passwd_file": self.passwd(),
                              "admin.listen": f"127.0.0.1:{self.admin}"},
                 "proxy": {"imap.listen": f"127.0.0.1:{self.imap}", "imaps.listen": f"127.0.0.1:{self.imaps}",
                           "lmtp.listen": f"127.0.0.1:{self.lmtp}", **tls}}
        if self.proxies > 1:
            found["proxy2"] = {"imaps.listen": f"127.0.0.1:{self.imaps2}", **tls}
        return found

    def start(self):
        self.log = open(os.path.join(self.directory, "log"), "ab")
        if self.link_tls:
            make_authority(self.directory)
        for role, settings in self.settings().items():
            data = os.path.join(self.directory, role)
            os.makedirs(data, exist_ok=True)
            settings |= {"node": role + "1", "data": data, "cores": self.cores, "cores.shared": "true", "log.level": "warn"}
            if self.link_tls:
                certificate = make_node_certificate(self.directory, role + "1", role.rstrip("2"))
                settings |= dict(zip(("cluster.cert", "cluster.key", "cluster.ca"), certificate))
            command = [self.binary, "--role=" + role.rstrip("2")]
            for item in [f"{key}={value}" for key, value in settings.items()] + self.extra:
                command += ["--set", item]
            self.processes[role] = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.pid = self.processes["proxy"].pid
        self.deal()
        return self

    def deal(self):
        """The operator's word, once the director has heard of the backend."""
        socket_path = os.path.join(self.directory, "director", "ctl.sock")
        self.until(lambda: json.loads(subprocess.run(
            [self.binary, "ctl", "--socket", socket_path, "cluster", "init", "--json"],
            check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout)["dealt"])

    def until(self, try_it, seconds=30):
        end_time = time.time() + seconds
        while True:
            try:
                if try_it():
                    return
            except (OSError, ValueError, subprocess.SubprocessError):
                pass
            if time.time() > end_time or any(p.poll() is not None for p in self.processes.values()):
                self.stop()
                raise RuntimeError(f"the cluster did not come up: see {self.directory}/log")
            time.sleep(0.1)

    def layers(self):
        order = ("proxy", "proxy2", "director", "backend")
        return {role: self.processes[role].pid for role in order if role in self.processes}

    def stop(self, seconds=45):
        for role in ("proxy", "proxy2", "director", "backend"):
            process = self.processes.get(role)
            if process is None:
                continue
            process.terminate()
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.log.close()


def end(servers):
    for server in servers:
        try:
            if server.pid:
                server.stop()
        except (OSError, subprocess.SubprocessError):
            pass
