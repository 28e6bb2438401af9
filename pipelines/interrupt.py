"""Ctrl-C during a run: stop soon, lose nothing.

The first one stops the run; a POST that is under way is still waited for (``flux_tasks.job``), because its job would
be paid for and its id lost. A terminal sends Ctrl-C to Prefect's embedded server, too, and Prefect's client would go
on asking it for minutes: after a grace the process ends without that. The second Ctrl-C leaves at once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType

__all__ = ["install"]

_GRACE = 8.0
_STOPPED = 3
_seen = threading.Event()


def install() -> None:
    """Handle Ctrl-C this way from now on; only in the main thread, where signals arrive."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interrupted)


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    if _seen.is_set():
        os._exit(_STOPPED)
    _seen.set()
    threading.Thread(target=_leave, daemon=True).start()
    raise KeyboardInterrupt


def _leave() -> None:
    """End the process once the grace is over and no submission is under way."""
    from flux_tasks import job

    time.sleep(_GRACE)
    while job.is_submitting():
        time.sleep(0.1)
    server = sys.modules.get("prefect.server.api.server")
    with contextlib.suppress(Exception):  # it may be gone already: then there is nothing to stop
        for embedded in list(server.SubprocessASGIServer._instances.values()) if server else ():
            embedded.stop()
    print("flux-pipelines: interrupted: what was submitted is in the journal; run again to go on", file=sys.stderr)
    sys.stderr.flush()
    os._exit(_STOPPED)
