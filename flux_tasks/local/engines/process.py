"""Runs an engine outside of the program that asks for pictures.

Python runs one thread at a time. An engine takes thousands of small steps, and beside a busy thread it would wait up to
5 ms before each: an erase of 0.6 s took 9 s. Each process works on one job at a time, stays for the next one, and ends
with the program, whatever ends that.
"""

import atexit
import contextlib
import os
import pickle
import queue
import subprocess
import sys
import threading
from typing import IO, Any

from PIL import Image

from flux_tasks.catalog import TOOLS
from flux_tasks.local import engines
from flux_tasks.local.engines import Progress, Work
from flux_tasks.settings import is_secret


class EngineProcesses:
    """The engine called ``name``, in as many processes as it has jobs at a time."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._idle: list[subprocess.Popen[bytes]] = []
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.close)

    def run(self, work: Work, progress: Progress) -> Image.Image:
        """See ``Engine.run``.

        Raises:
            RuntimeError: the process ended before the job did.
        """
        try:
            process = self._idle.pop()
        except IndexError:
            process = self._start()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 - both are pipes
        try:
            _send(process.stdin, (work.tool.name, work.parameters, work.pictures, work.size, work.seed))
            kind, value = pickle.load(process.stdout)  # noqa: S301 - of a process that was started here
            while kind == "progress":
                progress(value)
                kind, value = pickle.load(process.stdout)  # noqa: S301
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            _end(process)
            raise RuntimeError(f"the engine's process ended with code {process.returncode}") from error
        except BaseException:
            _end(process)
            raise
        self._idle.append(process)
        if kind == "failed":
            raise value
        image: Image.Image = value
        return image

    def _start(self) -> subprocess.Popen[bytes]:
        shown = {name: value for name, value in os.environ.items() if not is_secret(name)}
        shown["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
        command = [sys.executable, "-P", "-m", __name__, self._name]
        # In a session of its own the terminal's Ctrl-C does not reach it: jobs in flight are still collected.
        return subprocess.Popen(  # noqa: S603
            command, env=shown, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )

    def _forget(self) -> None:
        """Leave the processes to the program that this one is a fork of."""
        for process in self._idle:
            process.returncode = 0  # or Python would warn that it still runs
        self._idle.clear()

    def close(self) -> None:
        """End the processes that have no job."""
        while self._idle:
            _end(self._idle.pop())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # what it did not read any more
                pipe.close()


def _send(pipe: IO[bytes], message: Any) -> None:
    pickle.dump(message, pipe, protocol=5)
    pipe.flush()


def _work(name: str) -> None:
    """Do the jobs that come over standard input, until nobody holds its other end any more."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints is no answer
    jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def listen() -> None:
        while True:
            try:
                jobs.put(pickle.load(sys.stdin.buffer))  # noqa: S301
            except (EOFError, OSError, pickle.UnpicklingError):
                os._exit(0)

    threading.Thread(target=listen, daemon=True).start()
    engine = engines.imported(name)
    with contextlib.suppress(BrokenPipeError):  # the program has ended
        while True:
            tool, *others = jobs.get()
            try:
                image = engine.run(Work(TOOLS[tool], *others), lambda share: _send(answers, ("progress", share)))
                answer: tuple[str, Any] = "done", image
            except BrokenPipeError:
                raise
            except Exception as error:
                answer = "failed", _portable(error)
            _send(answers, answer)
    os._exit(0)  # Python would wait for the thread that listens, and complain


def _portable(error: Exception) -> Exception:
    """Return ``error``, or one that says the same where it cannot be sent to another process."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    _work(sys.argv[1])
