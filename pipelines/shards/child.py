"""A process for one shard: started by ``start``, it ends with the process that has started it, however that ends.

The task comes by its standard input, pickled, which stays open: a line there says why the shard is to stop, its end
that the parent is gone. What happens goes to standard output, a line of JSON for each event; all else that is printed
goes to standard error.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from flux_tasks.errors import Interrupted
from pipelines.run.context import Event, EventKind
from pipelines.run.run import Run
from pipelines.shards.scratch import remove_scratch
from pipelines.shards.task import ShardTask, work_on

__all__ = ["Child", "main", "work_in_child"]

_LAST_WORDS = 5.0
"""Seconds to wait for the answer to a submission when the parent is gone."""
_SAID = 12
"""Lines of what a process has printed, for a message."""
_START = "import sys; sys.path[:] = {path!r}; from pipelines.shards.child import main; del sys.path[0]; main()"
"""It finds the modules that the parent finds; its own program first, whatever lies there under the same names."""


class Child:
    """A process that works on one shard. Use one for one ``run``, which blocks; ``end`` may be called by any thread."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._is_over = False
        self._lock = threading.Lock()

    def run(self, task: ShardTask, on_event: Callable[[Event], None] = lambda _: None) -> str:
        """Start the process, wait until it ends, and return what it has said last if it did not end by itself."""
        code = _START.format(path=[str(Path(__file__).parents[2]), *filter(None, sys.path)])
        with self._lock:
            if self._is_over:
                return "it was not begun"
            process = self._process = subprocess.Popen(  # noqa: S603 - this program itself
                [sys.executable, "-P", "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd=task.folder or None,
                start_new_session=True,  # Ctrl-C is for the parent, which tells the shards
            )
        said: deque[str] = deque(maxlen=_SAID)
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None  # noqa: S101, PT018
        listening = threading.Thread(target=_listen, args=(process.stderr, said), daemon=True)
        listening.start()
        with suppress(BrokenPipeError):
            process.stdin.write(pickle.dumps(task))
            process.stdin.flush()
        for line in process.stdout:
            with suppress(ValueError, TypeError):
                on_event(_event(json.loads(line)))
        status = process.wait()
        listening.join(_LAST_WORDS)
        with self._lock, suppress(BrokenPipeError):
            process.stdin.close()
        process.stdout.close()
        if not listening.is_alive():  # else something that it has started has the stream still
            process.stderr.close()
        return "" if status == 0 else _ending(status, said)

    def stop(self, why: str) -> None:
        """Have it begin no new job."""
        with self._lock:
            if self._process is not None and self._process.stdin is not None:
                with suppress(OSError, ValueError):
                    self._process.stdin.write(" ".join(why.split()).encode() + b"\n")
                    self._process.stdin.flush()

    def end(self) -> None:
        """End the process as if the parent had ended."""
        with self._lock:
            self._is_over = True
            if self._process is not None and self._process.stdin is not None:
                with suppress(OSError, ValueError):
                    self._process.stdin.close()


def work_in_child(task: ShardTask) -> str:
    """Work on a shard in a process of its own: what workers of Dask and Ray call.

    So shards of one worker share nothing, a crash costs the shard only, and the process ends with the worker.
    """
    return Child().run(task)


def _listen(stream: Any, said: deque[str]) -> None:
    for line in stream:
        said.append(line.decode("utf-8", "replace").rstrip())


def _ending(status: int, said: deque[str]) -> str:
    if status < 0:
        return f"it was ended by signal {-status}"
    how = f"it ended with the code {status}"
    last = next((line for line in reversed(said) if line.strip()), "")
    return f"{how}: {last}" if last else how


def _event(data: dict[str, Any]) -> Event:
    return Event(**{**data, "kind": EventKind(data["kind"])})


def main() -> None:
    """Work on the shard that comes by standard input."""
    events = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
    os.dup2(2, 1)
    task: ShardTask = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the parent
    runs: list[Run] = []
    threading.Thread(target=_heed_parent, args=(runs,), daemon=True).start()
    lock = threading.Lock()

    def tell(event: Event) -> None:
        data = {name: value for name in Event.__slots__ if (value := getattr(event, name))}
        with lock, suppress(BrokenPipeError):
            print(json.dumps(data, default=str), file=events, flush=True)

    work_on(task, tell, runs.append)
    os.close(events.fileno())


def _heed_parent(runs: list[Run]) -> None:
    """Stop the run when the parent says so, and end the process when the parent has ended."""
    from flux_tasks.jobs.submission import is_submitting, spool_ids

    while why := os.read(0, 65_536):
        while not runs:  # it looks at its items
            time.sleep(0.05)
        runs[0].stop(Interrupted(why.decode("utf-8", "replace").strip()))
    over = time.monotonic() + _LAST_WORDS
    while is_submitting() and time.monotonic() < over:
        time.sleep(0.05)
    spool_ids()
    remove_scratch()  # of the run, which has been killed if its workers have not ended this process by themselves
    os._exit(3)
