"""Compares what sealway recorded with what the fake API saw. Prints `ok   NAME` or `FAIL NAME: REASON` for each point.

Every connection that reached the API must be one tunnel of a user of the rig with the same source address and port, and every refusal
must be there once. A browser opens connections that it does not use and asks for hosts of its own: its user's tunnels are left out of
both. It only reads the two logs, and waits a few seconds for records of tunnels that are still ending.

usage: records.py SEALWAY-LOG API-LOG EGRESS-ADDRESS OTHER-ADDRESS CODE=COUNT…
"""
import json
import sys
import time
from collections import Counter
from pathlib import Path

HOST = "generativelanguage.googleapis.com"
USERS = {"alice", "agent-1"}
BROWSER = "browser"
ENDINGS = {"closed_by_client", "closed_by_upstream", "reset_by_client", "reset_by_upstream"}
SETTLE_S = 5


def main():
    sealway_log, api_log, egress, other, *counts = sys.argv[1:]
    refusals = {code: int(count) for code, count in (pair.split("=") for pair in counts)}
    requests = [json.loads(line) for line in Path(api_log).read_text().splitlines()]
    direct = [request["peer"] for request in requests if address(request["peer"]) == other]
    through = {request["peer"] for request in requests} - set(direct)
    tunnels, of_browser = settled(sealway_log, through, sum(refusals.values()))
    through -= of_browser
    allowed = [tunnel for tunnel in tunnels if tunnel.get("outcome") == "allowed"]

    strangers = {address(peer) for peer in through} - {egress}
    check("every request but the direct one left from the static address",
          through and len(direct) == 1 and not strangers,
          f"{len(through)} connections, {len(direct)} direct, others from {strangers or 'nowhere'}")
    upstream = Counter(tunnel.get("egress") for tunnel in allowed)
    check("one tunnel record for each connection to the API",
          upstream == Counter(through),
          f"only in the log: {list(upstream - Counter(through))}; only at the API: {list(Counter(through) - upstream)}")
    faults = [fault for tunnel in allowed for fault in faults_of(tunnel)]
    check("every allowed tunnel is a user's, ended by a peer, and counted",
          allowed and not faults,
          "; ".join(faults[:5]) or "there is none")
    seen = Counter(tunnel.get("code") for tunnel in tunnels if tunnel.get("outcome") != "allowed")
    check("one tunnel record for each refusal", seen == Counter(refusals), f"{dict(seen)} and not {refusals}")


def settled(log, through, refusals):
    """The tunnel records of the log and the addresses of the browser's, once there are as many as expected or the time is over."""
    deadline = time.monotonic() + SETTLE_S
    while True:
        lines = Path(log).read_text().splitlines()
        records = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        tunnels = [record for record in records if record.get("event") == "tunnel"]
        of_browser = {tunnel.get("egress") for tunnel in tunnels if tunnel.get("user") == BROWSER}
        tunnels = [tunnel for tunnel in tunnels if tunnel.get("user") != BROWSER]
        if len(tunnels) >= len(through - of_browser) + refusals or time.monotonic() > deadline:
            return tunnels, of_browser
        time.sleep(0.1)


def faults_of(tunnel):
    if tunnel.get("user") not in USERS:
        yield f"user is {tunnel.get('user')!r}"
    expected = {"host": HOST, "port": 443, "sni": HOST, "upstream": "203.0.113.80:443"}
    for field, value in expected.items():
        if tunnel.get(field) != value:
            yield f"{field} is {tunnel.get(field)!r}"
    if tunnel.get("code") not in ENDINGS:
        yield f"code is {tunnel.get('code')!r}"
    if address(tunnel.get("client", "")) != "127.0.0.1":
        yield f"client is {tunnel.get('client')!r}"
    for way in ("up", "down"):
        if not 0 < tunnel.get(f"spliced_{way}", 0) <= tunnel.get(f"bytes_{way}", 0):
            yield f"{tunnel.get(f'spliced_{way}')} of {tunnel.get(f'bytes_{way}')} bytes spliced {way}"


def address(peer):
    return peer.rpartition(":")[0]


def check(name, holds, reason):
    print(f"ok   {name}" if holds else f"FAIL {name}: {reason}", flush=True)


main()
