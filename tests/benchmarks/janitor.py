"""Once the benchmark has ended, however it ended, end every process that it started and remove its folder.

    python janitor.py FOLDER    # waits until its standard input is closed, which the kernel does for a killed parent

A process is one of the benchmark's if the variable ``BENCH_OF`` in its environment begins with the folder, so servers
that were started in the background are found, too.
"""

from __future__ import annotations

import shutil
import sys
import time
from contextlib import suppress

import psutil

VARIABLE = "BENCH_OF"


def started_by(mark: str, young_since: float = 0.0) -> list[psutil.Process]:
    """Return the processes with this mark, those only that began after ``young_since`` (seconds since the epoch)."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.create_time() >= young_since and process.environ().get(VARIABLE, "").startswith(mark):
                found.append(process)
        except psutil.Error:
            continue  # it has ended, or it is somebody else's
    return found


def kill(mark: str) -> None:
    """Kill the processes with this mark, and those that they start meanwhile."""
    until = time.monotonic() + 30.0
    while (left := started_by(mark)) and time.monotonic() < until:
        for process in left:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(left, timeout=1.0)


def main() -> None:
    """Wait, then clean up."""
    folder = sys.argv[1]
    sys.stdin.read()
    kill(folder)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
