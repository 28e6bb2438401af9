"""The zygote: a process that has imported everything, and forks one runner for each run it is told to begin.

Starting Python anew for a thousand kills would take an hour. The zygote has a single thread, no event loop and no
connection, so that its children are as good as new. A runner goes through the true command line; only Prefect is left
out, as ``--prefect off`` does.

Reads ``{"run": 3, "arguments": […], "environment": {…}, "log": "…", "flaky": {…}}`` a line from its standard input, and
writes ``{"run": 3, "pid": 123}`` when it has begun and ``{"run": 3, "code": -9}`` when it has ended.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import selectors
import signal
import sys
from typing import Any

import disguise

disguise.wear_clock()


def _without_prefect() -> None:
    """Make each call directly, and repeat it sooner than people want it."""
    os.environ["FLUX_PREFECT"] = "off"
    from flux_tasks.tasks import direct

    direct.DELAYS = (0.05, 0.1, 0.2, 0.4)  # type: ignore[assignment]


def _become_runner(order: dict[str, Any]) -> int:
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)
    os.environ.update(order["environment"])
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # a run that hangs is asked where
    import fsspec.config

    fsspec.config.set_conf_env(fsspec.config.conf)  # read when it was imported, before there was this environment
    disguise.wear(order["environment"])
    if order["flaky"]:
        import flaky

        flaky.configure(**order["flaky"])
    from pipelines.cli.main import main

    return main(order["arguments"])


class _Ended(Exception):
    """The driver has closed its end."""


def _serve() -> dict[str, Any] | None:
    """Fork runners until told to stop; in a runner, its orders."""
    running: dict[int, int] = {}
    wake_read, wake_write = os.pipe()
    os.set_blocking(wake_write, False)
    os.set_blocking(wake_read, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write)
    chosen = selectors.DefaultSelector()
    chosen.register(0, selectors.EVENT_READ)
    chosen.register(wake_read, selectors.EVENT_READ)
    unread = b""

    def tell(**words: Any) -> None:
        os.write(1, json.dumps(words).encode() + b"\n")

    def reap() -> None:
        while running:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            tell(run=running.pop(pid), code=os.waitstatus_to_exitcode(status))

    try:
        while True:
            for key, _ in chosen.select():
                if key.fd == wake_read:
                    os.read(wake_read, 4096)
                    continue
                read = os.read(0, 65536)
                if not read:
                    raise _Ended
                *lines, unread = (unread + read).split(b"\n")
                for line in lines:
                    order = json.loads(line)
                    if "kill" in order:
                        pid = next((p for p, run in running.items() if run == order["kill"]), None)
                        if pid is not None:  # not reaped yet, so that the number is still its own
                            os.kill(pid, order["signal"])
                        continue
                    pid = os.fork()
                    if not pid:
                        chosen.close()
                        os.close(wake_read)
                        os.close(wake_write)
                        return dict(order)
                    running[pid] = order["run"]
                    tell(run=order["run"], pid=pid)
            reap()
    except (_Ended, BrokenPipeError):
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        for pid in running:
            os.waitpid(pid, 0)
        return None


def main() -> int:
    # All that a run will need, so that each runner has it at once.
    import flaky  # noqa: F401
    import s3fs  # noqa: F401
    from PIL import Image

    import pipelines.cli
    import pipelines.cli.progress
    import pipelines.recipe
    import pipelines.run  # noqa: F401

    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # as the product does, before the import
    import gcsfs  # noqa: F401

    Image.init()
    _without_prefect()
    gc.freeze()  # the children share these pages for as long as nobody writes to them
    os.write(1, b'{"ready": true}\n')
    order = _serve()
    return 0 if order is None else _become_runner(order)


if __name__ == "__main__":
    sys.exit(main())
