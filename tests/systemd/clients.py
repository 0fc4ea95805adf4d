"""Clients of the proxy: one request, sessions that stay, a load of new tunnels, and a prober that only connects.

Every session is verified against the rig's own CA, so who answers is the fake Google. Nothing is tried twice: what
fails once is in the result.
"""

import base64
import http.client
import json
import socket
import ssl
import threading
import time
from typing import NamedTuple

from internet import HOST

TIMEOUT_S = 30


class Proxy(NamedTuple):
    address: tuple
    user: str
    secret: str
    ca: str


class Session:
    """One TLS session with a host, through a tunnel of the proxy."""

    def __init__(self, proxy, host=HOST):
        raw = socket.create_connection(proxy.address, timeout=TIMEOUT_S)
        try:
            token = base64.b64encode(f"{proxy.user}:{proxy.secret}".encode()).decode()
            head = f"CONNECT {host}:443 HTTP/1.1\r\nHost: {host}:443\r\nProxy-Authorization: Basic {token}\r\n\r\n"
            raw.sendall(head.encode())
            self.said = status_line(raw)
            if " 200 " not in self.said:
                raise Refused(self.said)
            self.tls = context(proxy.ca).wrap_socket(raw, server_hostname=host)
        except BaseException:
            raw.close()
            raise

    def get(self):
        return get(self.tls)

    def close(self):
        self.tls.close()


def get(tls):
    """One request: the status and what Google said."""
    tls.sendall(b"GET /v1beta/models HTTP/1.1\r\nHost: google\r\n\r\n")
    response = http.client.HTTPResponse(tls)
    response.begin()
    return response.status, json.loads(response.read())["said"]


class Refused(Exception):
    """The proxy's status line, where it is not a 200."""


CONTEXTS = {}


def context(ca):
    if ca not in CONTEXTS:
        CONTEXTS[ca] = ssl.create_default_context(cafile=ca)
    return CONTEXTS[ca]


def status_line(raw):
    head = b""
    while b"\r\n\r\n" not in head:
        got = raw.recv(1)  # One at a time: what follows belongs to TLS.
        if not got:
            raise ConnectionError(f"closed after {head!r}")
        head += got
    return head.split(b"\r\n")[0].decode()


def exchange(proxy, host=HOST):
    """One request on a tunnel of its own."""
    session = Session(proxy, host)
    try:
        return session.get()
    finally:
        session.close()


def attempt(proxy, host=HOST):
    """The same, with what went wrong as text."""
    try:
        return exchange(proxy, host)
    except (OSError, Refused, http.client.HTTPException) as error:
        return None, f"{type(error).__name__}: {error}"


def direct(ca, address):
    """One request past the proxy, from whatever source address the kernel takes."""
    with context(ca).wrap_socket(socket.create_connection((address, 443), TIMEOUT_S), server_hostname=HOST) as tls:
        return get(tls)


def plain_get(address, path, token=None):
    """One request to the admin listener."""
    connection = http.client.HTTPConnection(*address, timeout=TIMEOUT_S)
    connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
    response = connection.getresponse()
    return response.status, response.read().decode()


def load(proxy, pipe, threads, held):
    """Opens `held` sessions that stay, then new ones without end. The pipe asks for their `count` or `results`, each
    (begin, end, status, what was said), for what the sessions that stay say (`held`), or says `stop`."""
    stay = [Session(proxy) for _ in range(held)]
    stopped, results = threading.Event(), []

    def one_after_the_other():
        while not stopped.is_set():
            begin = time.monotonic()
            status, said = attempt(proxy)
            results.append((begin, time.monotonic(), status, said))
            time.sleep(0.01)  # A pace, not a wait: the proxy shares its processors with this.

    workers = [threading.Thread(target=one_after_the_other) for _ in range(threads)]
    for worker in workers:
        worker.start()
    pipe.send([session.get() for session in stay])
    while (word := pipe.recv()) != "stop":
        if word == "held":
            pipe.send([outcome(session) for session in stay])
        else:
            pipe.send(len(results) if word == "count" else list(results))
    stopped.set()
    for worker in workers:
        worker.join()
    pipe.send(results)


def outcome(session):
    try:
        return session.get()
    except (OSError, http.client.HTTPException) as error:
        return None, type(error).__name__


def knock(address, pipe):
    """Connects every few milliseconds until the pipe says so, and tells how often and what failed."""
    count, failures = 0, []
    pipe.send(True)
    while not pipe.poll(0.004):
        try:
            socket.create_connection(address, timeout=TIMEOUT_S).close()
        except OSError as error:
            failures.append(repr(error))
        count += 1
    pipe.send((count, failures))
