"""How the process of a run ends: soon after the one that has started it, however that ended, and in few words."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

from flux_tasks.store.owner import is_process_alive

__all__ = ["end_with_parent", "shorten_tracebacks", "tied_to_this_process"]

_VARIABLE = "FLUX_PIPELINES_STARTED_BY"
_PAUSE = 0.5  # seconds between two looks
_PATIENCE = 45.0  # seconds that a run has for its end: more than the grace of ``flux-pipelines run``


_OF_CANCELLED = ("cancelled by the runtime environment", "Finished in state Running(", "Finished in state Submitting(")
"""What Prefect's lines about the end of a cancelled run say, which it has just been told to end."""


def tied_to_this_process() -> Mapping[str, str]:
    """Return the variables for the environment of runs that are to end with this process."""
    return {_VARIABLE: str(os.getpid())}


def end_with_parent() -> bool:
    """End this process soon after the one that its environment names, even if that was killed.

    A thread looks at it, which works on every system. Where an event loop runs, the task that has called this is
    cancelled; else it is as if SIGTERM had come. What this process starts itself is not tied to it.

    Returns:
        Whether one is named, which has started this run then.
    """
    name = os.environ.pop(_VARIABLE, "")
    if not name.isdecimal():
        return False
    end: Callable[[], object] = partial(os.kill, os.getpid(), signal.SIGTERM)
    with suppress(RuntimeError):
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        if task is not None:
            end = partial(loop.call_soon_threadsafe, task.cancel)
    threading.Thread(target=_follow, args=(int(name), os.getppid(), end), name="parent", daemon=True).start()
    return True


def _follow(started_by: int, parent: int, end: Callable[[], object]) -> None:
    while os.getppid() == parent and is_process_alive(started_by):
        time.sleep(_PAUSE)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE)  # whose signal nothing here handles: the system ends the process
    with suppress(RuntimeError):  # the loop has just ended, and so the process is about to
        end()


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
    if record.name == "asyncio" and type(error).__name__ == "TerminationSignal":
        return False  # what Prefect ends a cancelled run with
    if record.name.startswith("prefect") and any(words in record.getMessage() for words in _OF_CANCELLED):
        return False
    is_of_run = record.name.startswith(("prefect.flow_runs", "prefect.task_runs"))
    if error is not None and not (is_of_run and isinstance(error, Exception)):  # others are cancellations and signals
        reason = next(iter(str(error).splitlines()), "")
        record.msg, record.args = f"{record.getMessage()} ({type(error).__name__}: {reason[:200]})", ()
        record.exc_info = record.exc_text = None
    return True
