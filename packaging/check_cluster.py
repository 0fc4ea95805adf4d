"""Runs the daemon with the manifests' own configuration, as a node would: check_cluster.py MANIFESTS SEALWAY.

The ConfigMap and the Secret lie in folders as the kubelet makes them, with `..data` as a link that is swapped; the node has one
of the two static addresses; the daemon runs as the pod's user without capabilities. Shows that the node is ready, that a
changed Secret adds and removes users without a signal, and that a stop is first a 503 on /readyz, then a refusal, then exit 0.
Needs root, ip, setpriv and unshare; stands in for a cluster, of which nothing else runs here.
"""

import base64
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

CLIENT, OWN = "192.0.2.5", "203.0.113.7"


def main(manifests, sealway):
    if os.environ.get("CHECK_CLUSTER") != "inside":
        os.environ["CHECK_CLUSTER"] = "inside"
        os.execvp("unshare", ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", sys.executable, *sys.argv])
    for command in ("link set lo up", f"address add {OWN}/32 dev lo", f"address add {CLIENT}/24 dev lo"):
        subprocess.run(["ip", *command.split()], check=True)
    objects = {item["kind"]: item for item in yaml.safe_load_all(Path(manifests).read_text())}
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        node = Node(Path(folder), objects, os.path.abspath(sealway))
        with node.running():
            check(node)
    print("a node is ready, follows its Secret, and drains")


class Node:
    """A node's folders for one pod, and its daemon."""

    def __init__(self, folder, objects, sealway):
        self.folder, self.sealway, self.version = folder, sealway, 0
        pod = objects["DaemonSet"]["spec"]["template"]["spec"]
        self.uid = str(pod["securityContext"]["runAsUser"])
        text = objects["ConfigMap"]["data"]["sealway.toml"].replace("/run/sealway/secrets", f"{folder}/secrets")
        # The order of a stop is what counts here, not its length.
        self.config = re.sub('drain_delay = "10s"', 'drain_delay = "4s"', text)
        self.tokens = {"admin.token": "0123456789abcdef" * 4}

    def add_user(self, name):
        """Adds a user to a copy of the users file; returns the credentials."""
        [secret] = re.findall(rf"//{name}:([^@]+)@", self.user("add", name))[:1]
        return f"{name}:{secret}"

    def user(self, verb, name):
        desk = self.folder / "desk"
        desk.mkdir(exist_ok=True)
        (desk / "sealway.toml").write_text('[auth]\nusers_file = "users.toml"\n')
        command = [self.sealway, "user", verb, name, "--config", str(desk / "sealway.toml")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def users(self):
        return (self.folder / "desk" / "users.toml").read_text()

    def write(self, volume, files):
        """Writes a volume as the kubelet does: a new folder, then a link to it by rename(2)."""
        place, self.version = self.folder / volume, self.version + 1
        new = place / f"..2026_11_29.{self.version}"
        new.mkdir(parents=True)
        for name, content in files.items():
            (new / name).write_text(content)
            os.chown(new / name, 0, int(self.uid))
            os.chmod(new / name, 0o440)
            if not (place / name).is_symlink():
                (place / name).symlink_to(f"..data/{name}")
        before = (place / "..data").resolve() if (place / "..data").is_symlink() else None
        (place / "..data_tmp").symlink_to(new.name)
        (place / "..data_tmp").rename(place / "..data")
        if before:
            shutil.rmtree(before)

    @contextlib.contextmanager
    def running(self):
        self.write("config", {"sealway.toml": self.config})
        self.alice = self.add_user("alice")
        self.write("secrets", {**self.tokens, "users.toml": self.users()})
        command = ["setpriv", f"--reuid={self.uid}", f"--regid={self.uid}", "--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        command += [self.sealway, "run", "--config", str(self.folder / "config" / "sealway.toml")]
        with open(self.folder / "log", "w") as log:
            self.daemon = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            yield
        finally:
            self.daemon.kill()
            self.daemon.wait()

    def fail(self, what):
        sys.exit(f"the cluster: {what}\n{(self.folder / 'log').read_text()[-4_000:]}")

    def until(self, what, reached):
        end = time.monotonic() + 20
        while not reached():
            if time.monotonic() > end or self.daemon.poll() is not None:
                self.fail(f"waited in vain: {what}")
            time.sleep(0.2)


def ready():
    """The status of /readyz, as the kubelet sees it; None without an answer."""
    try:
        return urllib.request.urlopen("http://127.0.0.1:9294/readyz", timeout=5).status
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return None


def connect(credentials):
    """The status of a CONNECT with these credentials to a host that the policy denies; None if nobody accepts."""
    login = base64.b64encode(credentials.encode()).decode()
    try:
        with socket.create_connection((CLIENT, 9293), timeout=10, source_address=(CLIENT, 0)) as stream:
            stream.sendall(f"CONNECT example.com:443 HTTP/1.1\r\nProxy-Authorization: Basic {login}\r\n\r\n".encode())
            return int(stream.makefile("rb").readline().split()[1])
    except OSError:
        return None


def check(node):
    node.until("it is ready, though the other node's address is not here", lambda: ready() == 200)
    if "203.0.113.8" in "".join(line for line in (node.folder / "log").open() if '"WARN"' in line):
        node.fail("it warns of the address of the other node")
    if connect(node.alice) != DENIED:
        node.fail("alice is not known")
    bob = node.add_user("bob")
    if connect(bob) != UNKNOWN:
        node.fail("bob is known before he is in the Secret")
    node.write("secrets", {**node.tokens, "users.toml": node.users()})
    node.until("bob comes with the Secret", lambda: connect(bob) == DENIED)
    # And alice goes with it.
    node.user("remove", "alice")
    node.write("secrets", {**node.tokens, "users.toml": node.users()})
    node.until("alice goes with the Secret", lambda: connect(node.alice) == UNKNOWN)

    node.daemon.send_signal(signal.SIGTERM)
    node.until("a stop is a 503 first", lambda: ready() == 503)
    delay = time.monotonic() + 1.5
    while time.monotonic() < delay:
        if connect(bob) != DENIED:
            node.fail("new clients are refused before the Service has dropped the pod")
        time.sleep(0.1)
    if node.daemon.wait(timeout=40) != 0:
        node.fail(f"it ended with {node.daemon.returncode}")


# host_denied: the credentials are right. auth_required: they are not.
DENIED, UNKNOWN = 403, 407

main(*sys.argv[1:])
