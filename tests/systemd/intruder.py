"""What somebody could do who had taken the daemon over, tried from inside, and a worker thread that stands still.

`intrude` runs as the service's user in the service's own mounts, but without its system call filter, so what it cannot
do is held by mounts and user alone. Nothing here stays: what it could make is deleted.
"""

import ctypes
import errno
import os
import subprocess

CLONE_NEWNS = 0x00020000
PTRACE_ATTACH = 16
WAIT_FOR_THREADS = 0x40000000  # __WALL of wait(2)
LIBC = ctypes.CDLL(None, use_errno=True)


def intrude(pid, trials):
    """Becomes the process's like and says of each trial, a verb and a path, what came of it: `done` or an errno's name."""
    with open(f"/proc/{pid}/status", encoding="utf-8") as file:
        status = dict(line.rstrip("\n").split(":", 1) for line in file)
    mounts = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY)
    if LIBC.setns(mounts, CLONE_NEWNS) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.setgroups([int(group) for group in status["Groups"].split()])
    os.setresgid(*[int(status["Gid"].split()[0])] * 3)
    os.setresuid(*[int(status["Uid"].split()[0])] * 3)  # No capability is left after this.
    return {(verb, path): tried(VERBS[verb], path) for verb, path in trials}


def tried(verb, path):
    try:
        verb(path)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "done"


def make(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
    os.unlink(path)


def change(path):
    os.close(os.open(path, os.O_WRONLY))


def read(path):
    if os.path.isdir(path):
        os.listdir(path)
    else:
        os.close(os.open(path, os.O_RDONLY))


def execute(path):
    subprocess.run([path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


VERBS = {"make": make, "change": change, "read": read, "execute": execute}


def hold_thread(thread, pipe):
    """Stops one thread as a debugger does, and keeps it so until its process is gone."""
    if LIBC.ptrace(PTRACE_ATTACH, thread, None, None) != 0:
        raise OSError(ctypes.get_errno(), f"ptrace {thread}")
    os.waitpid(thread, WAIT_FOR_THREADS)
    pipe.send(True)
    # A thread that nobody waits for would keep its process from ending.
    while not os.WIFSIGNALED(os.waitpid(thread, WAIT_FOR_THREADS)[1]):
        pass
