"""Fork one Python after the other, each with everything imported; see ``forked``.

Has a single thread, no event loop and no connection, so that its children are as good as new. It ends, and so does what
it has forked, when the other end of the socket on its standard input is closed, also by the death of who holds it.

Arguments: the modules to import. For each descriptor that arrives: reads an order such as ``{"command": ["-c",
"…"], "folder": "/tmp", "environment": {}, "session": false, "limits": {"CPU": 20}}`` and the child's three streams;
answers with the child's number when it has begun, and with its status, as ``waitpid`` has it, when it has ended.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import runpy
import selectors
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Any


def main() -> None:
    before = dict(os.environ)
    for name in sys.argv[1:]:
        importlib.import_module(name)
    from PIL import Image

    Image.init()
    if program := sys.modules.get("pipelines.cli.main"):
        program.command_line()  # is put together once
    assert threading.active_count() == 1, "a thread does not survive a fork"
    gc.freeze()  # the children share these pages for as long as nobody writes to them
    changes = {name: value for name, value in os.environ.items() if before.get(name) != value}  # by what was imported
    order = _serve(socket.socket(fileno=os.dup(0)))
    if order is not None:
        _become({**order, "environment": changes | order["environment"]})


def _serve(asked: socket.socket) -> dict[str, Any] | None:
    """Fork until told to end; return the order, in a child."""
    children: dict[int, socket.socket] = {}
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_read, False)
    os.set_blocking(wake_write, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write)
    chosen = selectors.DefaultSelector()
    chosen.register(asked, selectors.EVENT_READ)
    chosen.register(wake_read, selectors.EVENT_READ)
    while True:
        for key, _ in chosen.select():
            if key.fileobj == wake_read:
                os.read(wake_read, 4096)
                _reap(children)
                continue
            byte, descriptors, *_ = socket.recv_fds(asked, 1, 1)
            if not byte:
                for pid in children:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                return None
            channel = socket.socket(fileno=descriptors[0])
            order, streams = _receive(channel)
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                chosen.close()
                for other in (asked, channel, *children.values()):
                    other.close()
                os.close(wake_read)
                os.close(wake_write)
                for stream, target in zip(streams, (0, 1, 2), strict=True):
                    os.dup2(stream, target)
                    os.close(stream)
                return order
            for stream in streams:
                os.close(stream)
            children[pid] = channel
            channel.sendall(b"%d\n" % pid)


def _receive(channel: socket.socket) -> tuple[dict[str, Any], list[int]]:
    data, streams, *_ = socket.recv_fds(channel, 65536, 3)
    while not data.endswith(b"\n"):
        data += channel.recv(65536)
    return json.loads(data), streams


def _reap(children: dict[int, socket.socket]) -> None:
    while children:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        with children.pop(pid) as channel, contextlib.suppress(OSError):  # who asked may not be interested any more
            channel.sendall(b"%d\n" % status)


def _become(order: dict[str, Any]) -> None:
    """Be the Python that somebody started in this folder with this command and environment."""
    if order["session"]:
        os.setsid()
    for kind, most in order["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{kind}"), (most, most))
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[0] = ""
    sys.path[1:1] = [path for path in paths if path not in sys.path]
    import fsspec.config

    fsspec.config.set_conf_env(fsspec.config.conf)  # read when it was imported, before there was this environment
    match order["command"]:
        case ["-m", name, *arguments]:
            sys.argv[1:] = arguments
            runpy.run_module(name, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.argv[:] = ["-c", *arguments]
            module = sys.modules["__main__"] = type(sys)("__main__")
            exec(compile(code, "<string>", "exec"), module.__dict__)
        case [script, *arguments]:
            sys.argv[:] = [script, *arguments]
            sys.path[0] = str(Path(script).resolve().parent)
            runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
