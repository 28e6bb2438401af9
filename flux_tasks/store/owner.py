"""Who owns a journal entry: one process, named so that no other one, here or elsewhere, has the same name.

An owner is written ``<host>:<process id> <machine> <word>``. The host and the process id are for people. The machine is
its boot and its pid namespace: only there does a process id mean one process. The word is random.
"""

import functools
import os
import secrets
import socket
import sys
import uuid
from pathlib import Path

_BOOT, _NAMESPACE, _SELF = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid"), Path("/proc/self")

_words = [secrets.token_hex(8)]


def _forget_parent() -> None:
    _words[:] = [secrets.token_hex(8)]


os.register_at_fork(after_in_child=_forget_parent)


@functools.cache
def _machine(pid: int) -> str:
    """Return what all processes share whose ids mean the same as this one's, ``pid``; empty if it cannot be known."""
    if sys.platform != "linux":  # no namespaces; a process id that is used again after a boot only looks alive
        return f"{uuid.getnode():012x}"
    try:
        # A /proc of another namespace has another number for this process, or none.
        is_ours = _SELF.readlink().name == str(pid)
        return f"{_BOOT.read_text().strip()}/{_NAMESPACE.readlink()}" if is_ours else ""
    except OSError:
        return ""


def this_process() -> str:
    """Return the name of this process as the owner of an entry."""
    return f"{socket.gethostname()}:{os.getpid()} {_machine(os.getpid())} {_words[0]}"


def has_ended(owner: str) -> bool:
    """Check whether the process ``owner`` is known to have ended.

    That is known only of a process of this boot and pid namespace. An empty owner is nobody.
    """
    if not owner:
        return True
    process, _, rest = owner.partition(" ")
    word = rest.partition(" ")[2]
    pid = process.rpartition(":")[2]
    if not is_of_this_machine(owner) or not pid.isdecimal():
        return False
    return word != _words[0] if int(pid) == os.getpid() else not is_process_alive(int(pid))


def is_of_this_machine(owner: str) -> bool:
    """Check whether ``owner`` is known to be a process of this boot and pid namespace."""
    machine = owner.partition(" ")[2].partition(" ")[0]
    return bool(machine) and machine == _machine(os.getpid())  # entries of earlier versions name no machine


def readable(owner: str) -> str:
    """Return what messages call ``owner``: its host and process id."""
    return owner.partition(" ")[0] or "nobody"


def is_process_alive(pid: int) -> bool:
    """Check whether this machine has a process with this id."""
    try:
        os.kill(pid, 0)
    except OverflowError:  # no process has such a number
        return False
    except OSError as error:  # it is refused for a process of another user
        return not isinstance(error, ProcessLookupError)
    return True
