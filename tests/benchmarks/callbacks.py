"""How often a job is asked for, and how late its end is seen: polled, called back here, or by way of the store.

``python tests/benchmarks/callbacks.py [JOBS]`` makes that many jobs each way, in turn, against one local server whose
jobs take two seconds, give or take half of one.
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from flux_tasks import adeblur, use
from flux_tasks.api import callbacks, receiver
from flux_tasks.api.connection import Connection
from flux_tasks.api.receiver import Receiver
from flux_tasks.local import LocalServer
from flux_tasks.store.records import Store

SECRET = "a-secret-for-the-figures"


class Polls:
    """Counts the polls of all jobs, and how late each one saw the end of its job."""

    def __init__(self) -> None:
        self.count, self.delays = 0, list[float]()
        poll = Connection.poll

        async def counted(connection: Connection, url: str) -> httpx.Response:
            answer = await poll(connection, url)
            self.count += 1
            result = answer.json().get("result") or {}
            if "end_time" in result:
                self.delays.append(time.time() - result["end_time"])
            return answer

        Connection.poll = counted  # type: ignore[method-assign]


def write_record(store: Store, job_id: str) -> None:
    """Do what a receiver in another process does."""
    store.create_record("callbacks", callbacks._name(job_id), {"at": time.time()})


def main(jobs: int) -> None:
    """Print a line for each way."""
    polls, direct = Polls(), receiver.note_callback
    with tempfile.TemporaryDirectory() as folder, LocalServer(latency=(2.0, 0.5), cap=24, credits=1e6) as server:
        for way in ("warm-up", "polled", "called back", "by the store"):
            polls.count, polls.delays = 0, []
            store, pictures = Store(f"{folder}/store"), Path(folder, way)
            pictures.mkdir()
            for number in range(jobs):
                colour = (number % 256, number // 256, len(way))
                Image.new("RGB", (64, 64), colour).save(pictures / f"{number}.png")
            changes: dict[str, Any] = {"endpoint": server.url, "store": store.url}
            with ExitStack() as until_done:
                if way not in ("warm-up", "polled"):
                    receiver.note_callback = write_record if way == "by the store" else direct
                    url = until_done.enter_context(Receiver([store], SECRET)).url
                    changes |= {"webhook_url": url, "webhook_secret": SECRET}
                until_done.enter_context(use(**changes))
                begun = time.monotonic()
                asyncio.run(_make(pictures))
            seconds = time.monotonic() - begun
            late = sorted(polls.delays)
            mean, most = statistics.mean(late), late[int(0.95 * len(late))]
            print(f"{way:13} {polls.count / jobs:5.2f} polls a job; {seconds:.1f} s; end seen after", end=" ")
            print(f"{mean:.2f} s, 95 % within {most:.2f} s", flush=True)


async def _make(pictures: Path) -> None:
    await asyncio.gather(*(adeblur(str(file)) for file in pictures.iterdir()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200)
