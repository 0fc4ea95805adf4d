"""What the trials of the hand-over share: a machine with a real systemd, the package on it, and the load around it."""

import json
import os
import queue
import re
import shutil
import signal
import ssl
import subprocess
import threading
import time
from pathlib import Path

from clients import plain_get
from internet import MACHINE_INSIDE, STATIC, Internet, inside, run
from machine import Machine, until

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ["systemd-nspawn", "ip", "nsenter", "pgrep", "openssl", "mount", "umount", "dpkg-deb"]
UPSTREAM, HOST = "203.0.113.81", "stream.example.com"
LISTENER, ADMIN = (MACHINE_INSIDE, 9293), ("127.0.0.1", 9294)
# Of a proxy without CONNECT: one for each port of the upstream.
CLIENT_LISTENERS = (LISTENER, (MACHINE_INSIDE, 9294))
LOG = "/var/log/sealway/audit.jsonl"
# One user may not have all tunnels of a daemon.
OWNERS = ("alice", "bob")
# How much each bulk tunnel moves in a second, and all of the paced user.
RATE = 10_000_000
# How often an idle tunnel says something.
PING_MS = 1500

# Kinds whose frames carry the time that they take.
TIMED = ("idle", "stream", "half_up", "half_down")

CONFIG = f"""
[[listener]]
address = "{MACHINE_INSIDE}:9293"
allow_cleartext = true
[egress]
addresses = ["{STATIC}"]
[policy]
presets = []
allow = ["{HOST}", "{HOST}:8443"]
allow_destinations = ["{UPSTREAM}"]
[dns.hosts]
"{HOST}" = ["{UPSTREAM}"]
[auth]
users_file = "users.toml"
[limits]
# All tunnels are one client's, and half of the load is stalled or unfinished on purpose.
tunnels_per_user = 20000
tunnels_per_client = 0
accept_rate = 0
connect_rate = 0
stalled_per_user = 60000
[timeouts]
drain = "4s"
stalled = "1h"
half_close = "1h"
[audit]
file = "{LOG}"
"""


def mixture(few, idle):
    """So many tunnels of each kind: those whose frames are timed, and those that move as much as they can."""
    half = max(1, few // 2)
    timed = {"idle": idle, "stream": few * 5 // 2, "half-up": half, "half-down": half}
    return timed, dict.fromkeys(("bulk-down", "bulk-up", "stalled-down", "stalled-up", "paced-down", "paced-up"), half)


class Stage:
    """The machine, the internet around it, and what was found so far."""

    def __init__(self, folder, load, below="/", ping_ms=PING_MS, rate=RATE):
        self.folder, self.load_program, self.ping_ms, self.rate = Path(folder), str(load), ping_ms, rate
        self.net = Internet(self.folder)
        self.machine = Machine(self.folder, self.net.machine, below)
        self.failures, self.loads, self.users = 0, [], {}

    # --- setting up, taking away ---

    def open(self):
        self.open_network()
        self.machine.boot()
        print("#", self.machine.do("systemctl --version | head -n 1"), flush=True)

    def open_network(self):
        self.net.open()
        run("ip", "-n", self.net.beyond, "address", "add", f"{UPSTREAM}/32", "dev", "lo")
        self.record_greeting()

    def record_greeting(self):
        """A ClientHello and the answer to it, from the TLS library of Python."""
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server_context.load_cert_chain(self.folder / "google.pem", self.folder / "google.key")
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = ssl.create_default_context().wrap_bio(to_client, to_server, server_hostname=HOST)
        server = server_context.wrap_bio(to_server, to_client, server_side=True)
        for name, end, out in (("hello.bin", client, to_server), ("answer.bin", server, to_client)):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                pass
            said = out.read()
            (self.folder / name).write_bytes(said)
            out.write(said)
        self.hello_bytes = (self.folder / "hello.bin").stat().st_size
        self.answer_bytes = (self.folder / "answer.bin").stat().st_size

    def start(self, package, socket=True, config=CONFIG, drop_in=""):
        """Installs the package, makes the users and starts the service."""
        self.install(package)
        self.machine.write("/etc/systemd/system/sealway.socket.d/address.conf", f"[Socket]\nListenStream=\nListenStream={MACHINE_INSIDE}:9293\n")
        if drop_in:
            self.machine.write("/etc/systemd/system/sealway.service.d/trial.conf", drop_in)
        self.configure(config)
        for name in (*OWNERS, "paula"):
            printed = self.machine.do(f"sealway user add {name} --config /etc/sealway/sealway.toml")
            self.users[name] = f"{name}:" + re.search(rf"http://{name}:([^@\s]+)@", printed)[1]
        self.change_users({"paula": f"bytes_per_second = {self.rate}"})
        self.machine.do("systemctl daemon-reload && systemctl enable sealway.service sealway.socket")
        if not socket:
            self.machine.do("systemctl disable sealway.socket")
        self.machine.do("systemctl start sealway.socket" if socket else "true")
        self.machine.do("systemctl start sealway.service")

    def change_users(self, lines):
        """Adds a line to each of these users, and returns the text before that."""
        file = self.machine.root / "etc/sealway/users.toml"
        before = text = file.read_text()
        for name, line in lines.items():
            assert f"[users.{name}]\n" in text, text
            text = text.replace(f"[users.{name}]\n", f"[users.{name}]\n{line}\n")
        file.write_text(text)
        return before

    def install(self, package):
        shutil.copy(package, self.machine.root / "sealway.deb")
        # As apt does it without a terminal.
        self.machine.do("DEBIAN_FRONTEND=noninteractive dpkg --install --force-confold /sealway.deb && rm /sealway.deb")

    def configure(self, text):
        self.machine.write("/etc/sealway/sealway.toml", text)

    def close(self):
        for load in self.loads:
            load.kill()
        try:
            self.machine.close()
        finally:
            self.net.close()

    # --- what was found ---

    def check(self, what, holds, why=""):
        if holds:
            print(f"ok - {what}", flush=True)
        else:
            self.failures += 1
            print(f"not ok - {what}: {str(why)[:2000]}", flush=True)
        return bool(holds)

    def tell(self):
        """All that the machine has to say."""
        if self.machine.init:
            print(self.machine.ask("journalctl --no-pager -o short-precise -u 'sealway*' | grep -v outlived | tail -n 100").stdout)
            print(self.machine.ask("systemctl status --no-pager sealway.service sealway.socket").stdout)

    # --- the service ---

    def main_pid(self):
        return int(self.machine.show("sealway", "MainPID"))

    def former(self):
        """The process of a daemon that has outlived its main process; None if there is none."""
        found = self.machine.ask("pgrep -x '\\(sealway\\)'").stdout.split()
        return int(found[0]) if found else None

    def state(self):
        return self.machine.show("sealway", "ActiveState")

    def stored(self):
        return int(self.machine.show("sealway", "NFileDescriptorStore"))

    def is_active(self):
        return self.state() == "active"

    def restart(self):
        """`systemctl restart`, and how long it took."""
        begin = time.monotonic()
        self.machine.do("systemctl restart sealway")
        return time.monotonic() - begin

    def journal(self, since):
        """What the service has said since this time of the machine."""
        return self.machine.do(f"journalctl --no-pager -o cat -u sealway --since @{since:.6f}")

    def metrics(self):
        return inside(self.net.machine, plain_get, ADMIN, "/metrics")[1]

    def tunnels(self):
        """The ids of the live tunnels by the client's address."""
        said = json.loads(self.machine.do("sealway tunnels --json --config /etc/sealway/sealway.toml"))
        return {one["client"]: one["id"] for one in said["tunnels"]}

    def ids(self, traffic):
        """The same of these tunnels, without newcomers."""
        return {client: number for client, number in self.tunnels().items() if client in traffic.locals}

    def audit(self):
        # The folder can be a file system that only the machine sees.
        return [json.loads(line) for line in self.machine.do(f"cat {LOG}").splitlines() if line]

    def records(self, event="tunnel"):
        return [one for one in self.audit() if one["event"] == event]

    def verify_chain(self):
        said = self.machine.ask(f"sealway audit verify {LOG}")
        self.check("the chain of audit records verifies", said.returncode == 0 and said.stdout.startswith("ok:"), said.stdout + said.stderr)

    # --- the load ---

    def load(self, few, idle, *, proxies=(LISTENER, LISTENER), connects=True, newcomers=4):
        """Opens the tunnels. Those that move as much as they can have processes of their own, which yield to the others:
        a frame that waits for its own end's processor says nothing of the proxy."""
        pairs, bulk = [], ["--bulk-rate", str(self.rate)]
        for port, proxy, counts, first in zip((443, 8443), proxies, mixture(few, idle), (0, 100_000), strict=True):
            nice = 0 if port == 443 else 19
            upstream = Load(self, self.net.beyond, ["serve", "--address", f"{UPSTREAM}:{port}", *bulk], nice)
            upstream.line(10)
            words = ["drive", "--proxy", "%s:%d" % proxy, "--ping-ms", str(self.ping_ms), "--first", str(first), *bulk]
            words += ["--newcomers", str(newcomers if port == 443 else 0)]
            if connects:
                words += ["--authority", f"{HOST}:{port}", "--paced-user", self.users["paula"]]
                words += [word for name in OWNERS for word in ("--user", self.users[name])]
            for kind, count in counts.items():
                words += ["--tunnels", f"{kind}={count}"]
            pairs.append((Load(self, self.net.client, words, nice), upstream))
        opened = [clients.line(240) for clients, _ in pairs]
        count, took = sum(one["opened"] for one in opened), max(one["took_ms"] for one in opened) / 1000
        self.check(f"{count} tunnels are open after {took:.1f} s", count == sum(sum(one.values()) for one in mixture(few, idle)), [one["reason"] for one in opened])
        return Traffic(pairs, self.ping_ms, {client for one in opened for client in one["locals"]})


    def judge(self, traffic, name, act, bar, drops=False):
        """Does something to the service and checks what the tunnels have seen of it. `drops` allows that they are lost."""
        traffic.mark()
        begin = time.monotonic()
        act()
        took = time.monotonic() - begin
        # Each idle tunnel says something after it, and is answered.
        time.sleep(self.ping_ms / 1000 + 0.5)
        seen = traffic.mark()
        what = f"{name} ({took:.2f} s): {seen.alive} tunnels live, {seen.newcomers['served']} newcomers"
        figures = f"pause {seen.pause:.0f} ms, half of the idle ones {seen.idle_median:.1f} ms; bulk {seen.bulk_pause:.0f} ms; a newcomer {seen.newcomers['worst_ms']:.0f} ms"
        if drops:
            self.check(f"{what}; {seen.lost_here} lost", True)
        else:
            self.check(f"{what}, none lost", not seen.lost, f"{len(seen.lost)} ends: {seen.lost[:5]}")
            self.check(f"  {figures}", bar is None or seen.pause <= bar, f"more than {bar} ms")
            self.check("  and bytes flow in all of them", not seen.silent, f"silent for ms: {seen.silent}")
        self.check("  no newcomer was refused", not seen.newcomers["refused"] and seen.newcomers["served"], seen.newcomers)
        return seen


class Traffic:
    """Both ends of all tunnels."""

    def __init__(self, pairs, ping_ms, clients):
        self.pairs, self.locals, self.served, self.refused = pairs, clients, 0, []
        # A tunnel that has heard nothing for so long is lost, whatever the kernel says of its sockets.
        self.silence_ms = 2 * ping_ms + 1500

    def mark(self):
        """What was seen since the last mark."""
        ends = [end for pair in self.pairs for end in pair]
        for end in ends:
            end.say("mark")
        seen = Seen([end.line(60) for end in ends], self.silence_ms)
        self.count(seen.newcomers)
        return seen

    def count(self, newcomers):
        self.served += newcomers["served"]
        self.refused += newcomers["reasons"]

    def finish(self):
        """Ends all tunnels in order and returns the reports of the clients' ends and the upstreams'."""
        for clients, upstream in self.pairs:
            upstream.say("ending")
            upstream.line(60)
            clients.say("finish")
        # The upstreams accept until the last newcomer has gone.
        for clients, _ in self.pairs:
            self.count(clients.line(120)["newcomers"])
        reports, theirs = [], []
        for clients, upstream in self.pairs:
            upstream.say("finish")
        for clients, upstream in self.pairs:
            reports += clients.rest(120)
            theirs += upstream.rest(120)
        return reports, theirs


    def kill(self):
        for pair in self.pairs:
            for end in pair:
                end.kill()


class Seen:
    """One mark of all ends."""

    def __init__(self, marks, silence_ms):
        kinds = [(kind, seen) for mark in marks for kind, seen in mark["kinds"].items()]
        self.newcomers = marks[0]["newcomers"]
        self.here = {kind: seen for mark in marks[::2] for kind, seen in mark["kinds"].items()}
        self.alive = sum(mark["alive"] for mark in marks[::2])
        self.lost = [one for mark in marks for one in mark["lost"]]
        self.lost_here = sum(len(mark["lost"]) for mark in marks[::2])
        self.pause = max((seen["worst_ms"] for kind, seen in kinds if kind in TIMED), default=0)
        self.idle_median = marks[0]["kinds"].get("idle", {}).get("median_ms", 0)
        self.bulk_pause = max((seen["worst_ms"] for kind, seen in kinds if kind.startswith(("bulk", "paced"))), default=0)
        # The processes with bulk yield to all others, so on a busy machine they can be silent for long.
        self.silent = {kind: seen["silent_ms"] for kind, seen in kinds if kind in TIMED and seen["silent_ms"] > silence_ms}


class Load:
    """One process of the load program."""

    def __init__(self, stage, namespace, words, nice=0):
        self.words = words[0]
        program = ["nice", "-n", str(nice), "nsenter", f"--net=/run/netns/{namespace}", "--", stage.load_program, *words]
        self.process = subprocess.Popen(program, cwd=stage.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()
        stage.loads.append(self)

    def read(self):
        for line in self.process.stdout:
            self.lines.put(json.loads(line))
        self.lines.put(None)

    def line(self, seconds):
        try:
            said = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise RuntimeError(f"the load ({self.words}) says nothing within {seconds} s") from None
        if said is None:
            raise RuntimeError(f"the load ({self.words}) has ended: {self.process.wait()}")
        return said

    def say(self, word):
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()

    def rest(self, seconds):
        """All remaining lines, once the process has ended."""
        end, lines = time.monotonic() + seconds, []
        while (said := self.lines.get(timeout=max(0.1, end - time.monotonic()))) is not None:
            lines.append(said)
        self.process.wait(10)
        return lines

    def kill(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


def as_package(given, folder, version=None, tree=ROOT):
    """A package as it is, or as another version, or made of a binary and the units and scripts of a source tree."""
    given, work = Path(given), Path(folder) / f"package-{version}-{time.monotonic_ns()}"
    if given.suffix == ".deb" and not version:
        return given
    if given.suffix == ".deb":
        run("dpkg-deb", "-R", str(given), str(work))
        control = work / "DEBIAN/control"
        control.write_text(re.sub(r"^Version: .*$", f"Version: {version}", control.read_text(), flags=re.M))
    else:
        lay_package(given, work, version or "0.1.0-1", Path(tree))
    package = work.with_suffix(".deb")
    run("dpkg-deb", "--root-owner-group", "-Zgzip", "-z1", "-b", str(work), str(package))
    shutil.rmtree(work)
    return package


def lay_package(binary, work, version, tree):
    places = {
        "usr/bin": [binary],
        "usr/lib/systemd/system": (tree / "deploy/systemd").glob("sealway*"),
        "usr/lib/sysusers.d": (tree / "deploy/sysusers.d").iterdir(),
        "usr/lib/tmpfiles.d": (tree / "deploy/tmpfiles.d").iterdir(),
        "etc/logrotate.d": (tree / "deploy/logrotate").iterdir(),
        "usr/share/doc/sealway/examples/systemd": (tree / "deploy/systemd").glob("*.conf"),
        "etc/sealway": [tree / "deploy/sealway.toml"],
        "DEBIAN": [tree / f"packaging/debian/{name}" for name in ("postinst", "prerm", "postrm")],
    }
    for place, files in places.items():
        (work / place).mkdir(parents=True)
        for file in files:
            shutil.copy(file, work / place)
    shutil.move(work / "usr/bin" / binary.name, work / "usr/bin/sealway")
    os.chmod(work / "usr/bin/sealway", 0o755)
    (work / "DEBIAN/conffiles").write_text("/etc/sealway/sealway.toml\n/etc/logrotate.d/sealway\n")
    (work / "DEBIAN/control").write_text(
        f"Package: sealway\nVersion: {version}\nArchitecture: all\nMaintainer: trial <trial@example.com>\nDescription: made by tests/handover\n"
    )


def build_load():
    words = ["cargo", "build", "--quiet", "--locked", "--package", "sealway-handover-load"]
    # Its clients share the processors with the daemon, so they are optimised.
    environment = os.environ | {"CARGO_PROFILE_DEV_OPT_LEVEL": "1"}
    subprocess.run(words, cwd=ROOT, check=True, env=environment)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve() / "debug/sealway-handover-load"
