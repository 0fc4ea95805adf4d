"""Runs what tests/keepalived/machines orders inside a machine: one command a connection, over a network of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import threading


def serve(connection):
    line = connection.makefile("r").readline()
    child = subprocess.Popen(["sh", "-c", line], stdin=subprocess.DEVNULL, stdout=connection, stderr=subprocess.STDOUT,
                             start_new_session=True, cwd="/root", env=os.environ | {"HOME": "/root", "LANG": "C.UTF-8"})
    threading.Thread(target=end_with, args=(connection, child), daemon=True).start()
    # The last byte of the answer is the status.
    status = child.wait() & 255
    with contextlib.suppress(OSError), connection:
        connection.sendall(bytes([0, status]))
        connection.shutdown(socket.SHUT_RDWR)


def end_with(connection, child):
    """The command ends when the other side closes the connection."""
    try:
        while connection.recv(64):
            pass
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGKILL)
    except OSError:
        pass


def main():
    listener = socket.create_server(("0.0.0.0", 7), backlog=64)
    while True:
        threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()


main()
