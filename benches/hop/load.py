"""What the benchmark does to the terminators: tunnels with a recorded ClientHello, a made-up answer, and then opaque bytes."""

import collections
import contextlib
import socket
import struct
import time
from pathlib import Path

from place import API, BALANCED, FORK, HOST, NAME, PLAIN, PROXIED, TOKEN, cpu_ns, on_one_core, run

HELLO = (Path(__file__).resolve().parents[2] / "tests/fixtures/clienthello/curl-openssl.bin").read_bytes()
HEAD = f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n".encode()
CHUNK = 1 << 16


def record(kind, fragment):
    return struct.pack("!BHH", kind, 0x0303, len(fragment)) + fragment


def answer():
    """A ServerHello of TLS 1.3 and a record, for HELLO (RFC 8446, section 4.1.3)."""
    session = HELLO[43:76]
    extensions = bytes([0, 43, 0, 2, 3, 4, 0, 51, 0, 36, 0, 29, 0, 32]) + bytes([9] * 32)
    body = b"\x03\x03" + bytes([0x5A] * 32) + session + b"\x13\x01\x00" + struct.pack("!H", len(extensions)) + extensions
    return record(22, b"\x02" + len(body).to_bytes(3, "big") + body) + record(20, b"\x01") + record(23, bytes(2300))


ANSWER = answer()
OPAQUE = record(23, bytes(CHUNK // 4 - 5)) * 4


def read_until(connection, end):
    seen = b""
    while end not in seen:
        piece = connection.recv(4096)
        if not piece:
            raise ConnectionError(f"ended after {seen!r}")
        seen += piece
    return seen.partition(end)[2]


def read_exactly(connection, count):
    while count > 0:
        piece = connection.recv(count)
        if not piece:
            raise ConnectionError("ended")
        count -= len(piece)


def open_tunnel(place, port, address="127.0.0.1", make=socket.socket):
    """A tunnel through a terminator, with its greeting."""
    connection = make()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.connect((address, port))
    session = place.trust.wrap_socket(connection, server_hostname=NAME)
    session.sendall(HEAD)
    read_until(session, b"\r\n\r\n")
    return session


def greet(session):
    session.sendall(HELLO)
    read_exactly(session, len(ANSWER))


class Upstream:
    """Accepts on the API's address, in this process."""

    def __init__(self):
        self.listener = socket.create_server((API, 443), backlog=1024)
        self.listener.settimeout(20)

    def accept(self):
        connection, _ = self.listener.accept()
        connection.settimeout(60)
        read_exactly(connection, len(HELLO))
        connection.sendall(ANSWER)
        return connection

    def close(self):
        self.listener.close()


def pull(connection, size):
    buffer = bytearray(4 * CHUNK)
    while size > 0:
        read = connection.recv_into(buffer, min(size, len(buffer)))
        if not read:
            raise ConnectionError("ended")
        size -= read


def push(connection, size):
    while size > 0:
        connection.sendall(OPAQUE)
        size -= len(OPAQUE)


class Transfer:
    """One tunnel for bulk; its upstream is a process of its own."""

    def __init__(self, place, port):
        self.upstream = Upstream()
        self.session = open_tunnel(place, port)
        self.session.sendall(HELLO)
        self.far = self.upstream.accept()
        read_exactly(self.session, len(ANSWER))

    def run(self, way, size):
        theirs, ours = (push, pull) if way == "down" else (pull, push)
        other = FORK.Process(target=theirs, args=(self.far, size))
        other.start()
        ours(self.session, size)
        other.join()

    def close(self):
        self.session.close()
        self.far.close()
        self.upstream.close()


@contextlib.contextmanager
def idle_tunnels(place, port, count):
    with contextlib.ExitStack() as stack:
        with contextlib.closing(Upstream()) as upstream:
            for _ in range(count):
                session = stack.enter_context(contextlib.closing(open_tunnel(place, port)))
                session.sendall(HELLO)
                stack.enter_context(contextlib.closing(upstream.accept()))
                read_exactly(session, len(ANSWER))
        yield


def setups_over_link(place, client, address, count):
    """Microseconds of each set-up by the client program: in all, until TCP was connected, until TLS was; by terminator and `bare`."""
    echo = socket.create_server((address, 7777), backlog=1024)
    echoes = FORK.Process(target=answer_bytes, args=(echo,), daemon=True)
    echoes.start()
    names = {f"bare:{address}:7777": "bare"}
    names |= {f"tls:{address}:{ports[0]}": name for name, (_, ports) in place.terminators.items()}
    with contextlib.closing(Upstream()):
        # Its backlog takes the daemon's connections.
        lines = run("ip", "netns", "exec", "client", client, "ca.pem", NAME, HOST, str(count), *names, cwd=place.work)
    echoes.kill()
    echoes.join()
    times = {name: [] for name in names.values()}
    for line in lines.splitlines():
        target, *parts = line.split()
        times[names[target]].append(tuple(map(int, parts)))
    return times


def answer_bytes(listener):
    """Sends two single bytes back on each connection, one after another."""
    while True:
        with listener.accept()[0] as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _ in range(2):
                connection.sendall(connection.recv(1))


def proxy_header(tlvs=b""):
    """A header of version 2, as a balancer sends it."""
    body = socket.inet_aton("127.0.0.1") * 2 + struct.pack("!HH", 40000, 9443) + tlvs
    return b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack("!H", len(body)) + body


def of_hop():
    """What the hop adds to it: the session of TLS and the token."""

    def tlv(kind, value):
        return struct.pack("!BH", kind, len(value)) + value

    tls = bytes([1]) + bytes(4) + tlv(0x21, b"TLSv1.3") + tlv(0x23, b"TLS_AES_256_GCM_SHA384") + tlv(0x26, b"X25519MLKEM768")
    return tlv(0x20, tls) + tlv(0x01, b"http/1.1") + tlv(0xE1, TOKEN.encode())


def setups_of_daemon(place, blocks, size):
    """Microseconds of CPU of the daemon for a set-up, in blocks that alternate."""
    kinds = {"none": (PLAIN, HEAD), "balancer": (BALANCED, proxy_header() + HEAD), "hop": (PROXIED, proxy_header(of_hop()) + HEAD)}
    costs = {kind: [] for kind in kinds}
    with contextlib.closing(Upstream()) as upstream, on_one_core(place.core.pid):
        # The order alternates too; the first two blocks warm up.
        for block in range(blocks + 2):
            for kind in sorted(kinds, reverse=block % 2 == 0):
                port, first = kinds[kind]
                before = cpu_ns(place.core.pid)
                for _ in range(size):
                    one_setup(upstream, port, first)
                time.sleep(0.01)
                if block > 1:
                    costs[kind].append((cpu_ns(place.core.pid) - before) / size / 1000)
    return costs


def one_setup(upstream, port, first):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(first)
        read_until(connection, b"\r\n\r\n")
        connection.sendall(HELLO)
        with upstream.accept():
            read_exactly(connection, len(ANSWER))


def flood(port, hello, stay, each_second):
    """Connects to the shared port, unless it is 0, and replays this ClientHello; as many connections stay. Until the process is killed."""
    held = collections.deque()
    while True:
        if port.value:
            with contextlib.suppress(OSError):
                connection = socket.create_connection(("127.0.0.1", port.value))
                held.append(connection)
                connection.sendall(hello)
        if held and (len(held) > stay or not port.value):
            held.popleft().close()
        time.sleep(1 / each_second)


def sink(listener):
    """Accepts and closes: what the same strangers cost a machine that does nothing for them."""
    while True:
        listener.accept()[0].close()


def shake_hands(place, port, each_second, seconds, results):
    """Handshakes at this pace, each on a new connection. Puts the number of those that failed, of all, and of different certificates seen."""
    failed, made, seen, began = 0, 0, set(), time.monotonic()
    while made < each_second * seconds:
        time.sleep(max(began + made / each_second - time.monotonic(), 0))
        made += 1
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
                with place.trust.wrap_socket(connection, server_hostname=NAME) as session:
                    seen.add(session.getpeercert()["serialNumber"])
        except OSError as error:
            failed += 1
            print(f"     a handshake failed: {error}", flush=True)
    results.put((failed, made / (time.monotonic() - began), len(seen)))


class Conversation:
    """A tunnel of which this thread is both ends."""

    MESSAGE = record(23, bytes(95))

    def __init__(self, place, port):
        with contextlib.closing(Upstream()) as upstream:
            self.session = open_tunnel(place, port)
            self.session.sendall(HELLO)
            self.far = upstream.accept()
            read_exactly(self.session, len(ANSWER))

    def exchanges(self, count):
        """Seconds of each exchange of 100 bytes."""
        times = []
        for _ in range(count):
            began = time.monotonic()
            self.session.sendall(self.MESSAGE)
            read_exactly(self.far, len(self.MESSAGE))
            self.far.sendall(self.MESSAGE)
            read_exactly(self.session, len(self.MESSAGE))
            times.append(time.monotonic() - began)
        return times

    def close(self):
        self.session.close()
        self.far.close()
