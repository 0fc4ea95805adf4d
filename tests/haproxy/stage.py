"""A network of its own with a world, a client, a balancer and three nodes. Ends only what it started."""

import base64
import contextlib
import ctypes
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

HOST = "api.example.com"
WORLD = ("198.51.100.1", "2001:db8:51::1")
BALANCER = ("198.51.100.10", "2001:db8:51::10")
NODES = {name: (f"198.51.100.1{at}", f"2001:db8:51::1{at}") for at, name in enumerate("abc", 1)}
# The first one of each family is the client's own, the others are more of its addresses.
CLIENTS = ("198.51.100.2", "198.51.100.3", "2001:db8:51::2")
TOKEN = "0123456789abcdef" * 4
ADMIN_TOKEN = "fedcba9876543210" * 4
CLONE_NEWNET = 0x40000000


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def within(netns, *words):
    return ["ip", "netns", "exec", netns, *words]


def inside(netns, call):
    """Runs the call on a thread in that network; a socket stays in the network that it was made in."""

    def there():
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{netns}") as file:
            if libc.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {netns}")
        return call()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(there).result()


def wait_for(what, seconds, is_so):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return
        time.sleep(0.02)
    sys.exit(f"{what}: not within {seconds} s")


class Stage:
    """The network, the nodes and what they have written."""

    def __init__(self, work, binary, limit):
        self.work, self.binary, self.limit = work, binary, limit
        self.daemons, self.probes, self.runs = {}, set(), 0
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        os.makedirs("/run/netns")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "name", "switch", "type", "bridge")
        run("ip", "link", "set", "switch", "up")
        clients = ("client", CLIENTS)
        for name, addresses in [("world", WORLD), ("balancer", BALANCER), clients, *NODES.items()]:
            self.join(name, addresses)
        self.make_certificates()
        self.start_world()
        self.make_user()
        for name in NODES:
            self.configure(name)
            self.start(name)

    def join(self, name, addresses):
        run("ip", "netns", "add", name)
        run("ip", "link", "add", "name", f"to-{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", f"to-{name}", "master", "switch", "up")
        run("ip", "-n", name, "link", "set", "lo", "up")
        for address in addresses:
            length, more = ("64", ["nodad"]) if ":" in address else ("24", [])
            run("ip", "-n", name, "address", "add", f"{address}/{length}", "dev", "eth0", *more)
        run("ip", "-n", name, "link", "set", "eth0", "up")

    def make_certificates(self):
        self.authority("ca")
        self.authority("other")
        self.certificate("world", "ca", HOST, f"DNS:{HOST}")
        self.certificate("balancer", "ca", "hop.example.com", "DNS:hop.example.com")
        for name, issuer, common in (("app-1", "ca", "app-1"), ("nobody", "ca", "nobody"), ("revoked", "ca", "app-1"),
                                     ("stranger", "other", "app-1")):
            self.certificate(name, issuer, common, "DNS:client.example.com")
        # What `openssl ca` keeps its books in.
        (self.work / "index.txt").touch()
        (self.work / "crl.cnf").write_text(
            f"[ca]\ndefault_ca = d\n[d]\ndatabase = {self.work}/index.txt\ndefault_md = sha256\ndefault_crl_days = 2\n")
        issuer = ["-config", str(self.work / "crl.cnf"), "-cert", str(self.work / "ca.pem"), "-keyfile", str(self.work / "ca.key")]
        run("openssl", "ca", *issuer, "-revoke", str(self.work / "revoked.pem"))
        run("openssl", "ca", *issuer, "-gencrl", "-out", str(self.work / "crl.pem"))
        both = (self.work / "balancer.pem").read_text() + (self.work / "balancer.key").read_text()
        (self.work / "balancer.both").write_text(both)
        self.trust = ssl.create_default_context(cafile=str(self.work / "ca.pem"))

    def authority(self, name):
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
            "-keyout", str(self.work / f"{name}.key"), "-out", str(self.work / f"{name}.pem"), "-subj", f"/CN=throw-away {name}",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def certificate(self, name, issuer, common, alternative):
        request, extra = self.work / f"{name}.csr", self.work / f"{name}.ext"
        run("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
            str(self.work / f"{name}.key"), "-out", str(request), "-subj", f"/CN={common}")
        extra.write_text(f"subjectAltName={alternative}\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n")
        run("openssl", "x509", "-req", "-in", str(request), "-CA", str(self.work / f"{issuer}.pem"), "-CAkey",
            str(self.work / f"{issuer}.key"), "-CAcreateserial", "-days", "2", "-out", str(self.work / f"{name}.pem"),
            "-extfile", str(extra))

    def start_world(self):
        """An echo with TLS, which answers one HTTP request too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.work / "world.pem", self.work / "world.key")
        listener = inside("world", lambda: socket.create_server((WORLD[0], 443), backlog=256))

        def serve(connection):
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_side=True) as session:
                while piece := session.recv(1024):
                    http = piece.startswith(b"GET ")
                    session.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" if http else piece)

        def accept():
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()

    def make_user(self):
        """A user with a certificate, and with a secret for the listener without TLS."""
        folder = self.work / "users"
        folder.mkdir()
        (folder / "sealway.toml").write_text('[auth]\nusers_file = "users.toml"\n')
        printed = run(self.binary, "user", "add", "alice", "--config", str(folder / "sealway.toml"))
        secret = re.search("http://alice:([^@]+)@", printed)[1]
        self.basic = base64.b64encode(f"alice:{secret}".encode()).decode()
        users = (folder / "users.toml").read_text()
        self.users = users.replace("[users.alice]\n", '[users.alice]\ncertificates = ["cn:app-1"]\n')

    def configure(self, name):
        folder = self.work / name
        folder.mkdir()
        for file, text in (("hop.token", TOKEN), ("admin.token", ADMIN_TOKEN), ("users.toml", self.users)):
            (folder / file).write_text(f"{text}\n")
            (folder / file).chmod(0o600)
        senders = json.dumps(list(BALANCER))
        (folder / "sealway.toml").write_text(
            f'[[listener]]\naddress = "0.0.0.0:9293"\nallow_cleartext = true\nproxy_protocol = {{ from = {senders} }}\n'
            f'[[listener]]\naddress = "[::]:9293"\nallow_cleartext = true\nproxy_protocol = {{ from = {senders} }}\n'
            f'[[listener]]\naddress = "0.0.0.0:9297"\nallow_cleartext = true\n'
            f'proxy_protocol = {{ from = {senders}, identity = true, token_file = "hop.token" }}\n'
            f'[[listener]]\naddress = "0.0.0.0:9299"\nallow_cleartext = true\n'
            f'[admin]\naddress = "0.0.0.0:9294"\ntoken_file = "admin.token"\nclients = ["{BALANCER[0]}", "127.0.0.1"]\n'
            f'[egress]\naddresses = ["{NODES[name][0]}"]\n[policy]\npresets = []\nallow = ["{HOST}"]\n'
            f'allow_destinations = ["{WORLD[0]}"]\n[dns.hosts]\n"{HOST}" = ["{WORLD[0]}"]\n[auth]\nusers_file = "users.toml"\n'
            f'[limits]\ntunnels = {self.limit}\n[audit]\nfile = "audit.jsonl"\n')

    def start(self, name):
        folder = self.work / name
        with open(folder / "sealway.log", "a") as log:
            command = within(name, self.binary, "run", "--config", str(folder / "sealway.toml"))
            self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for(f"{name} is ready", 20, lambda: self.is_ready(name))

    def kill(self, name):
        self.daemons[name].kill()
        self.daemons[name].wait()

    @contextlib.contextmanager
    def haproxy(self, text, family=4):
        """HAProxy with this configuration, until the end of the block. It reaches the nodes over IPv4 or IPv6."""
        self.runs += 1
        file, log = self.work / f"haproxy-{self.runs}.cfg", self.work / f"haproxy-{self.runs}.log"
        file.write_text(text)
        variables = {f"NODE_{name.upper()}": addresses[0] if family == 4 else f"[{addresses[1]}]" for name, addresses in NODES.items()}
        variables |= {"CERTIFICATE": "balancer.both", "CLIENT_CA": "ca.pem", "CLIENT_CRL": "crl.pem", "SEALWAY_TOKEN": TOKEN}
        with open(log, "w") as output:
            process = subprocess.Popen(within("balancer", "haproxy", "-db", "-f", str(file)), cwd=self.work,
                                       env=os.environ | variables, stdout=output, stderr=output)
        try:
            wait_for("HAProxy listens", 20, lambda: all(self.listens(process.pid, port) for port in (9293, 9443)))
            yield
        finally:
            process.kill()
            process.wait()
        self.wait_idle()

    @staticmethod
    def listens(pid, port):
        """Whether a socket listens there. A connection would leave a record."""
        with open(f"/proc/{pid}/net/tcp") as table:
            return any(line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in table)

    # What the nodes say.

    def admin(self, name, path):
        address = ("127.0.0.1", 9294)

        def ask():
            with socket.create_connection(address, timeout=5) as connection:
                connection.sendall(f"GET {path} HTTP/1.0\r\nAuthorization: Bearer {ADMIN_TOKEN}\r\n\r\n".encode())
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
                return answer.decode()

        head, _, body = inside(name, ask).partition("\r\n\r\n")
        return head.split(" ")[1], body

    def is_ready(self, name):
        try:
            return self.admin(name, "/readyz")[0] == "200"
        except OSError:
            return False

    def health_checks(self):
        found = [re.search(r"^sealway_health_checks_total (\d+)", self.admin(name, "/metrics")[1], re.M) for name in NODES]
        return [int(one[1]) for one in found]

    def live(self):
        """The clients of the live tunnels of each node."""
        return {name: [tunnel["client"] for tunnel in json.loads(self.admin(name, "/tunnels")[1])["tunnels"]]
                for name in NODES if self.daemons[name].poll() is None}

    def wait_idle(self):
        wait_for("all tunnels end", 20, lambda: not any(self.live().values()))

    def records(self):
        """How many records there are, for `records_after`."""
        return {name: len((self.work / name / "audit.jsonl").read_text().splitlines()) for name in NODES}

    def records_after(self, before, count, is_meant=lambda record: True):
        """The records that are meant, of connections since then, once there are this many."""

        def now():
            found = []
            for name, skipped in before.items():
                lines = (self.work / name / "audit.jsonl").read_text().splitlines()[skipped:]
                found += [record | {"node": name} for record in map(json.loads, lines) if record["event"] == "tunnel"]
            return list(filter(is_meant, found))

        wait_for(f"{count} records", 20, lambda: len(now()) >= count)
        return now()

    def where(self):
        """The node of each live tunnel, by its client."""
        return {client: name for name, clients in self.live().items() for client in clients}

    def one_more_reaches(self, name, opened):
        """Whether this node has one tunnel more after another one was opened."""
        tunnel = opened()
        self.probes.add(tunnel.address)
        reached = tunnel.address in self.live()[name]
        tunnel.close()
        return reached

    def curl(self, certificate, source):
        """The status of CONNECT through HAProxy's TLS; 000: none."""
        own = [] if certificate is None else ["--proxy-cert", f"{certificate}.pem", "--proxy-key", f"{certificate}.key"]
        command = within("client", "curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_connect}", "--max-time", "10",
                         "--interface", source, "--cacert", "ca.pem", "--proxy-cacert", "ca.pem", *own,
                         "--resolve", f"hop.example.com:9443:{BALANCER[0]}", "--proxy", "https://hop.example.com:9443",
                         f"https://{HOST}/")
        return subprocess.run(command, cwd=self.work, capture_output=True, text=True).stdout

    def leaks(self):
        outputs = [*self.work.glob("*/*.log"), *self.work.glob("*/audit.jsonl"), *self.work.glob("*.log")]
        return [str(file) for file in outputs if TOKEN in file.read_text(errors="replace")]

    def show_logs(self):
        for log in sorted([*self.work.glob("*/*.log"), *self.work.glob("haproxy*.log")]):
            print(f"--- the end of {log.relative_to(self.work)}", *log.read_text(errors="replace").splitlines()[-8:], sep="\n")
