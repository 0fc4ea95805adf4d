"""Compares what both ends of every tunnel have moved with each other and with the audit records."""

import time
from collections import Counter

INTRODUCTION = 8


def compare(stage, clients, upstream, ids, served):
    """`clients` and `upstream` are the reports of both ends, `ids` the first id of each client address, and `served` the
    number of newcomers."""
    theirs = {one["tunnel"]: one for one in upstream}
    errors = [one for one in clients + upstream if one["error"]]
    stage.check(f"no end of {len(clients)} tunnels has met an error", clients and not errors, [f"{e['tunnel']} {e['kind']}: {e['error']}" for e in errors[:5]])
    differ = [one["tunnel"] for one in clients if not is_same(one, theirs.get(one["tunnel"]))]
    moved = sum(one["sent"] + one["received"] for one in clients)
    stage.check(f"{moved / 1e6:.0f} MB have the same SHA-256 and length at both ends", not differ, f"{len(differ)} differ: {differ[:10]}")
    judge_records(stage, clients, ids, served)


def is_same(client, upstream):
    return upstream and all(
        client[mine] == upstream[other]
        for mine, other in (("sent", "received"), ("received", "sent"), ("sent_sha256", "received_sha256"), ("received_sha256", "sent_sha256"))
    )


def judge_records(stage, clients, ids, served):
    records = stage.records()
    ids = {report["local"]: ids[report["local"]] for report in clients if report["local"] in ids}
    stage.check(f"the daemon has listed all {len(clients)} tunnels", len(ids) == len(clients), len(ids))
    own = set(ids.values())
    count = Counter(one["id"] for one in records)
    wrong = [(one, count[one]) for one in own if count[one] != 1]
    stage.check(f"each of {len(own)} tunnels has exactly one record with its first id", own and not wrong, f"{len(wrong)}: {wrong[:5]}")
    by_id = {one["id"]: one for one in records}
    short = []
    for report in clients:
        record = by_id.get(ids.get(report["local"]), {})
        up = stage.hello_bytes + INTRODUCTION + report["sent"]
        down = stage.answer_bytes + report["received"]
        if (record.get("bytes_up"), record.get("bytes_down")) != (up, down):
            short.append((report["kind"], up, record.get("bytes_up"), down, record.get("bytes_down"), record.get("code")))
    stage.check("each record has all bytes", not short, f"{len(short)}: {short[:5]}")
    codes = Counter(by_id[one]["code"] for one in own if one in by_id)
    stage.check("all of them ended in order", set(codes) <= {"closed_by_client", "closed_by_upstream"}, dict(codes))
    twice = [one for one, times in count.items() if times > 1]
    stage.check(f"no id of {len(records)} records is there twice", not twice, twice[:5])
    others = [one for one in records if one["id"] not in own]
    bad = [one for one in others if one["outcome"] != "allowed"]
    stage.check(f"each of {served} newcomers has a record", len(others) - len(bad) == served and not bad, f"{len(others)} records, bad: {bad[:2]}")


def judge_ids(stage, ids, codes):
    """Each tunnel has one record, with one of these codes; None among them allows that it has none."""
    own = set(ids.values())
    if None not in codes:
        wait_for_records(stage, len(own), own)
    found = [(one["id"], one["code"]) for one in stage.records() if one["id"] in own]
    count = Counter(one for one, _ in found)
    wrong = [(one, count[one]) for one in own if count[one] > 1 or (not count[one] and None not in codes)]
    said = dict(Counter(code for _, code in found))
    stage.check(f"of {len(own)} tunnels {said}, and none twice", not wrong and set(said) <= codes, f"{len(wrong)}: {wrong[:5]}")


def wait_for_records(stage, count, ids=None):
    """The writer needs a moment for the last ones; what is missing then is missing."""
    end = time.monotonic() + 10
    while time.monotonic() < end and sum(not ids or one["id"] in ids for one in stage.records()) < count:
        time.sleep(0.2)
