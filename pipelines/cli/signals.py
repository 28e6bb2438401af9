"""Ctrl-C and SIGTERM during a run: stop soon, lose nothing.

The first one stops the run: no new job is begun, and jobs in flight are collected for ``GRACE`` seconds. Jobs that have
not ended by then stay in the journal. The second one ends the process at once; only a POST that waits for its answer is
given a few seconds more, because otherwise its job would be paid for and its id lost. The third one does not wait for
that either: ``flux-pipelines store held`` lists such jobs.
"""

import asyncio
import os
import signal
import sys
import threading
import time
from concurrent.futures import wait
from contextlib import suppress
from types import FrameType
from typing import Self

from flux_tasks import background
from flux_tasks.errors import Interrupted
from pipelines.cli.terminal import print_error
from pipelines.report.ending import Ending
from pipelines.run.run import Run

GRACE = 30.0
"""Seconds to wait for jobs in flight after the first signal."""

_LAST_WORDS = 5.0  # seconds to wait for the answer to a submission after the second signal
_STOPPED = 3
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalHandler:
    """Stops ``run`` where a signal would have ended the process.

    Args:
        ending: told if the process is ended before its run is.
        grace: how many seconds to wait for jobs in flight.
    """

    def __init__(self, run: Run, ending: Ending | None = None, *, grace: float = GRACE) -> None:
        self._run = run
        self._ending = ending
        self._grace = grace
        self._count = 0
        self._second = threading.Event()
        self._ended = False
        self._before = {number: signal.getsignal(number) for number in _SIGNALS}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                signal.signal(number, self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        """Let those who called handle the signals again."""
        self._ended = True
        self._second.set()
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._before.items():
                signal.signal(number, handler or signal.SIG_DFL)

    def _interrupted(self, number: int, _frame: FrameType | None) -> None:
        self._count += 1
        if self._count == 1:
            name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
            threading.Thread(target=self._wind_down, args=(name,), daemon=True).start()
        elif self._count == 2:
            self._second.set()
        else:
            self._exit()

    def _wind_down(self, name: str) -> None:
        """Stop the run; end the process if it has not ended by itself when the time is up."""
        from flux_tasks.jobs.submission import is_submitting

        print_error(
            f"{name}: no new job is begun; jobs in flight are collected, for {self._grace:g} s at most. "
            "Once more ends the run at once."
        )
        self._run.stop(Interrupted(f"interrupted ({name})"))
        # The loop learns of it a little later; until then it may begin a POST.
        wait([background.start(asyncio.sleep(0))], timeout=_LAST_WORDS)
        self._second.wait(self._grace)
        if self._ended:
            return
        over = time.monotonic() + (_LAST_WORDS if self._second.is_set() else 3600.0)
        while is_submitting() and time.monotonic() < over:
            time.sleep(0.05)
        print_error("interrupted: what was submitted is in the journal; run again to go on")
        if self._ending is not None and not self._second.is_set():
            with suppress(Exception):  # whatever it is, the process ends
                self._ending.tell(f"interrupted ({name})", patience=_LAST_WORDS)
        if (flows := sys.modules.get("pipelines.flows.recipe_flow")) is not None:  # else Prefect records nothing
            flows.cancel_flow_runs(f"interrupted ({name}); run again to go on", _LAST_WORDS)
        self._exit()

    @staticmethod
    def _exit() -> None:
        from flux_tasks.jobs.submission import spool_ids

        spool_ids()
        os._exit(_STOPPED)
