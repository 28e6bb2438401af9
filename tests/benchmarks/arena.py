"""The contestants, and how each of them is run against the stand-in service."""

from __future__ import annotations

import json
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from measuring import Failed, Usage, Workshop, cpu_of
from workload import Work, write_photos, write_recipe

HERE = Path(__file__).parent
TITLES = {
    "hand": "hand-written: asyncio and httpx",
    "prefect-map": "plain Prefect: `.map` of sync tasks",
    "prefect-chains": "plain Prefect: chains of async tasks",
    "recipe": "recipe, without Prefect",
    "recipe-bare": "recipe, without Prefect and without its report",
    "recipe-server": "recipe, lasting Prefect server",
    "recipe-embedded": "recipe, embedded Prefect server",
    "daft": "Daft: a chain of columns",
}
# And how each of them is told to record its run: FLUX_PREFECT.
RECIPES = {"recipe": "off", "recipe-bare": "off", "recipe-server": "auto", "recipe-embedded": "embedded"}
SCRIPTS = {
    "hand": "handwritten.py",
    "prefect-map": "prefect_map.py",
    "prefect-chains": "prefect_chains.py",
    "daft": "daft_columns.py",
}
# As README.md recommends for a lasting server.
SERVER = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_READ_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
    "PREFECT_SERVER_SERVICES_EVENT_PERSISTER_BATCH_SIZE": "200",
}


@dataclass
class Result:
    """One contestant at one piece of work: medians of its runs.

    Attributes:
        book: what the service saw; see ``server.Book.read``.
        note: why there are no figures.
    """

    contestant: str
    work: Work
    runs: int = 0
    wall: float = 0.0
    cpu: float = 0.0
    server_cpu: float = 0.0
    peak: float = 0.0
    book: dict[str, float] = field(default_factory=dict)
    note: str = ""


class Arena:
    """The stand-in service, a lasting Prefect server once it is needed, and a folder for each run."""

    def __init__(self, workshop: Workshop, daft: Path | None = None) -> None:
        self.workshop = workshop
        self.folder = workshop.folder
        self.daft = daft
        self._prefect: tuple[str, int] | None = None
        service = workshop.start([sys.executable, str(HERE / "server.py")])
        assert service.stdout is not None
        self.url = service.stdout.readline().strip()

    def measure(self, contestant: str, work: Work, runs: int, keep: str = "") -> Result:
        """Let one contestant do the work a few times, each time from nothing; ``keep`` names the last run's folder."""
        result = Result(contestant, work)
        photos = self.folder / "photos"
        shutil.rmtree(photos, ignore_errors=True)
        write_photos(photos, work)

        def once() -> tuple[Usage, dict[str, Any]]:
            place = self.place(keep or "run", photos, work)
            seen = self._timed(self.commands(contestant, work, place, photos), contestant, work)
            made = len(list((place / "out").glob("*.png")))
            if made != work.items * work.recipes or seen[1]["jobs"] != work.jobs:
                raise Failed(f"{made} of {work.items * work.recipes} outputs, {seen[1]['jobs']} of {work.jobs} jobs")
            return seen

        _repeat(result, once, runs)
        return result

    def again(self, contestant: str, work: Work, runs: int, command: str = "run", place: str = "kept") -> Result:
        """Measure a command over a folder that an earlier run has filled; it must make no job."""
        result = Result(contestant, work)
        folder = self.folder / place

        def once() -> tuple[Usage, dict[str, Any]]:
            commands = self.commands(contestant, work, folder, folder, command)
            usage, book = self._timed(commands, contestant, work)
            if book["jobs"]:
                raise Failed(f"{book['jobs']} jobs were made")
            return usage, book

        _repeat(result, once, runs)
        return result

    def added(self, contestant: str, work: Work, new: int, place: str = "kept") -> Result:
        """Measure a run over the same folder after ``new`` photos came; it must make their jobs and no others."""
        result = Result(contestant, work)
        folder = self.folder / place
        more = Work(new, work.steps, work.seconds, work.megapixels)
        write_photos(self.folder / "photos", more, first=work.items)

        def once() -> tuple[Usage, dict[str, Any]]:
            usage, book = self._timed(self.commands(contestant, work, folder, folder), contestant, work)
            if book["jobs"] != more.jobs:
                raise Failed(f"{book['jobs']} of {more.jobs} jobs")
            return usage, book

        _repeat(result, once, 1)
        return result

    def place(self, name: str, photos: Path, work: Work) -> Path:
        """Return an empty folder with the recipes in it."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        (place / "out").mkdir(parents=True)
        for number in range(work.recipes):
            write_recipe(place, photos, work.steps, number)
        return place

    def commands(
        self, contestant: str, work: Work, place: Path, photos: Path, command: str = "run"
    ) -> list[Sequence[str]]:
        """Return the commands of a contestant, one for each process; one recipe is shared as shards."""
        if contestant in RECIPES:
            options = ["--endpoint", self.url, "--store", f"{place}/store"]
            options += ["--max-jobs", str(work.slots)] if command == "run" else []  # of all processes together
            options += ["--no-report"] if contestant == "recipe-bare" else []
            recipes = [f"{place}/recipe{number or ''}.yaml" for number in range(work.recipes)]
            start = [sys.executable, "-m", "pipelines.cli", command]
            if work.recipes == 1 < work.processes:
                return [[*start, recipes[0], *options, "--shards", str(work.processes), "--on", "processes"]]
            return [[*start, recipes[n % work.recipes], *options] for n in range(work.processes)]
        slots = str(work.slots // work.processes)
        python = str(self.daft) if contestant == "daft" else sys.executable
        script = [python, str(HERE / "contestants" / SCRIPTS[contestant]), self.url, str(photos), f"{place}/out"]
        script += ["--steps", str(work.steps), "--slots", slots]
        return [[*script, "--share", f"{n}/{work.processes}"] for n in range(work.processes)]

    def _timed(self, commands: list[Sequence[str]], contestant: str, work: Work) -> tuple[Usage, dict[str, Any]]:
        changes, before = {"FLUX_PREFECT": RECIPES.get(contestant, "off")}, 0.0
        if contestant == "recipe-server":
            address, pid = self.prefect()
            changes["PREFECT_API_URL"], before = address, _when_quiet(pid)
        self._ask("POST", {"seconds": work.seconds, "slots": work.slots, "megapixels": work.megapixels})
        usage = self.workshop.run(commands, changes)
        book = self._ask("GET")
        if contestant == "recipe-server":
            usage = Usage(usage.wall, usage.cpu, _when_quiet(pid) - before, usage.peak)
        return usage, book

    def open_book(self, work: Work) -> None:
        """Let the service's jobs take as long as ``work`` says, and its book begin anew."""
        self._ask("POST", {"seconds": work.seconds, "slots": work.slots})

    def prefect(self) -> tuple[str, int]:
        """Start the lasting Prefect server, once; return its address and its process."""
        if self._prefect is None:
            with socket.create_server(("127.0.0.1", 0)) as free:
                port = free.getsockname()[1]
            command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
            started = self.workshop.start(command, PREFECT_HOME=f"{self.folder}/lasting", **SERVER)
            assert started.stdout is not None
            _drain(started)
            address, until = f"http://127.0.0.1:{port}/api", time.monotonic() + 180
            while not _answers(f"{address}/health"):
                if started.poll() is not None or time.monotonic() > until:
                    raise Failed("the lasting Prefect server did not start")
                time.sleep(0.5)
            self._prefect = address, started.pid
        return self._prefect

    def _ask(self, method: str, data: dict[str, float] | None = None) -> dict[str, Any]:
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(f"{self.url}/book", body, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=30) as answer:
            return dict(json.load(answer))


def _repeat(result: Result, once: Callable[[], tuple[Usage, dict[str, Any]]], runs: int) -> None:
    """Fill in the medians of several runs; the first that fails ends them."""
    seen: list[tuple[Usage, dict[str, Any]]] = []
    try:
        for _ in range(runs):
            seen.append(once())
    except Failed as failed:
        result.note = str(failed)
        return
    result.runs = len(seen)
    for name in asdict(seen[0][0]):
        setattr(result, name, statistics.median(getattr(usage, name) for usage, _ in seen))
    result.book = {name: statistics.median(book[name] for _, book in seen) for name in seen[0][1]}


def _when_quiet(pid: int) -> float:
    """Return a server's CPU seconds once it has written down what it was sent; 60 s later at the latest."""
    used, until = cpu_of(pid), time.monotonic() + 60.0
    while time.monotonic() < until:
        time.sleep(1.0)
        now = cpu_of(pid)
        if now - used < 0.1:
            return now
        used = now
    return used


def _answers(url: str) -> bool:
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def _drain(process: subprocess.Popen[str]) -> None:
    """Read what a server writes, so that it never waits for a reader."""
    threading.Thread(target=lambda: process.stdout.read(), daemon=True).start()  # type: ignore[union-attr]
