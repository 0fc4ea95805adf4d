"""What goes over the cables: the source of each SYN to the far end, announcements of the floating addresses, VRRP."""

import collections
import ctypes
import ipaddress
import socket
import struct
import threading
import time

from setting import FLOATING, V4, V6, WORLD

ETH_P_ALL, SO_ATTACH_FILTER = 0x0003, 26
# Classic BPF: ARP; VRRP; TCP with SYN and without ACK; neighbour advertisements. (code, jump if so, jump if not, operand)
LOAD_HALF, LOAD_BYTE, LOAD_BYTE_X, LOAD_X_HEADER = 0x28, 0x30, 0x50, 0xB1
EQUAL, AND, RETURN = 0x15, 0x54, 0x06
FILTER = [
    (LOAD_HALF, 0, 0, 12),
    (EQUAL, 18, 0, 0x0806),
    (EQUAL, 1, 0, 0x0800),
    (EQUAL, 7, 17, 0x86DD),
    (LOAD_BYTE, 0, 0, 23),
    (EQUAL, 14, 0, 112),
    (EQUAL, 0, 14, 6),
    (LOAD_X_HEADER, 0, 0, 14),
    (LOAD_BYTE_X, 0, 0, 27),
    (AND, 0, 0, 0x12),
    (EQUAL, 9, 10, 0x02),
    (LOAD_BYTE, 0, 0, 20),
    (EQUAL, 7, 0, 112),
    (EQUAL, 3, 0, 6),
    (EQUAL, 0, 6, 58),
    (LOAD_BYTE, 0, 0, 54),
    (EQUAL, 3, 4, 136),
    (LOAD_BYTE, 0, 0, 67),
    (AND, 0, 0, 0x12),
    (EQUAL, 0, 1, 0x02),
    (RETURN, 0, 0, 256),
    (RETURN, 0, 0, 0),
]


class Capture(threading.Thread):
    """Reads the packets on one device of this network namespace, in both directions."""

    def __init__(self, device):
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        code = b"".join(struct.pack("HBBI", *line) for line in FILTER)
        self.code = ctypes.create_string_buffer(code)
        program = struct.pack("HL", len(FILTER), ctypes.addressof(self.code))
        self.socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.bind((device, 0))
        # How many SYNs came from each address, and adverts of VRRP; when each floating address was announced, with its MAC.
        self.sources, self.adverts = collections.Counter(), collections.Counter()
        self.announced = []
        self.start()

    def run(self):
        while True:
            try:
                packet = self.socket.recv(256)
            except OSError:  # The cable was unplugged; it will be back.
                continue
            kind = int.from_bytes(packet[12:14], "big")
            if kind == 0x0806:
                self.arp(packet)
            elif kind == 0x0800:
                self.internet(packet[23], packet[26:30], packet[30:34])
            elif packet[20] == 58:
                self.neighbour(packet)
            else:
                self.internet(packet[20], packet[22:38], packet[38:54])

    def internet(self, protocol, source, to):
        source, to = (str(ipaddress.ip_address(address)) for address in (source, to))
        if protocol == 112:
            self.adverts[source] += 1
        elif to in WORLD:
            self.sources[source] += 1

    def arp(self, packet):
        sender, target = packet[28:32], packet[38:42]
        if sender == target and str(ipaddress.ip_address(sender)) == V4:
            self.announced.append((time.monotonic(), V4, packet[22:28].hex(":")))

    def neighbour(self, packet):
        """An unsolicited advertisement that overrides what a neighbour knows: to all nodes, flag S clear, flag O set."""
        to, flags, target = packet[38:54], packet[58], packet[62:78]
        unsolicited = to == ipaddress.ip_address("ff02::1").packed and flags & 0x60 == 0x20
        if unsolicited and str(ipaddress.ip_address(target)) == V6:
            self.announced.append((time.monotonic(), V6, packet[6:12].hex(":")))

    def announced_since(self, moment):
        """The floating addresses that were announced since then, and the MACs that announced each."""
        found = {address: set() for address in FLOATING}
        for at, address, mac in list(self.announced):
            if at >= moment and address in found:
                found[address].add(mac)
        return found
