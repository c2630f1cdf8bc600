"""Servers to measure and to compare with: Trireme itself, and Debian's Dovecot 2.3.

Each is started with a directory of its own under a scratch directory, listens on 127.0.0.1 only, and is ended by its
process id. Both know the users u0 to uN-1 with the password 'pass', stored as {PLAIN}, and keep their login caches on.
"""
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

    def remove(self):
        shutil.rmtree(self.directory, ignore_errors=True)


class Trireme(Server):
    name = "trireme"

    def __init__(self, *args, binary=None, extra=(), **kwargs):
        super().__init__(*args, **kwargs)
        self.binary = binary or os.path.join(ROOT, "build", "trireme")
        self.extra = list(extra)

    def config(self):
        return self.write("trireme.yaml", f"""\
data: {self.directory}/data
cores.shared: true
imap.listen: 127.0.0.1:{self.imap}
imaps.listen: 127.0.0.1:{self.imaps}
lmtp.listen: 127.0.0.1:{self.lmtp}
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
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        self.pid = self.process.pid
        wait_port(self.imap, self.process)
        return self

    def kill(self):
        self.process.kill()
        self.process.wait()

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


class Dovecot(Server):
    """Tuned as its own performance documents say: login processes in high-performance mode, imap processes reused,
    sdbox; mail_fsync=always for deliveries, since an acknowledged message must be on the disk."""
    name = "dovecot"
    extra = ""

    def config(self):
        return self.write("dovecot.conf", f"""\
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
mail_location = sdbox:{self.directory}/mail/%n
mail_fsync = optimized
default_client_limit = 20000
default_process_limit = 5000
default_vsz_limit = 0
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
service imap-login {{
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
service imap {{
  service_count = 1000
  process_min_avail = 2
  process_limit = 5000
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
{self.extra}
""")

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


def end(servers):
    for server in servers:
        try:
            if server.pid:
                server.stop()
        except (OSError, subprocess.SubprocessError):
            pass
