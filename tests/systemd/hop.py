"""The TLS hop under a real systemd: its unit beside sealway.service, and TLS sessions through both.

The certificates come from the commands of docs/install.md, run in the machine. A client is Python's own TLS, inside which the
session with Google runs.
"""

import base64
import http.client
import json
import re
import socket
import ssl
import time

from clients import context, status_line
from internet import FORK, HOST, MACHINE_INSIDE, STATIC, background, inside
from intruder import intrude
from machine import until

PROXY_NAME = "proxy.example.com"
TLS, MUTUAL = (MACHINE_INSIDE, 9443), (MACHINE_INSIDE, 9444)
PONG = (200, f"pong from {STATIC}")
BACK_WITHIN_S = 1.5  # A second, and what a busy test machine adds.

LISTENERS = f"""
[[listener]]
address = "{TLS[0]}:{TLS[1]}"
tls = {{ certificate = "hop/hop.pem", key = "hop/hop.key" }}
[[listener]]
address = "{MUTUAL[0]}:{MUTUAL[1]}"
tls = {{ certificate = "hop/hop.pem", key = "hop/hop.key", client_ca = "hop/ca.pem" }}
"""

KEY = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"


def leaf(file, name, more):
    """The command that issues a certificate, as install.md has it."""
    return (f"openssl req -x509 {KEY} -subj /CN={name} -days 365 -addext subjectAltName={more} "
            f"-addext basicConstraints=critical,CA:FALSE -CA ca.pem -CAkey ca.key -keyout {file}.key -out {file}.pem")  # fmt: skip


SERVER = leaf("hop", PROXY_NAME, f"DNS:{PROXY_NAME}") + " && chmod 640 hop.key && chgrp sealway-hop hop.key"
HOOK = "/usr/share/doc/sealway/examples/tls/deploy-hook"
ACME = {
    "certbot": "RENEWED_LINEAGE=/root/acme",
    "lego": "LEGO_CERT_PATH=/root/acme/fullchain.pem LEGO_CERT_KEY_PATH=/root/acme/privkey.pem",
}
MAKE = f"""set -e; cd /etc/sealway/hop
openssl req -x509 {KEY} -subj /CN=private-ca -days 3650 -keyout ca.key -out ca.pem
{SERVER}
{leaf("app", "app", "URI:spiffe://corp.example/app")}
mkdir /app; mv app.key app.pem /app; cp ca.pem /app; mv ca.key /root/ca.key"""


class Session:
    """TLS to the hop, CONNECT in it, and the TLS session with Google in that."""

    def __init__(self, address, files, secret=None, certificate=False):
        outer = ssl.create_default_context(cafile=f"{files}/ca.pem")
        if certificate:
            outer.load_cert_chain(f"{files}/app.pem", f"{files}/app.key")
        raw = socket.create_connection(address, timeout=30)
        self.outer = outer.wrap_socket(raw, server_hostname=PROXY_NAME)
        self.serial = self.outer.getpeercert()["serialNumber"]
        token = "" if secret is None else "Proxy-Authorization: Basic " + base64.b64encode(f"alice:{secret}".encode()).decode() + "\r\n"
        self.outer.sendall(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n{token}\r\n".encode())
        said = status_line(self.outer)
        if " 200 " not in said:
            raise ConnectionError(said)

    def over(self, ca):
        """Opens the inner session."""
        self.into, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.inner = context(ca).wrap_bio(self.into, self.out, server_hostname=HOST)
        self.step(self.inner.do_handshake)
        return self

    def step(self, call, *arguments):
        while True:
            try:
                return call(*arguments)
            except ssl.SSLWantReadError:
                self.flush()
                got = self.outer.recv(65536)
                if not got:
                    raise ConnectionError("the hop has ended the session") from None
                self.into.write(got)
            finally:
                self.flush()

    def flush(self):
        if rest := self.out.read():
            self.outer.sendall(rest)

    def get(self):
        self.step(self.inner.write, b"GET /v1beta/models HTTP/1.1\r\nHost: google\r\n\r\n")
        head = b""
        while b"\r\n\r\n" not in head:
            head += self.step(self.inner.read, 4096)
        head, body = head.split(b"\r\n\r\n", 1)
        length = int(re.search(rb"Content-Length: (\d+)", head)[1])
        while len(body) < length:
            body += self.step(self.inner.read, 4096)
        return int(head.split()[1]), json.loads(body)["said"]


def attempt(address, files, ca, secret=None, certificate=False):
    """One request on a session of its own: what Google said, or what went wrong, and the serial number of the hop's certificate."""
    try:
        session = Session(address, files, secret, certificate)
        return session.over(ca).get(), session.serial
    except (OSError, http.client.HTTPException) as error:
        return (None, f"{type(error).__name__}: {error}"), None


def hold(pipe, *arguments):
    """Opens a session that stays and says what Google answers each time the pipe says `get`, and how the session ends at `end`."""
    files, ca, secret = arguments
    session = Session(TLS, files, secret).over(ca)
    pipe.send(session.get())
    while (word := pipe.recv()) != "stop":
        try:
            # An end in order, or without one, is no exception here.
            pipe.send(session.get() if word == "get" else socket.socket.recv(session.outer, 1))
        except OSError as error:
            pipe.send(type(error).__name__)


class Hop:
    """The steps of a trial that concern the hop."""

    def hop_is_skipped(self):
        state = [self.machine.show("sealway-hop", name) for name in ("ActiveState", "Result")]
        self.check("without a TLS listener the hop is skipped, not failed", state == ["inactive", "exec-condition"], state)

    def hop(self):
        self.machine.do(MAKE)
        self.files_of_client = str(self.machine.root / "app")
        users = self.machine.do("cat /etc/sealway/users.toml")
        self.machine.write("/etc/sealway/users.toml", users.replace("[users.alice]", '[users.alice]\ncertificates = ["spiffe://corp.example/app"]', 1) + "\n")
        self.configure(self.config + LISTENERS)
        self.machine.do("sealway-hop --config /etc/sealway/sealway.toml --check")
        self.machine.do("systemctl restart sealway")
        until("the hop to listen", lambda: self.through_hop() == PONG, 10)
        self.check("a restart of sealway starts the hop once there is a TLS listener", self.hop_state() == "active")
        self.check("a client certificate names the user", self.through_hop(MUTUAL, None, True) == PONG, self.through_hop(MUTUAL, None, True))
        self.check("and without one the handshake fails", "alert" in str(self.through_hop(MUTUAL)).lower(), self.through_hop(MUTUAL))
        self.check("a wrong secret is refused", "407" in str(self.through_hop(TLS, "wrong")))
        self.judge_hop_process()
        self.reload_hop()
        self.kill_hop()
        self.restart_beside_hop()

    def judge_hop_process(self):
        pid = self.hop_pid()
        status = dict(line.split(":", 1) for line in self.machine.do(f"cat /proc/{pid}/status").splitlines())
        sets = {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        self.check("the hop has no capability", not any(sets.values()), sets)
        self.check("its system calls are filtered and it gains no privilege", (int(status["Seccomp"]), int(status["NoNewPrivs"])) == (2, 1))
        self.check("it runs as sealway-hop", self.machine.do(f"stat -c %U /proc/{pid}") == "sealway-hop")
        key, users = "/etc/sealway/hop/hop.key", "/etc/sealway/users.toml"
        for unit, wanted in (("sealway-hop", {key: "done", users: "EACCES"}), ("sealway", {key: "EACCES", users: "done"})):
            pid = self.machine.daemon() if unit == "sealway" else self.hop_pid()
            process = self.machine.process(pid)
            found = inside(self.net.machine, intrude, process, [("read", path) for path in wanted])
            self.check(f"of the private key and the users {unit} reads its own only", {path: found["read", path] for path in wanted} == wanted, found)

    def reload_hop(self):
        pid = self.hop_pid()
        with self.held_session() as ask:
            before = self.serial()
            self.machine.do("cd /etc/sealway/hop && cp /root/ca.key . && " + SERVER + " && rm ca.key && systemctl reload sealway")
            until("the new certificate", lambda: self.serial() not in (None, before), 10)
            self.check("systemctl reload sealway serves a new certificate, from the same process", self.hop_pid() == pid)
            self.renew(pid)
            self.check("and a session that was open goes on", ask() == PONG, ask())

    def renew(self, pid):
        """The hook of certbot and of lego, as each runs it."""
        self.machine.do(f"install -D -m 0755 {HOOK} /usr/local/sbin/sealway-certificate; mkdir /root/acme; cp /etc/sealway/hop/ca.pem /root/ca.key /root/acme")
        for client, files in ACME.items():
            before = self.serial()
            self.machine.do(f"cd /root/acme && {leaf('hop', PROXY_NAME, f'DNS:{PROXY_NAME}')} && mv hop.pem fullchain.pem && mv hop.key privkey.pem")
            self.machine.do(f"{files} /usr/local/sbin/sealway-certificate")
            until(f"the certificate of {client}", lambda: self.serial() not in (None, before), 10)
            modes = self.machine.do("stat -c %a:%U:%G:%n /etc/sealway/hop/*").split()
            wanted = ["640:root:sealway-hop:/etc/sealway/hop/hop.key", "644:root:sealway-hop:/etc/sealway/hop/hop.pem"]
            self.check(f"the hook of {client} puts a new certificate into service, in the same process", self.hop_pid() == pid and set(wanted) <= set(modes), modes)
        said = self.machine.ask("/usr/local/sbin/sealway-certificate")
        self.check("the hook by hand says what it is for", said.returncode == 2 and "RENEWED_LINEAGE" in said.stderr, said)
        self.machine.do("rm -r /usr/local/sbin/sealway-certificate /root/acme")

    def kill_hop(self):
        pid = self.hop_pid()
        with self.held_session() as ask:
            begin = time.monotonic()
            self.machine.do(f"kill -9 {pid}")
            until("the hop after kill -9", lambda: self.through_hop() == PONG, 10)
            took = time.monotonic() - begin
            self.check(f"after kill -9 of the hop it is back after {took:.2f} s", took < BACK_WITHIN_S and self.hop_pid() != pid)
            end = ask("end")
            self.check("its own session was reset", end == "ConnectionResetError", end)
            self.works("and the cleartext listener never noticed")

    def restart_beside_hop(self):
        """The daemon hands its tunnels over, the hop's among them."""
        pid, daemon = self.hop_pid(), self.main_pid()
        with self.held_session() as ask:
            begin = time.monotonic()
            self.machine.do("systemctl restart sealway")
            took = time.monotonic() - begin
            self.check("a restart of sealway leaves the hop alone", self.hop_pid() == pid and self.main_pid() != daemon, self.hop_pid())
            self.check(f"a TLS session lives through it, in {took:.1f} s", ask() == PONG and took < 10, ask())
        daemon = self.main_pid()
        self.machine.do(f"kill -9 {daemon}")
        until("TLS after kill -9 of the daemon", lambda: self.through_hop() == PONG, 10)
        self.check("after kill -9 of the daemon TLS works again", self.main_pid() != daemon)
        self.machine.do("systemctl stop sealway.socket sealway.service")
        until("the hop to stop", lambda: self.hop_state() == "inactive", 10)
        self.check("a stop of sealway stops the hop", True)
        self.machine.do("systemctl start sealway")
        until("the hop after a start", lambda: self.through_hop() == PONG, 10)
        self.check("and a start starts it", self.hop_state() == "active")

    def hop_upgraded(self, pid):
        """After the package was installed again."""
        until("the hop's new process", lambda: self.hop_pid() not in (0, pid) and self.through_hop() == PONG, 40)
        self.check("an upgrade restarts the hop too", True)

    def serial(self):
        return self.attempt_hop(TLS, self.proxy.secret, False)[1]

    def through_hop(self, address=TLS, secret="", certificate=False):
        return self.attempt_hop(address, self.proxy.secret if secret == "" else secret, certificate)[0]

    def attempt_hop(self, address, secret, certificate):
        return inside(self.net.client, attempt, address, self.files_of_client, self.ca, secret, certificate)

    def hop_pid(self):
        return int(self.machine.show("sealway-hop", "MainPID"))

    def hop_state(self):
        return self.machine.show("sealway-hop", "ActiveState")

    def held_session(self):
        return Held(self)


class Held:
    """A session that stays; asks what Google says in it."""

    def __init__(self, trial):
        self.trial = trial

    def __enter__(self):
        self.here, there = FORK.Pipe()
        self.child = background(self.trial.net.client, hold, there, self.trial.files_of_client, self.trial.ca, self.trial.proxy.secret)
        assert self.here.recv() == PONG
        return self.ask

    def ask(self, word="get"):
        self.here.send(word)
        return self.here.recv()

    def __exit__(self, *_):
        self.here.send("stop")
        self.child.join()
