"""How the process of a run ends: by SIGTERM, and soon after the process that has started it, however that ended."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from flux_tasks.store.owner import is_process_alive

__all__ = ["cancelled_by_sigterm", "end_with_parent", "shorten_tracebacks", "tied_to_this_process"]

_VARIABLE = "FLUX_PIPELINES_STARTED_BY"
_PAUSE = 0.5  # seconds between two looks
_PATIENCE = 45.0  # seconds that a run has for its end: more than the grace of ``flux-pipelines run``


def tied_to_this_process() -> Mapping[str, str]:
    """Return the variables for the environment of runs that are to end with this process."""
    return {_VARIABLE: str(os.getpid())}


def end_with_parent() -> None:
    """End this process soon after the one that its environment names, as SIGTERM would: even ``kill -9`` ends both.

    A thread looks at it, which works on every system. What this process starts itself is not tied to it.
    """
    name = os.environ.pop(_VARIABLE, "")
    if name.isdecimal():
        threading.Thread(target=_follow, args=(int(name), os.getppid()), name="parent", daemon=True).start()


def _follow(started_by: int, parent: int) -> None:
    while os.getppid() == parent and is_process_alive(started_by):
        time.sleep(_PAUSE)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)  # whose signal nothing here handles: the system ends the process
    os.kill(os.getpid(), signal.SIGTERM)


@contextmanager
def cancelled_by_sigterm() -> Iterator[None]:
    """Let SIGTERM cancel the task that runs this block; Prefect's handler breaks off whatever runs just then.

    Prefect then notes the flow run as Cancelled, or as Crashed where it did not ask for that itself.
    """
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    if task is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, before)


def shorten_tracebacks() -> None:
    """Let Prefect print one line for a trouble of its own, such as a lost connection, where it prints a traceback.

    An error of the code that a flow runs keeps its traceback, and so does all that is sent to the server.
    """
    names = [None, *(name for name in logging.Logger.manager.loggerDict if name.partition(".")[0] == "prefect")]
    for handler in {one for name in names for one in logging.getLogger(name).handlers}:
        if isinstance(handler, logging.StreamHandler):
            handler.addFilter(_without_traceback)


def _without_traceback(record: logging.LogRecord) -> bool:
    """Shorten a record, which the handlers of its own logger have had before."""
    error = record.exc_info[1] if record.exc_info else None
    is_of_run = record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))
    if error is not None and not (is_of_run and isinstance(error, Exception)):  # others are cancellations and signals
        reason = next(iter(str(error).splitlines()), "")
        record.msg, record.args = f"{record.getMessage()} ({type(error).__name__}: {reason[:200]})", ()
        record.exc_info = record.exc_text = None
    return True
