"""A client, a machine in the middle and a provider, each in a network of its own, with a delay between them. The machine
forwards packets, so that the client also reaches the provider without a proxy. Ends only what it started."""

import contextlib
import ctypes
import heapq
import multiprocessing
import os
import select
import time

from place import inside, run, tun

CLIENT, PROXY, EGRESS, API = "192.0.2.2", "192.0.2.1", "198.51.100.10", "203.0.113.80"
FORK = multiprocessing.get_context("fork")
PR_SET_TIMERSLACK = 29


class Path:
    """Two links of TUN devices: `near0` from the client to the machine, `far0` from there to the provider."""

    def __init__(self):
        run("ip", "link", "set", "lo", "up")
        run("mount", "-t", "tmpfs", "tmpfs", "/run")
        os.makedirs("/run/netns")
        links = []
        for network, device, addresses in (("client", b"near0", (f"{PROXY}/24", f"{CLIENT}/24")),
                                           ("provider", b"far0", (f"{EGRESS}/24", "198.51.100.1/24"))):
            run("ip", "netns", "add", network)
            links.append((tun(device), inside(network, lambda device=device: tun(device))))
            for where, address in zip(([], ["-n", network]), addresses):
                run("ip", *where, "address", "add", address, "dev", device.decode())
                run("ip", *where, "link", "set", device.decode(), "up")
            run("ip", "-n", network, "link", "set", "lo", "up")
            run("ip", "-n", network, "route", "add", "default", "dev", device.decode())
        run("ip", "-n", "provider", "address", "add", f"{API}/32", "dev", "lo")
        run("ip", "route", "add", f"{API}/32", "dev", "far0")
        with open("/proc/sys/net/ipv4/ip_forward", "w") as file:
            file.write("1")
        self.delays = FORK.Array("d", [0.0, 0.0])
        # A process of its own, so that it takes no time from the client's.
        FORK.Process(target=forward, args=(links, self.delays), daemon=True).start()

    def set(self, round_trip_s, share):
        """The client's link has this share of the round trip."""
        self.delays[:] = [round_trip_s / 2 * share, round_trip_s / 2 * (1 - share)]


def forward(links, delays):
    """Passes packets on, each after the delay of its link, until the process is killed."""
    # Without it select(2) wakes 50 us late.
    ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    other = {end: (to, number) for number, (a, b) in enumerate(links) for end, to in ((a, b), (b, a))}
    waiting, count = [], 0
    while True:
        rest = waiting[0][0] - time.monotonic() if waiting else 1
        for end in select.select(list(other), [], [], max(rest, 0))[0]:
            with contextlib.suppress(BlockingIOError):
                packet = os.read(end, 65536)
                to, link = other[end]
                count += 1
                heapq.heappush(waiting, (time.monotonic() + delays[link], count, to, packet))
        while waiting and waiting[0][0] <= time.monotonic():
            _, _, to, packet = heapq.heappop(waiting)
            with contextlib.suppress(OSError):
                os.write(to, packet)
