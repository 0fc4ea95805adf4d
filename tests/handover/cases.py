"""What the bad cases of the hand-over share: how each begins, how tunnels are parked, and how they end."""

import base64
import os
import socket
import struct
import threading
import time

from compare import compare, judge_ids, wait_for_records
from internet import CLONE_NEWNET, LIBC
from stage import CONFIG, HOST, LISTENER, until

WRONG = CONFIG + "[nonsense]\n"
# Its number in the load program.
NEWCOMER = 10
MODE = "/etc/systemd/system/sealway.service.d/a-mode.conf"
DROP_IN = "/etc/systemd/system/sealway.service.d/case.conf"


def refresh(stage, carries=False):
    """A fresh daemon with the right configuration and an empty audit file. At a restart it carries its tunnels until the next
    daemon claims them, or parks them at once, as with a unit that does not announce that it leaves the daemon alone."""
    do = stage.machine.do
    do("systemctl stop sealway.socket; systemctl stop sealway.service; systemctl reset-failed sealway.service sealway.socket || true")
    do("rm -rf /var/log/private/sealway/* /var/lib/private/sealway/*")
    no_drop_in(stage)
    stage.machine.write(MODE, "[Service]\n" + ("" if carries else "ExecStop=\n"))
    stage.configure(CONFIG)
    do("systemctl daemon-reload; if systemctl is-enabled --quiet sealway.socket; then systemctl start sealway.socket; fi; systemctl start sealway.service")


def drop_in(stage, text):
    stage.machine.write(DROP_IN, text)
    stage.machine.do("systemctl daemon-reload")


def no_drop_in(stage):
    (stage.machine.root / DROP_IN.lstrip("/")).unlink(missing_ok=True)
    stage.machine.do("systemctl daemon-reload")


def begin(stage, few=4, idle=20, newcomers=1):
    traffic = stage.load(few, idle, newcomers=newcomers)
    ids = stage.ids(traffic)
    time.sleep(0.5)
    return traffic, ids


def park(stage, traffic):
    """Leaves all tunnels in systemd's store: the new daemon does not start with a wrong configuration."""
    traffic.mark()
    stage.configure(WRONG)
    said = stage.machine.ask("systemctl restart sealway")
    stage.check("a start with a wrong configuration fails", said.returncode != 0)
    until("the failed start", lambda: stage.machine.show("sealway", "NRestarts") != "0", 10)
    stage.check("and the store keeps the tunnels", stage.stored() > 0, stage.stored())


def carry(stage, traffic):
    """The former daemon carries the tunnels: the next one does not start with a wrong configuration."""
    traffic.mark()
    stage.configure(WRONG)
    at = time.time()
    stage.machine.ask("systemctl restart sealway")
    until("failed starts", lambda: int(stage.machine.show("sealway", "NRestarts")) >= 2, 20)
    said = stage.journal(at)
    stage.check("a failed start says that the former daemon carries its tunnels", "still carries its tunnels" in said, said[-1500:])
    seen = traffic.mark()
    stage.check("meanwhile bytes flow in all tunnels", not seen.silent and not seen.lost, (seen.silent, seen.lost[:3]))
    return stage.former()


def mend(stage):
    stage.configure(CONFIG)
    until("the service to start by itself", stage.is_active, 20)


def end_well(stage, traffic, ids):
    """Every tunnel is live, ends in order, and has one record with all its bytes."""
    time.sleep(stage.ping_ms / 1000 + 0.5)
    seen = traffic.mark()
    stage.check(f"all {seen.alive} tunnels are live", not seen.lost, seen.lost[:5])
    stage.check("and bytes flow in all of them", not seen.silent, seen.silent)
    reports, theirs = traffic.finish()
    stage.check(f"no newcomer of {traffic.served} was refused", not traffic.refused, traffic.refused[:5])
    wait_for_records(stage, len(reports) + traffic.served)
    compare(stage, reports, theirs, ids, traffic.served)
    stage.verify_chain()


def end_badly(stage, traffic, ids, codes):
    """The tunnels are lost: as resets, and with one record each."""
    until("all tunnels to be lost", lambda: not live_kinds(traffic), 20)
    seen = traffic.mark()
    clean = [one for one in seen.lost if "ended before" in one]
    stage.check(f"{seen.lost_here} tunnels were reset, and none ended as if it were over", not clean, clean[:5])
    judge_ids(stage, ids, codes)
    stage.verify_chain()


def live_kinds(traffic):
    """Without those whose reader stalls: they learn of a reset when they read again."""
    return [kind for kind, seen in traffic.mark().here.items() if not kind.startswith("stalled") and seen["tunnels"]]


def raw_tunnel(stage, number):
    """A tunnel that is this process's own, and that the upstream takes for a newcomer's."""
    made = []

    def connect():
        descriptor = os.open(f"/run/netns/{stage.net.client}", os.O_RDONLY)
        LIBC.setns(descriptor, CLONE_NEWNET)
        os.close(descriptor)
        made.append(socket.create_connection(LISTENER, 10))

    thread = threading.Thread(target=connect)
    thread.start()
    thread.join()
    (end,) = made
    token = base64.b64encode(stage.users["alice"].encode()).decode()
    end.sendall(f"CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\nProxy-Authorization: Basic {token}\r\n\r\n".encode())
    end.recv(4096)
    end.sendall((stage.folder / "hello.bin").read_bytes())
    answer = b""
    while len(answer) < stage.answer_bytes:
        answer += end.recv(65536)
    end.sendall(struct.pack("<II", number, NEWCOMER))
    return end
