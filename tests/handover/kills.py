"""SIGKILL to the old daemon and to the new one at each step of the hand-over, and other faults by strace(1)."""

import contextlib
import re
import subprocess
import time
from collections import Counter
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
# all tunnels. A message has a name, because its number changes with the code around it. `kept`: they go on. `thawed`: they
# stood still, and then went on where they were. `lost`: they
# were parked, so they end as resets with a record each. `crashed`: it was as with any SIGKILL. `recorded`: so it was for
# the clients, but the list of parked tunnels was still there.
MOMENTS = {
    "old_before_the_freeze": ("old", "sendmsg", "the probe", 20, "crashed"),
    "old_among_the_tunnels": ("old", "sendmsg", "the second tunnels", 300, "crashed"),
    "old_before_the_state": ("old", "memfd_create", 1, 300, "lost"),
    "old_at_the_last_message": ("old", "sendmsg", "the state", 20, "lost"),
    "old_at_its_exit": ("old", "exit_group", 1, 300, "kept"),
    "new_at_its_first_look": ("new", "recvmsg", 1, 300, "kept"),
    "new_at_a_later_look": ("new", "recvmsg", 3, 300, "kept"),
    "new_at_its_first_epoll": ("new", "epoll_create1", 1, 300, "kept"),
    "new_after_the_takeover": ("new", "fdatasync", 1, 300, "recorded"),
}

# The same while the former daemon carries its tunnels: the next one receives two messages with sockets and the description, then
# the epolls and what has changed.
WHILE_CARRIED = {
    "new_at_its_first_look": MOMENTS["new_at_its_first_look"],
    "new_at_a_later_look": MOMENTS["new_at_a_later_look"],
    "new_at_its_first_epoll": MOMENTS["new_at_its_first_epoll"],
    "new_after_its_claim": ("new", "recvmsg", 10, 100, "thawed"),
    "new_after_the_takeover": MOMENTS["new_after_the_takeover"],
    "old_at_the_description": ("old", "sendmsg", "the description", 20, "crashed"),
    "old_at_the_changes": ("old", "sendmsg", "the changes", 20, "crashed"),
    "old_at_its_last_word": ("old", "sendmsg", "its last word", 20, "kept"),
}

# The messages of a hand-over: how many like it the thread has sent before, and what strace shows of it.
MESSAGES = {
    "the probe": (0, r'iov_base="D".*msg_controllen=0'),
    "the second tunnels": (1, r'iov_base="D".*SCM_RIGHTS'),
    "the state": (0, r'iov_base="S".*SCM_RIGHTS'),
    "the description": (0, r'iov_base="S".*SCM_RIGHTS'),
    "the changes": (0, r'iov_base="C".*SCM_RIGHTS'),
    "its last word": (0, r'iov_base="L".*msg_controllen=0'),
}


def play(stage, moment, flag=""):
    which, call, when, idle, outcome = moment
    if which == "new":
        stage.machine.write("/opt/trial/start", START)
        stage.machine.do("chmod -R a+rx /opt/trial")
        drop_in(stage, OPEN_SANDBOX + f"ExecStart=\nExecStart=/opt/trial/start run {flag}--config /etc/sealway/sealway.toml\n")
        stage.machine.do("systemctl restart sealway")
    traffic, ids = begin(stage, idle=idle, newcomers=0)
    thread, when = find_message(stage, when) if call == "sendmsg" else ("", when)
    fault = f"signal=SIGKILL:when={when}"
    if which == "new":
        stage.machine.write("/var/lib/private/sealway/inject", f"{call}:{fault}")
        at = time.time()
        stage.machine.ask("systemctl restart sealway")
    else:
        at = time.time()
        with traced(stage, call, fault, thread):
            stage.machine.ask("systemctl restart sealway")
    if which == "old" and flag:
        # Its end is not the service's.
        until(f"the former daemon to be killed at {call} number {when}", lambda: not stage.former(), 5)
    elif call != "exit_group":
        until(f"the {which} daemon to be killed at {call} number {when}", lambda: "status=9/KILL" in stage.journal(at), 10)
    until("the service", stage.is_active, 20)
    stage.check(f"the {which} daemon was killed at {call} number {when}, and the next one runs", True)
    if outcome == "thawed":
        stage.check("the tunnels flowed again in the former one", "they flow again" in stage.journal(at), stage.journal(at)[-1500:])
    if outcome in ("kept", "thawed"):
        end_well(stage, traffic, ids)
    elif outcome == "lost":
        end_badly(stage, traffic, ids, {"handover_lost"})
    else:
        judge_ids(stage, ids, {"handover_lost"} if outcome == "recorded" else {"handover_lost", None})
        stage.verify_chain()


def find_message(stage, name):
    """The name of the thread that sends this message, and the message's number among those of the thread: as in a restart
    that strace only watches."""
    log = stage.folder / "messages"
    threads = {int(task.name): name_of(task) for task in tasks_of(stage)}
    watch = ["-s", "8", "-o", str(log), "-e", "trace=sendmsg"]
    with strace(stage, watch):
        stage.restart()
    before, wanted = MESSAGES[name]
    number, like = Counter(), Counter()
    for line in log.read_text().splitlines():
        thread, _, said = line.partition(" ")
        if "sendmsg(" not in said:
            continue
        number[thread] += 1
        if re.search(wanted, said):
            if like[thread] == before:
                return threads[int(thread)], number[thread]
            like[thread] += 1
    raise RuntimeError(f"no thread sends {name}")


def traced(stage, call, fault, thread=""):
    """The threads of the daemon whose names begin like this under strace, which injects this fault into this call."""
    return strace(stage, ["-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:{fault}"], thread.rstrip("0123456789"))


@contextlib.contextmanager
def strace(stage, words, thread=""):
    tasks = [task for task in tasks_of(stage) if name_of(task).startswith(thread)]
    # With -f the number of the process stands for all its threads.
    tracees = [word for task in tasks for word in ("-p", task.name)] if thread else ["-f", "-p", tasks[0].parent.parent.name]
    tracer = subprocess.Popen(["strace", "-qq", *words, *tracees])
    try:
        until("strace to attach", lambda: tracer.poll() is None and all(map(is_traced, tasks)), 10)
        yield
    finally:
        tracer.terminate()
        tracer.wait(10)


def tasks_of(stage):
    """The daemon's threads, as folders of /proc."""
    return list(Path(f"/proc/{stage.machine.process(stage.machine.daemon())}/task").iterdir())


def name_of(task):
    return (task / "comm").read_text().strip()


def is_traced(task):
    try:
        return "TracerPid:\t0\n" not in (task / "status").read_text()
    except OSError:
        return False
