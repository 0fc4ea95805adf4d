"""A small internet in three network namespaces: client, machine, and what lies beyond, with DNS and a fake Google in it.

Google answers 403 to whoever does not come from the static address. The client has no DNS, and the machine does not
forward, so a request that arrives was resolved and dialled by the proxy. Nothing here reaches a real network.
"""

import asyncio
import ctypes
import ipaddress
import json
import multiprocessing
import os
import signal
import ssl
import subprocess

STATIC = "198.51.100.10"
HOST = "generativelanguage.googleapis.com"
LATER_HOST = "later.googleapis.com"
CLIENT, MACHINE_INSIDE = "192.0.2.2", "192.0.2.1"
GOOGLE, GOOGLE_V6 = "203.0.113.80", "2001:db8:9::80"
NAME_SERVER = "203.0.113.53"
RESTRICTION = "API_KEY_IP_ADDRESS_BLOCKED"

CLONE_NEWNET = 0x40000000
LIBC = ctypes.CDLL(None, use_errno=True)
FORK = multiprocessing.get_context("fork")


class Internet:
    """The three namespaces and the servers; `close` takes all of it away."""

    def __init__(self, folder):
        self.folder = folder
        self.client, self.machine, self.beyond = (f"sealway-{os.getpid()}-{end}" for end in ("client", "machine", "beyond"))
        self.servers = []

    def open(self):
        for name in (self.client, self.machine, self.beyond):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        self.connect(self.client, [f"{CLIENT}/24"], self.machine, [f"{MACHINE_INSIDE}/24"], "inside")
        # The kernel's own choices towards Google are the first of these and 2001:db8::2, and the key allows neither.
        outside = ["198.51.100.2/24", f"{STATIC}/24", "2001:db8::2/64"]
        self.connect(self.machine, outside, self.beyond, ["198.51.100.1/24", "2001:db8::1/64"], "outside")
        for address in (f"{GOOGLE}/32", f"{NAME_SERVER}/32", f"{GOOGLE_V6}/128"):
            run("ip", "-n", self.beyond, "address", "add", address, "dev", "lo", *no_detection(address))
        run("ip", "-n", self.machine, "route", "add", "default", "via", "198.51.100.1")
        run("ip", "-n", self.machine, "-6", "route", "add", "default", "via", "2001:db8::1")
        self.make_certificates()
        self.serve(self.beyond, google, str(self.folder))
        self.serve(self.beyond, name_server)

    @staticmethod
    def connect(left, left_addresses, right, right_addresses, device):
        run("ip", "link", "add", device, "netns", left, "type", "veth", "peer", "name", device, "netns", right)
        for namespace, addresses in ((left, left_addresses), (right, right_addresses)):
            for address in addresses:
                run("ip", "-n", namespace, "address", "add", address, "dev", device, *no_detection(address))
            run("ip", "-n", namespace, "link", "set", device, "up")

    def make_certificates(self):
        authority = ["-subj", "/CN=throw-away CA", "-addext", "basicConstraints=critical,CA:TRUE"]
        key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        self.openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", *authority)
        self.openssl("req", *key, "-keyout", "google.key", "-out", "google.csr", "-subj", f"/CN={HOST}")
        (self.folder / "names").write_text(f"subjectAltName=DNS:{HOST},DNS:{LATER_HOST}\nextendedKeyUsage=serverAuth\n")
        issuer = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
        self.openssl("x509", "-req", "-in", "google.csr", *issuer, "-out", "google.pem")

    def openssl(self, *words):
        run("openssl", *words, cwd=self.folder)

    def serve(self, namespace, server, *arguments):
        """Starts a server and returns once it listens."""
        here, there = FORK.Pipe()
        process = FORK.Process(target=in_child, args=(namespace, asyncio_main, (server, there, *arguments)), daemon=True)
        process.start()
        self.servers.append(process)
        there.close()
        here.recv()

    def close(self):
        for server in self.servers:
            server.kill()
            server.join()  # A namespace is there until its last process is not.
        for name in (self.client, self.machine, self.beyond):
            subprocess.run(["ip", "netns", "delete", name], check=False, stderr=subprocess.DEVNULL)


def no_detection(address):
    """IPv6 addresses are good at once, without looking for duplicates."""
    return ["nodad"] if ":" in address else []


def inside(namespace, function, *arguments):
    """Calls the function in a child process in this namespace and returns what it returns."""
    here, there = FORK.Pipe()
    process = background(namespace, answer, there, function, arguments)
    there.close()
    try:
        value, error = here.recv()
    except EOFError:
        value, error = None, "it ended without an answer"
    process.join()
    if error:
        raise RuntimeError(f"{function.__name__} in {namespace}: {error}")
    return value


def background(namespace, function, *arguments):
    """Starts the function in a child process in this namespace."""
    process = FORK.Process(target=in_child, args=(namespace, function, arguments), daemon=True)
    process.start()
    return process


def in_child(namespace, function, arguments):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # Threads and all, at once.
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if LIBC.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    os.close(descriptor)
    function(*arguments)


def answer(pipe, function, arguments):
    try:
        pipe.send((function(*arguments), None))
    except Exception as error:
        pipe.send((None, f"{type(error).__name__}: {error}"))


def asyncio_main(server, *arguments):
    asyncio.run(server(*arguments))


async def google(ready, folder):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(f"{folder}/google.pem", f"{folder}/google.key")
    server = await asyncio.start_server(google_client, [GOOGLE, GOOGLE_V6], 443, ssl=context, backlog=4096)
    ready.send(True)
    await server.serve_forever()


async def google_client(reader, writer):
    """Answers one request after the other, for as long as the client keeps its session."""
    peer = writer.get_extra_info("peername")[0]
    try:
        while await reader.readuntil(b"\r\n\r\n"):
            status, said = (200, f"pong from {peer}") if peer == STATIC else (403, f"{RESTRICTION} {peer}")
            body = json.dumps({"said": said}).encode()
            writer.write(b"HTTP/1.1 %d -\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
            await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        pass  # The client has gone, which is how each session ends.
    finally:
        writer.close()


class NameServer(asyncio.DatagramProtocol):
    """Answers A and AAAA for Google's names with the fake Google, and everything else with NXDOMAIN."""

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, query, peer):
        self.transport.sendto(resolved(query), peer)


async def name_server(ready):
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(NameServer, local_addr=(NAME_SERVER, 53))
    ready.send(True)
    await asyncio.Event().wait()


def resolved(query):
    labels, at = [], 12
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    question = query[12 : at + 5]
    kind = int.from_bytes(query[at + 1 : at + 3])
    known = ".".join(labels).lower() in (HOST, LATER_HOST)
    address = {1: GOOGLE, 28: GOOGLE_V6}.get(kind) if known else None
    flags = 0x8180 if known else 0x8183
    header = query[:2] + b"".join(n.to_bytes(2) for n in (flags, 1, 1 if address else 0, 0, 0))
    if not address:
        return header + question
    packed = ipaddress.ip_address(address).packed
    record = b"\xc0\x0c" + kind.to_bytes(2) + b"\x00\x01" + (5).to_bytes(4) + len(packed).to_bytes(2) + packed
    return header + question + record


def run(*words, **options):
    """Runs a command that has to succeed and returns what it printed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {done.stderr or done.stdout}")
    return done.stdout
