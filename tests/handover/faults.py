"""The bad cases of the hand-over, each against the real service: `tests/handover/run PACKAGE --faults [NAME,...]`.

All cases use one machine; each begins with an empty audit file, a fresh daemon and a load of its own.
"""

import os
import socket
import struct
import tempfile
import time
import traceback
from pathlib import Path

import kills
from cases import begin, carry, drop_in, end_badly, end_well, live_kinds, mend, no_drop_in, park, raw_tunnel, refresh
from compare import judge_ids, wait_for_records
from internet import STATIC
from stage import CONFIG, Stage, as_package, until

def play(options):
    cases = {name.replace("_", "-"): case for name, case in CASES.items()}
    if options.faults == "list":
        print("\n".join(cases))
        return 0
    names = {"all": list(cases), "ci": IN_CI}.get(options.faults) or options.faults.split(",")
    if unknown := set(names) - set(cases):
        print(f"no case: {' '.join(sorted(unknown))}")
        return 2
    with tempfile.TemporaryDirectory(prefix="sealway-") as folder:
        stage = Stage(Path(folder), options.load, options.root, ping_ms=300)
        try:
            stage.open()
            stage.start(as_package(options.package, folder, tree=options.tree), socket=not options.no_socket)
            for name in names:
                play_one(stage, name, cases[name])
        except Exception:
            traceback.print_exc()
            stage.failures += 1
            stage.tell()
        finally:
            stage.close()
        print(f"{stage.failures} failed" if stage.failures else "all ok")
        return 1 if stage.failures else 0


def play_one(stage, name, case):
    print(f"# {name}", flush=True)
    begin, failures = time.time(), stage.failures
    refresh(stage, carries=name.startswith("carried"))
    try:
        case(stage)
    except Exception:
        traceback.print_exc()
        stage.failures += 1
    for load in stage.loads:
        load.kill()
    stage.loads.clear()
    if stage.failures > failures:
        print(stage.machine.ask(f"journalctl --no-pager -o short-precise -u 'sealway*' --since @{begin:.6f} | grep -v outlived | tail -n 60").stdout)
    print(f"# {name}: {time.time() - begin:.1f} s", flush=True)


# --- the new daemon does not start ---


def wrong_configuration(stage):
    traffic, ids = begin(stage)
    park(stage, traffic)
    mend(stage)
    end_well(stage, traffic, ids)


def low_descriptor_limit(stage):
    traffic, ids = begin(stage, idle=100)
    drop_in(stage, "[Service]\nLimitNOFILE=150\n")
    at = time.time()
    stage.machine.ask("systemctl restart sealway")
    until("the failed start", lambda: stage.machine.show("sealway", "NRestarts") != "0", 10)
    said = stage.journal(at)
    stage.check("the log names LimitNOFILE", "LimitNOFILE" in said, said[-1500:])
    stage.check("and the store keeps the tunnels", stage.stored() > 0, stage.stored())
    no_drop_in(stage)
    until("the service to start by itself", stage.is_active, 20)
    end_well(stage, traffic, ids)


def stop_while_parked(stage):
    traffic, ids = begin(stage)
    park(stage, traffic)
    stage.machine.do("systemctl stop sealway.service")
    stage.configure(CONFIG)
    stage.machine.do("systemctl start sealway.service")
    end_badly(stage, traffic, ids, {"handover_lost"})


def reexecuted_manager(stage):
    traffic, ids = begin(stage)
    stage.machine.do("systemctl daemon-reexec")
    park(stage, traffic)
    before = stage.stored()
    stage.machine.do("systemctl daemon-reexec")
    stage.check("the store is the same after daemon-reexec", stage.stored() == before > 0, stage.stored())
    mend(stage)
    end_well(stage, traffic, ids)


# --- the former daemon carries its tunnels meanwhile ---


def carried_through_failed_starts(stage):
    traffic, ids = begin(stage)
    at = time.time()
    former = carry(stage, traffic)
    stage.check("one former daemon is there", former)
    mend(stage)
    until("the former daemon to end", lambda: not stage.former(), 10)
    end_well(stage, traffic, ids)
    said = stage.journal(at)
    stage.check("systemd does not warn of it", "left-over" not in said and "remains running" not in said, said[-1500:])


def carried_and_stopped(stage):
    traffic, ids = begin(stage)
    carry(stage, traffic)
    stage.machine.do("systemctl stop sealway.service")
    until("the former daemon to end", lambda: not stage.former(), 10)
    stage.configure(CONFIG)
    stage.machine.do("systemctl start sealway.service")
    end_badly(stage, traffic, ids, {"drained"})


def carried_and_killed(stage):
    traffic, ids = begin(stage)
    stage.machine.do(f"kill -9 {carry(stage, traffic)}")
    mend(stage)
    until("newcomers", lambda served=traffic.served: traffic.mark() and traffic.served > served, 10)
    judge_ids(stage, ids, {None})
    stage.verify_chain()


def carried_without_a_record(stage):
    """The record of the hand-over cannot be written, and the next daemon waits for the audit file."""
    traffic, ids = begin(stage, newcomers=0)
    at = time.time()
    with kills.traced(stage, "fdatasync", "error=EIO"):
        stage.machine.do("systemctl restart --no-block sealway")
        until("the former daemon to give up", lambda: "cannot hand over, and the next daemon waits" in stage.journal(at), 20)
        until("the former daemon to end", lambda: not stage.former(), 10)
    until("the tunnels to end", lambda: not live_kinds(traffic), 10)
    until("the service", stage.is_active, 20)
    stage.check("without its record there is no hand-over, and the next daemon runs", True)
    judge_ids(stage, ids, {"drained", None})
    stage.verify_chain()


def carried_through_restarts_at_once(stage):
    two_restarts(stage)


def carried_and_reexecuted(stage):
    traffic, ids = begin(stage)
    stage.machine.do("systemctl daemon-reexec")
    carry(stage, traffic)
    stage.machine.do("systemctl daemon-reexec")
    mend(stage)
    end_well(stage, traffic, ids)


def carried_with_a_change(stage):
    another_configuration(stage)


def signals_to_both_processes(stage):
    """`systemctl kill` sends them to the main process, which passes them on, and to the daemon."""
    traffic, _ids = begin(stage)
    at = time.time()
    stage.machine.do("systemctl kill --signal=TERM sealway")
    until("the daemon to drain", lambda: "draining" in stage.journal(at), 10)
    stage.check("a SIGTERM to both processes drains", "stopping at once" not in stage.journal(at))
    until("the tunnels to end", lambda: not live_kinds(traffic), 30)
    stage.machine.do("systemctl start sealway")


# --- what happens meanwhile ---


def egress_gone(stage):
    traffic, ids = begin(stage)
    park(stage, traffic)
    change = ["ip", "-n", stage.net.machine, "address"]
    os.spawnvp(os.P_WAIT, "ip", [*change, "del", f"{STATIC}/24", "dev", "outside"])
    try:
        mend(stage)
        time.sleep(5)
        end_badly(stage, traffic, ids, {"egress_lost", "handover_lost", "handover_refused"})
    finally:
        os.spawnvp(os.P_WAIT, "ip", [*change, "add", f"{STATIC}/24", "dev", "outside"])


def ends_while_parked(stage):
    traffic, ids = begin(stage)
    fin, rst = (raw_tunnel(stage, number) for number in (900_001, 900_002))
    names = {end.getsockname()[:2]: end for end in (fin, rst)}
    ids_of = stage.tunnels()
    own = [ids_of["%s:%d" % name] for name in names]
    park(stage, traffic)
    fin.shutdown(socket.SHUT_WR)
    rst.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    rst.close()
    mend(stage)
    fin.settimeout(10)
    stage.check("a FIN that arrived while parked reaches the upstream, and its answer the client", fin.recv(1) == b"")
    wait_for_records(stage, 2)
    traffic.served += 2
    end_well(stage, traffic, ids)
    codes = [next((one["code"] for one in stage.records() if one["id"] == number), None) for number in own]
    stage.check("and both have their codes", codes == ["closed_by_client", "reset_by_client"], codes)


def another_configuration(stage):
    """The new configuration does not allow the users of most tunnels any more."""
    traffic, ids = begin(stage)
    before = stage.change_users({"alice": "disabled = true", "bob": "disabled = true"})
    try:
        stage.restart()
        until("the tunnels of alice and bob to end", lambda: "idle" not in traffic.mark().here, 15)
        time.sleep(1)
        codes = {(one["user"], one["code"]) for one in stage.records() if one["id"] in ids.values()}
        stage.check("tunnels of users that are gone end as revoked", codes == {("alice", "revoked"), ("bob", "revoked")}, codes)
        live = stage.tunnels()
        stage.check("and those of another user go on", live and set(live.values()) <= set(ids.values()), live)
    finally:
        (stage.machine.root / "etc/sealway/users.toml").write_text(before)


# --- at the wrong moment ---


def two_restarts(stage):
    traffic, ids = begin(stage)
    traffic.mark()
    at = time.monotonic()
    stage.machine.do("systemctl restart sealway && systemctl restart sealway")
    stage.check(f"two restarts took {time.monotonic() - at:.2f} s", True)
    stage.machine.do("systemctl restart --no-block sealway; systemctl restart --no-block sealway; systemctl restart sealway")
    until("the service", stage.is_active, 10)
    end_well(stage, traffic, ids)


def two_signals(stage):
    traffic, ids = begin(stage)
    pid = stage.main_pid()
    stage.machine.do(f"kill -USR2 {pid}; kill -USR2 {pid}; kill -INT {pid} || true")
    until("the old process to go", lambda: stage.main_pid() != pid, 10)
    until("the next daemon", stage.is_active, 10)
    end_well(stage, traffic, ids)


def slow_freeze(stage):
    """The freeze takes longer than the watchdog allows a daemon to be silent."""
    drop_in(stage, "[Service]\nWatchdogSec=3s\n")
    stage.machine.do("systemctl restart sealway")
    traffic, ids = begin(stage)
    at = time.time()
    with kills.traced(stage, "memfd_create", "delay_enter=5000000"):
        stage.restart()
    stage.check("the watchdog does not end a daemon that parks", "Watchdog timeout" not in stage.journal(at))
    end_well(stage, traffic, ids)


def audit_disk_full(stage):
    do = stage.machine.do
    do("systemctl stop sealway.socket; systemctl stop sealway.service")
    do("mount -t tmpfs -o size=1m,mode=0755 tmpfs /var/log/private/sealway && systemctl start sealway.socket sealway.service")
    try:
        traffic, ids = begin(stage)
        at = time.time()
        do("dd if=/dev/zero of=/var/log/private/sealway/filler bs=4096 2>/dev/null || true")
        # Newcomers fill the rest of the last page.
        until("the daemon to notice", lambda: "records cannot be written" in stage.journal(at), 20)
        do("systemctl restart --no-block sealway")
        until("the old process to drain", lambda: "cannot hand over" in stage.journal(at), 10)
        stage.check("a daemon that cannot write records drains instead, and says why", True)
        do("rm /var/log/private/sealway/filler")
        until("the tunnels to end", lambda: not live_kinds(traffic), 30)
        until("the service", stage.is_active, 20)
        judge_ids(stage, ids, {"drained"})
        stage.verify_chain()
    finally:
        do("systemctl stop sealway.socket; systemctl stop sealway.service; umount /var/log/private/sealway")


def audit_fails_meanwhile(stage):
    """The record of the hand-over itself cannot be written."""
    traffic, ids = begin(stage, newcomers=0)
    at = time.time()
    with kills.traced(stage, "fdatasync", "error=EIO"):
        stage.machine.do("systemctl restart --no-block sealway")
        until("the old process to drain", lambda: "cannot hand over" in stage.journal(at), 10)
    stage.check("without its record there is no hand-over", True)
    until("the tunnels to end", lambda: not live_kinds(traffic), 30)
    until("the service", stage.is_active, 20)
    judge_ids(stage, ids, {"drained", None})
    stage.verify_chain()


# --- who can write to the store ---

TAMPER = """#!/usr/bin/python3
import array, fcntl, os, socket, sys
names = os.environ.get("LISTEN_FDNAMES", "").split(":")
if "sealway-handover" in names:
    number = 3 + names.index("sealway-handover")
    old = socket.socket(fileno=os.dup(number))
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    old.setblocking(False)
    writer.setblocking(False)
    while True:
        try:
            data, ancillary, _, _ = old.recvmsg(65536, socket.CMSG_SPACE(4 * 253))
        except BlockingIOError:
            break
        fds = array.array("i")
        for _, _, raw in ancillary:
            fds.frombytes(raw)
        if data == b"S":
            os.lseek(fds[0], 0, os.SEEK_SET)
            text = b""
            while part := os.read(fds[0], 1 << 20):
                text += part
            sealed = os.memfd_create("changed", os.MFD_ALLOW_SEALING)
            CHANGE
            os.write(sealed, text)
            if SEAL: fcntl.fcntl(sealed, 1033, 15)
            os.lseek(sealed, 0, os.SEEK_SET)
            fds[0] = sealed
        writer.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else [])
    os.dup2(reader.fileno(), number)
os.execv("/usr/bin/sealway", ["sealway"] + sys.argv[1:])
"""

CHANGES = {
    "not JSON": ("text = text[:200] + b'%' + text[200:]", True),
    "a newer format": ("text = text.replace(b'\"version\":1', b'\"version\":9999', 1)", True),
    "a truncated one": ("text = text[: len(text) // 2]", True),
    "an unsealed one": ("pass", False),
    "exchanged addresses": ("lines = text.split(b'\\n'); lines[1], lines[2] = lines[2], lines[1]; text = b'\\n'.join(lines)", True),
    "an empty one": ("text = b''", True),
    "one of 8 MiB": ("text = text + b'x' * (8 << 20)", True),
}


def tampered_state(stage):
    """Only the daemon's own user can do that, or root."""
    for what, (change, seal) in CHANGES.items():
        refresh(stage)
        traffic, ids = begin(stage, few=2, idle=5)
        stage.machine.write("/opt/trial/start", TAMPER.replace("CHANGE", change).replace("SEAL", str(seal)))
        stage.machine.do("chmod -R a+rx /opt/trial")
        drop_in(stage, kills.OPEN_SANDBOX + "ExecStart=\nExecStart=/opt/trial/start run --config /etc/sealway/sealway.toml\n")
        at = time.time()
        stage.machine.ask("systemctl restart sealway")
        until("the service", stage.is_active, 20)
        said = stage.journal(at)
        stage.check(f"with {what} the daemon runs, and says what it refuses", "panick" not in said and ("WARN" in said or "ERROR" in said), said[-1500:])
        time.sleep(1)
        alive = traffic.mark().alive
        print(f"# with {what} {alive} of {len(ids)} tunnels are live", flush=True)
        until("newcomers", lambda served=traffic.served: traffic.mark() and traffic.served > served, 10)
        judge_ids(stage, ids, {"handover_lost", "handover_refused", "closed_by_client", "closed_by_upstream", None})
        stage.verify_chain()
        for load in stage.loads:
            load.kill()
        stage.loads.clear()


CASES = {
    case.__name__: case
    for case in (
        wrong_configuration, low_descriptor_limit, stop_while_parked, reexecuted_manager, carried_through_failed_starts,
        carried_and_stopped, carried_and_killed, carried_without_a_record, carried_through_restarts_at_once, carried_and_reexecuted, carried_with_a_change,
        signals_to_both_processes, egress_gone, ends_while_parked,
        another_configuration, two_restarts, two_signals, slow_freeze, audit_disk_full,
        audit_fails_meanwhile, tampered_state,
    )
}  # fmt: skip
# A minute of them.
IN_CI = ["wrong-configuration", "stop-while-parked", "ends-while-parked", "two-restarts", "two-signals", "kill-old-at-the-last-message", "kill-new-at-its-first-look",
         "carried-through-failed-starts", "carried-and-stopped", "carried-through-restarts-at-once", "carried-kill-new-at-its-first-look"]  # fmt: skip
CASES |= {f"kill_{name}": (lambda stage, moment=moment: kills.play(stage, moment)) for name, moment in kills.MOMENTS.items()}
CASES |= {
    f"carried_kill_{name}": (lambda stage, moment=moment: kills.play(stage, moment, "--outlive "))
    for name, moment in kills.WHILE_CARRIED.items()
}
