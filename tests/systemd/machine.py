"""A machine whose PID 1 is a real systemd: systemd-nspawn over an overlay, in memory, of this host's own root or of another.

It writes nothing to that root, starts none of its enabled services, and has the network that it is given.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

from internet import NAME_SERVER, run


class Machine:
    """The running machine; `close` powers it off and takes away what it left."""

    def __init__(self, folder, network, below="/"):
        self.folder, self.network, self.below = Path(folder), network, below
        self.memory, self.root = self.folder / "memory", self.folder / "root"
        self.groups, self.nspawn, self.init = [], None, None
        self.console = self.folder / "console.log"

    def boot(self):
        self.lay_root()
        self.make_groups()
        words = ["systemd-nspawn", "--quiet", f"--directory={self.root}", "--boot", "--register=no", "--resolv-conf=off"]
        words += ["--console=pipe", "--timezone=off", f"--network-namespace-path=/run/netns/{self.network}"]
        # Debian 12's nspawn keeps Landlock from its machines.
        words.append("--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self")
        if self.groups:
            words.append("--keep-unit")
        with self.console.open("wb") as console:
            self.nspawn = subprocess.Popen(
                [*words, "systemd.unit=multi-user.target"],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # What later versions of systemd insist on.
                env=os.environ | {"SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"},
                preexec_fn=self.enter_groups,
            )
        self.init = until("the machine's PID 1", self.find_init, 20)
        until("the machine to be up", self.is_up, 60)

    def lay_root(self):
        self.memory.mkdir()
        self.root.mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", str(self.memory))
        (self.memory / "upper").mkdir()
        (self.memory / "work").mkdir()
        layers = f"lowerdir={self.below},upperdir={self.memory}/upper,workdir={self.memory}/work"
        run("mount", "-t", "overlay", "overlay", "-o", layers, str(self.root))
        system = self.root / "etc/systemd/system"
        for wants in system.glob("*.wants"):
            run("rm", "-rf", str(wants))
        (system / "multi-user.target.wants").mkdir(parents=True)
        # A host that is a container forbids packages to start services; a machine does not.
        (self.root / "usr/sbin/policy-rc.d").unlink(missing_ok=True)
        (self.root / "etc/machine-id").write_text("")
        (self.root / "etc/resolv.conf").unlink(missing_ok=True)
        (self.root / "etc/resolv.conf").write_text(f"nameserver {NAME_SERVER}\n")

    def make_groups(self):
        """Where this host has no systemd that makes a scope, a control group of our own, so that what nspawn leaves in it
        is ours to remove."""
        if Path("/run/systemd/system").exists():
            return
        hierarchies = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
        for hierarchy in map(Path, hierarchies):
            if (hierarchy / "cgroup.procs").exists():
                group = hierarchy / f"sealway-{os.getpid()}"
                group.mkdir()
                self.groups.append(group)

    def enter_groups(self):
        for group in self.groups:
            (group / "cgroup.procs").write_text("0")

    def find_init(self):
        if self.nspawn.poll() is not None:
            raise RuntimeError(f"systemd-nspawn ended: {self.console.read_text(errors='replace')}")
        children = subprocess.run(["pgrep", "-P", str(self.nspawn.pid)], capture_output=True, text=True, check=False)
        return next((int(child) for child in children.stdout.split() if numbers(Path("/proc", child))[1:] == [1]), None)

    def is_up(self):
        # "degraded" is up: a service of the host's own that fails in a container is no matter of ours.
        return self.ask("systemctl is-system-running").stdout.strip() in ("running", "degraded")

    def ask(self, command, **options):
        """Runs a shell command in the machine, whatever its exit status."""
        enter = ["nsenter", "-t", str(self.init), "-m", "-u", "-i", "-n", "-p", "-C", "--", "env", "-i"]
        enter += ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0"]
        words = [*enter, "sh", "-c", command]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=120, cwd="/", **options)

    def do(self, command, **options):
        """Runs a shell command in the machine that has to succeed, and returns what it printed."""
        done = self.ask(command, **options)
        if done.returncode != 0:
            raise RuntimeError(f"in the machine: {command}: exit status {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout.strip()

    def write(self, path, text):
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def show(self, unit, name):
        return self.do(f"systemctl show -P {name} {unit}")

    def daemon(self):
        """The process of the daemon: the child of the main process, or that itself."""
        main = self.show("sealway", "MainPID")
        return int(self.ask(f"pgrep -P {main} -x sealway").stdout or main)

    def process(self, pid):
        """The host's number of a process of the machine."""
        namespace = os.readlink(f"/proc/{self.init}/ns/pid")
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and numbers(entry)[1:] == [pid] and os.readlink(entry / "ns/pid") == namespace:
                return int(entry.name)
        raise RuntimeError(f"the machine has no process {pid}")

    def close(self):
        if self.nspawn and self.nspawn.poll() is None:
            if self.init:
                self.ask("systemctl poweroff")
            try:
                self.nspawn.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.nspawn.pid, signal.SIGKILL)
                self.nspawn.wait()
        for place in (self.root, self.memory):
            subprocess.run(["umount", str(place)], check=False, stderr=subprocess.DEVNULL)
        for group in self.groups:
            until("the machine's control groups to be empty", lambda group=group: remove(group), 10)


def numbers(entry):
    """A process's number in this namespace and in each one that it is in, the outermost first."""
    try:
        lines = (entry / "status").read_text().splitlines()
    except OSError:
        return []  # It ended while we looked.
    return next(([int(word) for word in line.split()[1:]] for line in lines if line.startswith("NSpid:")), [])


def remove(group):
    for folder, _, _ in os.walk(group, topdown=False):
        try:
            os.rmdir(folder)
        except OSError:
            return False
    return True


def until(what, condition, seconds):
    """Asks until the condition says something true, and returns it."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise RuntimeError(f"waited {seconds} s for {what}")
        time.sleep(0.02)
    return value
