"""The daemon, its hop and HAProxy on loopback, in a namespace of their own. Ends only what it started."""

import base64
import contextlib
import ctypes
import fcntl
import heapq
import json
import multiprocessing
import os
import select
import socket
import ssl
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

HOST, API, EGRESS = "generativelanguage.googleapis.com", "203.0.113.80", "198.51.100.10"
NAME, CIPHER = "hop.example.com", "TLS_AES_256_GCM_SHA384"
PLAIN, BALANCED, PROXIED = 9290, 9291, 9296
HOP, HAPROXY, ENVOY = (9443, 9444), (8443, 8444), (7444, 7445)
TOKEN = "0123456789abcdef" * 4
CLONE_NEWNET = 0x40000000
FORK = multiprocessing.get_context("fork")


def run(*words, cwd=None):
    done = subprocess.run(words, capture_output=True, text=True, cwd=cwd)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def cpu_ns(pid):
    """The time on a core of all its threads."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return total


def issue(work, subjects, usage="serverAuth", authority=True):
    """An authority, ca.pem, or the one that is there, and a certificate and key of each name, NAME.pem and NAME.key."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    if authority:
        run("openssl", "req", "-x509", *key, "-days", "2", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=throw-away",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign", cwd=work)
    for name, subject in subjects.items():
        (work / f"{name}.ext").write_text(f"subjectAltName={subject}\nextendedKeyUsage={usage}\n")
        run("openssl", "req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}", cwd=work)
        run("openssl", "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-out", f"{name}.pem", "-extfile", f"{name}.ext", cwd=work)
        (work / f"{name}.key").chmod(0o600)


def write_token(work):
    """What the daemon knows the hop by."""
    (work / "hop.token").write_text(TOKEN)
    (work / "hop.token").chmod(0o600)


def within(network):
    """The words before a command that runs in this network."""
    return ["nsenter", f"--net=/run/netns/{network}", "--"] if network else []


@contextlib.contextmanager
def on_one_core(pid):
    """Keeps all threads of the process, and this one, on the last core: the least noise."""
    before = os.sched_getaffinity(0)
    threads = [0, *map(int, os.listdir(f"/proc/{pid}/task"))]
    for thread in threads:
        os.sched_setaffinity(thread, {max(before)})
    yield
    for thread in threads:
        os.sched_setaffinity(thread, before)


def resident(pid):
    """KiB."""
    with open(f"/proc/{pid}/status") as file:
        return int(next(line for line in file if line.startswith("VmRSS:")).split()[1])


class Place:
    """The processes."""

    def __init__(self, work, sealway, hop, envoy=None):
        self.work, self.processes = work, []
        run("ip", "link", "set", "lo", "up")
        for address in (API, EGRESS):
            run("ip", "address", "add", f"{address}/32", "dev", "lo")
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        os.makedirs("/run/netns")
        self.certificates()
        self.configure()
        self.core = self.start([sealway, "run", "--no-hop", "--config", "sealway.toml"], "core")
        self.wait_for(PLAIN)
        terminators = {"haproxy": (self.start(["haproxy", "-db", "-f", "haproxy.cfg"], "haproxy"), HAPROXY),
                       "hop": (self.start([hop, "--config", "sealway.toml"], "hop"), HOP)}
        if envoy:
            (self.work / "envoy.json").write_text(json.dumps(of_envoy(work)))
            command = [os.path.realpath(envoy), "-c", "envoy.json", "--concurrency", str(os.cpu_count()), "--disable-hot-restart"]
            terminators["envoy"] = (self.start(command, "envoy"), ENVOY)
        self.terminators = {name: (process.pid, ports) for name, (process, ports) in terminators.items()}
        for _, ports in self.terminators.values():
            self.wait_for(ports[1])
        self.trust = ssl.create_default_context(cafile=work / "ca.pem")
        self.trust.maximum_version = ssl.TLSVersion.TLSv1_3

    def certificates(self):
        issue(self.work, {name: f"DNS:{NAME}" for name in ("hop", "app")}, "serverAuth,clientAuth")
        (self.work / "both.pem").write_text((self.work / "hop.pem").read_text() + (self.work / "hop.key").read_text())

    def own_certificate(self):
        return ["-cert", "app.pem", "-key", "app.key"]

    def configure(self):
        write_token(self.work)
        tls = f'certificate = "hop.pem", key = "hop.key", core = "127.0.0.1:{PROXIED}", token_file = "hop.token"'
        (self.work / "sealway.toml").write_text(f"""
[[listener]]
address = "127.0.0.1:{PLAIN}"
[[listener]]
address = "127.0.0.1:{BALANCED}"
proxy_protocol = {{ from = ["127.0.0.1"] }}
[[listener]]
address = "127.0.0.1:{PROXIED}"
proxy_protocol = {{ from = ["127.0.0.1"], identity = true, token_file = "hop.token" }}
[[listener]]
address = "0.0.0.0:{HOP[0]}"
tls = {{ {tls} }}
[[listener]]
address = "0.0.0.0:{HOP[1]}"
tls = {{ {tls}, client_ca = "ca.pem" }}
[egress]
addresses = ["{EGRESS}"]
[policy]
allow_destinations = ["{API}"]
[dns.hosts]
"{HOST}" = ["{API}"]
[auth]
clients = ["127.0.0.0/8", "192.0.2.0/24"]
[limits]
accept_rate = 0
connect_rate = 0
[audit]
file = "audit.jsonl"
""")
        common = f"ssl crt both.pem alpn http/1.1"
        (self.work / "haproxy.cfg").write_text(f"""
global
    ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets
    tune.ssl.cachesize 0
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    unique-id-format {TOKEN}
frontend tls
    bind 0.0.0.0:{HAPROXY[0]} {common}
    default_backend core
frontend mtls
    bind 0.0.0.0:{HAPROXY[1]} {common} ca-file ca.pem verify required
    default_backend core
backend core
    server core 127.0.0.1:{PROXIED} send-proxy-v2-ssl-cn proxy-v2-options ssl-cipher,unique-id
""")

    def start(self, command, name):
        with open(self.work / f"{name}.log", "w") as log:
            self.processes.append(subprocess.Popen(command, cwd=self.work, stdout=log, stderr=log))
            return self.processes[-1]

    def stop(self):
        """Ends the processes, which would still write into the folder while it is removed."""
        for process in self.processes:
            process.kill()
            process.wait()

    def wait_for(self, port):
        end = time.monotonic() + 10
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.02)
        logs = [log.read_text()[-500:] for log in self.work.glob("*.log")]
        sys.exit(f"nothing listens on port {port}: {logs}")

    @contextlib.contextmanager
    def link(self, delay):
        """A link to another network, `client`, with this delay each way. Gives this side's address there."""
        run("ip", "netns", "add", "client")
        ends = tun(), inside("client", tun)
        run("ip", "address", "add", "192.0.2.1/24", "dev", "wan0")
        run("ip", "link", "set", "wan0", "up")
        run("ip", "-n", "client", "address", "add", "192.0.2.2/24", "dev", "wan0")
        run("ip", "-n", "client", "link", "set", "wan0", "up")
        # A process of its own, so that it takes no time from the client's.
        link = FORK.Process(target=forward, args=(ends, delay), daemon=True)
        link.start()
        yield "192.0.2.1"
        link.kill()
        link.join()


def of_envoy(work):
    """Envoy's configuration: the same two ports, settings and header."""

    def listener(port, client_ca):
        secrets = {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "ecdh_curves": ["X25519"]},
            "tls_certificates": [{"certificate_chain": {"filename": f"{work}/hop.pem"}, "private_key": {"filename": f"{work}/hop.key"}}],
            "alpn_protocols": ["http/1.1"],
        }
        if client_ca:
            secrets["validation_context"] = {"trusted_ca": {"filename": f"{work}/ca.pem"}}
        tls = {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "common_tls_context": secrets,
            "require_client_certificate": client_ca,
            "disable_stateless_session_resumption": True,
            "disable_stateful_session_resumption": True,
        }
        proxy = {"@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": "hop", "cluster": "core"}
        return {
            "address": {"socket_address": {"address": "0.0.0.0", "port_value": port}},
            "filter_chains": [
                {
                    "filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}],
                    "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": tls},
                }
            ],
        }

    raw = {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}
    header = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        "config": {"version": "V2", "added_tlvs": [{"type": 0xE1, "value": base64.b64encode(TOKEN.encode()).decode()}]},
        "transport_socket": {"name": "envoy.transport_sockets.raw_buffer", "typed_config": raw},
    }
    core = {
        "name": "core",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "core",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": PROXIED}}}}]}],
        },
        "transport_socket": {"name": "envoy.transport_sockets.upstream_proxy_protocol", "typed_config": header},
    }
    return {"static_resources": {"listeners": [listener(ENVOY[0], False), listener(ENVOY[1], True)], "clusters": [core]}}


def tun(name=b"wan0"):
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    # TUNSETIFF with IFF_TUN and IFF_NO_PI.
    fcntl.ioctl(end, 0x400454CA, struct.pack("16sH", name, 0x1001))
    return end


def forward(ends, delay):
    """Passes packets on, each after the delay, until the process is killed."""
    waiting, number = [], 0
    while True:
        rest = waiting[0][0] - time.monotonic() if waiting else 1
        # select(2) wakes late by its slack, so the last bit is waited for in small steps.
        for end in select.select(ends, [], [], max(rest - 0.0002, 0))[0]:
            with contextlib.suppress(BlockingIOError):
                packet = os.read(end, 65536)
                number += 1
                heapq.heappush(waiting, (time.monotonic() + delay, number, ends[end == ends[0]], packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, end, packet = heapq.heappop(waiting)
            with contextlib.suppress(OSError):
                os.write(end, packet)


def inside(netns, call):
    """Runs the call on a thread in that network; what it opens stays there."""

    def there():
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{netns}") as file:
            if libc.setns(file.fileno(), CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"setns {netns}")
        return call()

    with ThreadPoolExecutor(1) as thread:
        return thread.submit(there).result()
