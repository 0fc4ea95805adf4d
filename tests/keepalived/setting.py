"""The two nodes, the client and the far end: their addresses, their configuration, and the programs of client and far end."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
V4, V6 = "198.51.100.7", "2001:db8:51::7"
NODES = {"a": ("198.51.100.11", "2001:db8:51::11"), "b": ("198.51.100.12", "2001:db8:51::12")}
# The node that keeps the floating addresses if both have had them.
HIGHER = "b"
WORLD = ("198.51.100.1", "2001:db8:51::1")
CLIENT = ("198.51.100.2", "2001:db8:51::2")
HOSTS = {"api4.example.com": WORLD[0], "api6.example.com": WORLD[1]}
# The client reaches the proxy through the floating address of the same family as the host's.
PROXIES = {"api4.example.com": V4, "api6.example.com": V6}
FLOATING = [V4, V6]


def use_family(family):
    """4 or 6: only that one's floating address, as docs/high-availability.md says how to; 0: both."""
    for address in FLOATING[:]:
        if family and (family == 6) != (":" in address):
            host = next(host for host, proxy in PROXIES.items() if proxy == address)
            FLOATING.remove(address)
            del HOSTS[host], PROXIES[host]


def other_than(node):
    return next(name for name in NODES if name != node)


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: {done.stderr.strip()}")
    return done.stdout


def keepalived_conf(node):
    """The sample of deploy/keepalived, with the lines that begin with $ adapted."""
    own, peer = NODES[node], NODES[other_than(node)]
    values = {"$OWN4": own[0], "$PEER4": peer[0], "$OWN6": own[1], "$PEER6": peer[1]}
    lines, skips = [], False
    absent = [family for family, address in (("4", V4), ("6", V6)) if address not in FLOATING]
    for line in (ROOT / "deploy/keepalived/keepalived.conf").read_text().splitlines():
        key = line.split("=")[0]
        skips = skips or any(line == f"vrrp_instance sealway{family} {{" for family in absent)
        if not skips and not any(line.startswith("$") and key.endswith(family) or line.strip() == f"sealway{family}" for family in absent):
            lines.append(f"{key}={values[key]}" if key in values else line)
        skips = skips and line != "}"
    return "\n".join(lines) + "\n"


def sealway_toml(audit):
    hosts = "".join(f'"{host}" = ["{address}"]\n' for host, address in HOSTS.items())
    listeners = "".join(f'[[listener]]\naddress = "{address}:9293"\nallow_cleartext = true\n' for address in ("0.0.0.0", "[::]"))
    return (
        f'{listeners}[egress]\naddresses = {FLOATING}\nfloating = {FLOATING}\n'
        f"[policy]\npresets = []\nallow = {list(HOSTS)}\nallow_destinations = {list(WORLD)}\n"
        f'[auth]\nclients = ["{CLIENT[0]}", "{CLIENT[1]}"]\n[audit]\nfile = "{audit}"\n[dns.hosts]\n{hosts}'
    )


def make_certificate(folder):
    """The far end's certificate and key, as ca.pem and key.pem."""
    names = ",".join(f"DNS:{host}" for host in HOSTS)
    run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem"), "-days", "2", "-subj", "/CN=throw-away",
        "-addext", f"subjectAltName={names}")


def world_code(folder):
    return WORLD_CODE.format(certificate=f"{folder}/ca.pem", key=f"{folder}/key.pem", addresses=WORLD)


def client_code(folder, interval):
    return CLIENT_CODE.format(certificate=f"{folder}/ca.pem", proxies=PROXIES, interval=interval)


def has_floating(listed):
    """Of the output of `ip -o address`: whether each floating address can be used."""
    usable = [line for line in listed.splitlines() if not any(flag in line for flag in (" tentative", " dadfailed"))]
    return tuple(any(f" {address}/" in line for line in usable) for address in FLOATING)


def is_backup(log):
    """Whether keepalived has learnt since its start that the daemon is on standby, and is a backup of each address."""
    lines = log[log.rfind("Starting Keepalived") :].splitlines()
    states = {line.partition("(")[2].partition(")")[0]: line for line in lines if ") Entering " in line}
    verdicts = [line for line in lines if "VRRP_Script(sealway)" in line]
    all_backup = len(states) == len(FLOATING) and all("BACKUP" in line for line in states.values())
    return all_backup and bool(verdicts) and verdicts[-1].rstrip().endswith("succeeded")


def need(packages):
    """Ends the program if a command is missing, and names the Debian package that has it."""
    if missing := [f"{tool} (Debian package {package})" for tool, package in packages.items() if not shutil.which(tool)]:
        sys.exit("not installed: " + ", ".join(missing))


def in_own_namespaces(judge_host):
    """Goes on in network, mount and process namespaces of its own; the caller's process waits and ends them, at SIGTERM too."""
    if os.environ.get("SEALWAY_IN_NAMESPACE") == "1":
        return
    judge_host()
    inside = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    # unshare itself ignores SIGTERM, and takes its child with it when it is killed.
    child = subprocess.Popen([*inside, sys.executable, *sys.argv], env=os.environ | {"SEALWAY_IN_NAMESPACE": "1"})
    signal.signal(signal.SIGTERM, lambda *_: child.kill())
    sys.exit(child.wait())


# An echo behind TLS, on both addresses.
WORLD_CODE = """
import socket, ssl, threading
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain({certificate!r}, {key!r})
def serve(connection):
    try:
        connection.settimeout(5)
        with context.wrap_socket(connection, server_side=True) as session:
            session.sendall(session.recv(4))
    except OSError:
        pass
def accept(listener):
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
for address in {addresses!r}:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, 443), family=family, backlog=256)
    threading.Thread(target=accept, args=(listener,)).start()
print("listens", flush=True)
"""

# Opens a tunnel each interval, in turn to the hosts, and prints the host when four bytes have come back through it.
CLIENT_CODE = """
import itertools, os, socket, ssl, threading, time
context = ssl.create_default_context(cafile={certificate!r})
def attempt(host, proxy):
    try:
        with socket.create_connection((proxy, 9293), timeout=1) as connection:
            connection.sendall(f"CONNECT {{host}}:443 HTTP/1.1\\r\\nHost: {{host}}:443\\r\\n\\r\\n".encode())
            head = b""
            while b"\\r\\n\\r\\n" not in head:
                piece = connection.recv(1024)
                if not piece:
                    return
                head += piece
            if b" 200 " not in head.split(b"\\r\\n")[0]:
                return
            with context.wrap_socket(connection, server_hostname=host) as session:
                session.sendall(b"ping")
                if session.recv(4) == b"ping":
                    os.write(1, f"{{host}}\\n".encode())
    except OSError:
        pass
for host, proxy in itertools.cycle({proxies!r}.items()):
    threading.Thread(target=attempt, args=(host, proxy), daemon=True).start()
    time.sleep({interval!r})
"""
