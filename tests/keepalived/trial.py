"""Plays the faults that move a floating address on a stage, and judges what a client and the far end saw.

A stage is two nodes, a client and a far end: network namespaces (`run`) or machines (`machines`). It never waits longer
than its deadlines, and ends nothing itself but through the stage.
"""

import argparse
import collections
import os
import statistics
import sys
import threading
import time

from capture import Capture
from setting import FLOATING, HIGHER, HOSTS, NODES, other_than, use_family

# What the bar is: a client opens tunnels again within this many seconds.
BAR = 3.0
# `moves`: the addresses have to be on the other node after it, otherwise they may stay. `returns`: that node keeps them after
# the mend; otherwise both have them until then, and the node with the higher address keeps them.
Fault = collections.namedtuple("Fault", "key name strike mend moves returns", defaults=[True, True])


class Failed(Exception):
    """Something did not happen in time, so nothing more can be tried."""


def arguments(usage, positional, rounds, minutes, more=()):
    parser = argparse.ArgumentParser(usage=usage, add_help=False)
    parser.add_argument("-h", "--help", action="help", help=argparse.SUPPRESS)
    parser.add_argument(positional)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--loss", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=minutes)
    parser.add_argument("--only", type=lambda words: words.split(","))
    parser.add_argument("--family", type=int, choices=[0, 4, 6], default=0)
    for name, default in more:
        parser.add_argument(name, default=default, type=type(default))
    options = parser.parse_args()
    use_family(options.family)
    return options


def wait_for(what, seconds, is_so):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if is_so():
            return
        time.sleep(0.02)
    raise Failed(f"{what}: not within {seconds} s")


class Client(threading.Thread):
    """Notes when a tunnel to which host had carried bytes there and back, as the client's program prints it."""

    def __init__(self):
        super().__init__(daemon=True)
        self.lines, self.opened = [], {host: [0.0] for host in HOSTS}

    def read(self, lines):
        self.lines = lines
        self.start()

    def run(self):
        for line in self.lines:
            if (host := line.strip()) in self.opened:
                self.opened[host].append(time.monotonic())

    def has_opened_since(self, moment):
        return all(opened[-1] >= moment for opened in self.opened.values())

    def longest_pause(self, begin, end):
        """The longest time without a new tunnel to one of the hosts, of the time from the last before to the first after."""
        longest = 0.0
        for opened in self.opened.values():
            times = list(opened)
            first = max(at for at, moment in enumerate(times) if moment <= begin)
            last = next(at for at, moment in enumerate(times) if moment >= end)
            longest = max(longest, *(later - earlier for earlier, later in zip(times[first:last], times[first + 1 : last + 1])))
        return longest

    def count(self):
        return sum(map(len, self.opened.values()))


class Trial:
    def __init__(self, stage, options):
        self.stage, self.options, self.failures = stage, options, []
        self.far_end = Capture(stage.cable("world"))
        self.cables = {name: Capture(stage.cable(name)) for name in NODES}
        self.client, self.failovers = Client(), 0

    def play(self):
        try:
            wait_for("one node has the addresses", 60, lambda: self.stage.holder() is not None)
            self.client.read(self.stage.start_client())
            self.wait_for_tunnels("at first")
            self.check("tunnels leave through the node with the addresses")
            for fault in self.stage.faults():
                if self.options.rounds and (not self.options.only or fault.key in self.options.only):
                    self.rounds_of(fault)
            if self.options.minutes:
                self.no_flap()
        except Failed as failed:
            self.check("the trial goes on", str(failed))
        self.judge_sources()
        print(f"# load average of the host, over 15 minutes: {os.getloadavg()[2]:.1f}, for {os.cpu_count()} cores", flush=True)
        if self.failures:
            self.stage.show_logs()
        return 1 if self.failures else 0

    def check(self, name, problem=""):
        print(f"FAIL {name}: {problem}" if problem else f"ok   {name}", flush=True)
        if problem:
            self.failures.append(name)

    def wait_for_tunnels(self, when, since=None):
        since = time.monotonic() if since is None else since
        wait_for(f"{when}: tunnels to both hosts", 30, lambda: self.client.has_opened_since(since))

    def rounds_of(self, fault):
        pauses, mended, problems = [], [], []
        for _ in range(self.options.rounds):
            pause, after, problem = self.one_round(fault)
            pauses.append(pause)
            mended.append(after)
            problems += problem
        print(f"# {fault.key}:", *(f"{pause:.2f}" for pause in pauses), flush=True)
        median, worst = statistics.median(pauses), max(pauses)
        self.check(f"{fault.name}: tunnels again after {median:.2f} s (median of {len(pauses)}), {worst:.2f} s at worst; "
                   f"{max(mended):.2f} s at worst when it is mended", "" if median <= BAR else f"more than {BAR} s")
        if fault.moves:
            keeper = "it keeps them" if fault.returns else "the higher one keeps them"
            self.check(f"{fault.name}: the other node announces the addresses, {keeper}", "; ".join(problems))

    def one_round(self, fault):
        stage = self.stage
        wait_for(f"before {fault.name}: one node has the addresses, the other one can take them", 60, self.is_settled)
        node, other = self.settled
        self.wait_for_tunnels(f"before {fault.name}")
        moment = time.monotonic()
        settled = fault.strike(node)
        if fault.moves:
            wait_for(f"{fault.name}: {other} has the addresses", 30, lambda: all(stage.has(other)))
            self.failovers += 1
        else:
            wait_for(f"{fault.name}: {node} serves again", 30, settled)
        pause = self.pause_until_settled(fault.name, moment)
        announced = self.far_end.announced_since(moment)
        problem = [f"no announcement of {address}" for address, macs in announced.items() if not macs] if fault.moves else []
        moment = time.monotonic()
        if fault.mend:
            fault.mend(node)
        wait_for(f"{fault.name}: one node has the addresses, the other one can take them", 60, self.is_settled)
        after = self.pause_until_settled(f"{fault.name}, mended", moment)
        keeper = other if fault.returns else HIGHER
        if fault.moves and stage.holder() != keeper:
            problem.append(f"{keeper} had the addresses no more when {node} was back")
        return pause, after, problem

    def is_settled(self):
        """Whether one node has the addresses and the other one can take them; `settled` are the two then."""
        if (holder := self.stage.holder()) and self.stage.can_take(other_than(holder)):
            self.settled = holder, other_than(holder)
            return True
        return False

    def pause_until_settled(self, when, moment):
        """The longest pause since the moment, when both hosts have had tunnels for a second after now."""
        now = time.monotonic()
        self.wait_for_tunnels(when, now)
        self.wait_for_tunnels(when, now + 1)
        return self.client.longest_pause(moment, now + 1)

    def no_flap(self):
        """Loses packets to and from both nodes; no instance of VRRP may change its state, and no address move."""
        options, stage, problems = self.options, self.stage, []
        wait_for("before the loss: one node has the addresses, the other one can take them", 60, self.is_settled)
        node = self.settled[0]
        transitions, opened = stage.transitions(), self.client.count()
        adverts = sum(self.cables[node].adverts.values())
        stage.lose(options.loss)
        begin = time.monotonic()
        while time.monotonic() < begin + 60 * options.minutes:
            if stage.holder() != node and not problems:
                problems.append(f"the addresses left {node} after {time.monotonic() - begin:.0f} s")
            time.sleep(0.2)
        stage.lose(0)
        changed = stage.transitions() - transitions
        adverts = sum(self.cables[node].adverts.values()) - adverts
        opened = self.client.count() - opened
        if changed:
            problems.append(f"{changed} VRRP transitions")
        if not opened or not adverts:
            problems.append("no tunnel was opened" if adverts else "no advert was seen")
        self.check(f"{options.loss} % loss for {60 * options.minutes:.0f} s, {adverts} adverts, {opened} tunnels: {changed} VRRP transitions, "
                   "the addresses stay", "; ".join(problems))

    def judge_sources(self):
        seen, tunnels = self.far_end.sources, self.client.count() - len(HOSTS)
        strangers = set(seen) - set(FLOATING)
        problem = f"{', '.join(f'{seen[one]} from {one}' for one in strangers)}" if strangers else ""
        if not problem and (sum(seen.values()) < tunnels or not all(seen[address] for address in FLOATING)):
            problem = f"the capture is not whole: {dict(seen)} for {tunnels} tunnels"
        self.check(f"{sum(seen.values())} SYNs at the far end over {self.failovers} failovers, all from {' and '.join(FLOATING)}", problem)


def finish(status):
    sys.stdout.flush()
    sys.exit(status)
