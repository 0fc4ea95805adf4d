"""SIGKILL to the old daemon and to the new one at each step of the hand-over, and other faults by strace(1)."""

import contextlib
import subprocess
import time
from pathlib import Path

from cases import begin, drop_in, end_badly, end_well
from compare import judge_ids
from stage import until

# strace and the script that starts it need what the unit's sandbox keeps away.
OPEN_SANDBOX = """[Service]
SystemCallFilter=
NoExecPaths=
ExecPaths=
MemoryDenyWriteExecute=no
ProtectProc=default
"""

START = """#!/bin/sh
# Starts the daemon, and once under strace if there is a file that says how.
if [ -e /var/lib/sealway/inject ]; then
  inject=$(cat /var/lib/sealway/inject)
  rm /var/lib/sealway/inject
  exec strace -DD -f -qq -o /dev/null -e inject="$inject" /usr/bin/sealway "$@"
fi
exec /usr/bin/sealway "$@"
"""

# Which process dies, at which call of which kind of one of its threads, with how many idle tunnels, and what becomes of
# all tunnels. `kept`: they go on. `lost`: they were parked, so they end as resets with a record each. `crashed`: it was as
# with any SIGKILL. `recorded`: so it was for the clients, but the list of parked tunnels was still there.
MOMENTS = {
    "old_before_the_freeze": ("old", "sendmsg", 1, 20, "crashed"),
    "old_among_the_tunnels": ("old", "sendmsg", 2, 300, "crashed"),
    "old_before_the_state": ("old", "memfd_create", 1, 300, "lost"),
    "old_at_the_last_message": ("old", "sendmsg", 2, 20, "lost"),
    "old_at_its_exit": ("old", "exit_group", 1, 300, "kept"),
    "new_at_its_first_look": ("new", "recvmsg", 1, 300, "kept"),
    "new_at_a_later_look": ("new", "recvmsg", 3, 300, "kept"),
    "new_at_its_first_epoll": ("new", "epoll_create1", 1, 300, "kept"),
    "new_after_the_takeover": ("new", "fdatasync", 1, 300, "recorded"),
}


def play(stage, name):
    which, call, when, idle, outcome = MOMENTS[name]
    if which == "new":
        stage.machine.write("/opt/trial/start", START)
        stage.machine.do("chmod -R a+rx /opt/trial")
        drop_in(stage, OPEN_SANDBOX + "ExecStart=\nExecStart=/opt/trial/start run --config /etc/sealway/sealway.toml\n")
        stage.machine.do("systemctl restart sealway")
    traffic, ids = begin(stage, idle=idle, newcomers=0)
    fault = f"signal=SIGKILL:when={when}"
    if which == "new":
        stage.machine.write("/var/lib/private/sealway/inject", f"{call}:{fault}")
        at = time.time()
        stage.machine.ask("systemctl restart sealway")
    else:
        at = time.time()
        with traced(stage, call, fault):
            stage.machine.ask("systemctl restart sealway")
    if call != "exit_group":
        until(f"the {which} daemon to be killed at {call} number {when}", lambda: "status=9/KILL" in stage.journal(at), 10)
    until("the service", stage.is_active, 20)
    stage.check(f"the {which} daemon was killed at {call} number {when}, and the next one runs", True)
    if outcome == "kept":
        end_well(stage, traffic, ids)
    elif outcome == "lost":
        end_badly(stage, traffic, ids, {"handover_lost"})
    else:
        judge_ids(stage, ids, {"handover_lost"} if outcome == "recorded" else {"handover_lost", None})
        stage.verify_chain()


@contextlib.contextmanager
def traced(stage, call, fault):
    """All threads of the daemon under strace, which injects this fault into this call."""
    process = stage.machine.process(stage.main_pid())
    words = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{fault}", "-p", str(process)]
    tracer = subprocess.Popen(words)
    try:
        until("strace to attach", lambda: tracer.poll() is None and is_traced(process), 10)
        yield
    finally:
        tracer.terminate()
        tracer.wait(10)


def is_traced(process):
    """Whether all its threads are."""
    try:
        tasks = [Path(task, "status").read_text() for task in Path(f"/proc/{process}/task").iterdir()]
    except OSError:
        return False
    return all("TracerPid:\t0\n" not in status for status in tasks)
