"""Runs in shards on every engine, with kills at random: of shards, of workers, of the run itself.

    PYTHONPATH=.:tests/support python tests/chaos/engines.py --kills 20 --seed 1 --on processes,dask,ray,prefect

Each round is the same recipe over the same pictures, with a store and a local server of its own. The first one is one
process, which nobody kills; then comes one for each engine without a kill: its manifest and the charges have to be the
same but for timings. Then rounds follow until the kills are spent. A run that was killed itself is begun again, by the
same command. In the end every item is done, no job is charged twice, no job is active at the server, the journal is
empty, no process is left, and the slots of the account are free: nobody holds one, and the next process that asks for
slots gets all of them at once and removes what the killed ones have left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import psutil
from in_shards import alike
from PIL import Image

from flux_tasks import files
from flux_tasks.api.lease import SlotLease
from flux_tasks.api.slots import Slots
from flux_tasks.local.server import LocalServer
from flux_tasks.store.account.slots import LAPSE, holders
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store
from pipelines.data.manifest import read_manifest

RECIPE = """\
name: clean
source: {{images: "{folder}/photos/*", columns: {{mask: "{folder}/masks/{{{{ stem }}}}.png"}}}}
steps:
  - deblur: {{}}
  - erase: {{mask: "{{{{ mask }}}}", dilate_pixels: 4}}
    when: mask_exists
  - resize: {{width: 64}}
output: {{path: "{folder}/out/{{{{ stem }}}}.png"}}
"""
SLOTS = 24
"""Of an account."""
HOLDS = ("prefect.engine", "prefect.flow_engine")
"""What the command line of a process has that works on a shard."""


class Round:
    """One folder, one server, one run."""

    def __init__(self, folder: Path, pictures: int, seconds: float) -> None:
        self.folder, self._seconds = folder, seconds
        self.left_by_killed = 0
        for name in ("photos", "masks"):
            (folder / name).mkdir(parents=True)
        mask = Image.new("L", (96, 80))
        mask.paste(255, (10, 10, 30, 30))
        for number in range(pictures):
            picture = Image.linear_gradient("L").resize((96, 80)).rotate(number * 3).convert("RGB")
            picture.save(folder / "photos" / f"p{number:03d}.png")
            if number % 3:
                mask.save(folder / "masks" / f"p{number:03d}.png")
        (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder))

    def __enter__(self) -> Round:
        self.server = LocalServer(credits=1e6, latency=self._seconds).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.stop()

    def start(self, *options: str) -> subprocess.Popen[str]:
        """Begin the run."""
        command = [sys.executable, "-m", "pipelines.cli", "run", str(self.folder / "recipe.yaml"), *options]
        places = ["--endpoint", self.server.url, "--store", str(self.folder / "store")]
        output = (self.folder / "output.txt").open("a")
        environment = {**os.environ, "FLUX_POLL_INTERVAL": "0.1", "RAY_TMPDIR": os.environ.get("RAY_TMPDIR", "/tmp")}
        return subprocess.Popen(
            [*command, *places, "--no-report"], stdout=output, stderr=output, env=environment, text=True
        )

    @property
    def rows(self) -> Any:
        """The manifest of the last run, without timings."""
        [*_, last] = sorted((self.folder / "store" / "runs").glob("*/manifest.jsonl"))
        return alike(list(read_manifest(str(last), in_order=True)), str(self.folder))

    @property
    def charges(self) -> Counter[tuple[str, float]]:
        """The book of charges: how many jobs of each tool at each price."""
        return Counter((entry.tool, entry.cost) for entry in self.server.charges.entries)

    def problems(self, charges: Counter[tuple[str, float]], rows: Any, *, is_killed: bool) -> Iterator[str]:
        """Yield what is wrong at the end."""
        if self.charges != charges:
            yield f"charges {dict(self.charges)}, not {dict(charges)}"
        if [row["outcome"] for row in self.rows if row["error"]]:
            yield f"errors: {[row['error'] for row in self.rows if row['error']]}"
        if not is_killed and self.rows != rows:
            yield "another manifest than that of one process"
        if [row["outputs"] for row in self.rows] != [row["outputs"] for row in rows]:
            yield "other outputs than those of one process"
        if active := sum(entry.settled is None for entry in self.server.charges.entries):
            yield f"{active} jobs are active at the server"
        if left := Journal(Store(str(self.folder / "store"))).entries():
            yield f"{len(left)} entries are left in the journal"
        if shards := list((self.folder / "store").glob("runs/*/shards/*/end.json")) and not is_killed:
            yield f"{shards} is left of shards"

    def leaked_slots(self) -> Iterator[str]:
        """Yield what is wrong with the slots of the account after all have ended, when another process wants them."""
        store = Store(str(self.folder / "store"))
        over = time.monotonic() + LAPSE
        while holding := [holder for holder in holders(store) if not holder.is_over]:  # who ends gives back at the end
            if time.monotonic() > over:
                yield f"slots are held by {holding}"
                break
            time.sleep(0.2)
        self.left_by_killed = len(holders(store))
        for account in files.folders(store.location("slots")):
            if (got := asyncio.run(_lease_all(store, account))) < SLOTS:
                yield f"the next process gets {got} of {SLOTS} slots"
        if left := holders(store):
            yield f"{len(left)} records of slots are left: {[holder.name for holder in left]}"


async def _lease_all(store: Store, account: str) -> int:
    """Return how many slots a process gets that wants all of them, within the time after which a claim lapses."""
    slots = Slots(SLOTS, early=0)
    lease = SlotLease(store, account, slots)
    async with lease.used(), AsyncExitStack() as held:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAPSE):
                for _ in range(SLOTS):
                    await held.enter_async_context(slots.hold(""))
        got = slots.active
    await lease.give_back()
    return got


def victims(
    running: subprocess.Popen[str], folder: Path, kind: str, workers: Sequence[int]
) -> dict[str, list[psutil.Process]]:
    """The processes that may be killed, by what they are."""
    found: dict[str, list[psutil.Process]] = {"shard": [], "worker": [], "run": []}
    with contextlib.suppress(psutil.Error):
        found["run"] = [psutil.Process(running.pid)]
        parents = [*found["run"], *(psutil.Process(pid) for pid in workers if psutil.pid_exists(pid))]
        for one in [child for parent in parents for child in parent.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                line = " ".join(one.cmdline())
                if "shards.child" in line or (kind == "prefect" and any(name in line for name in HOLDS)):
                    found["shard"].append(one)
                elif "ray::" in line or ("multiprocessing" in line and "spawn_main" in line and kind == "dask"):
                    found["worker"].append(one)
    return found


def kill(victim: psutil.Process, folder: Path) -> bool:
    """Kill a process, unless it is in the middle of a POST: that job would rightly be held."""
    with contextlib.suppress(psutil.Error):
        victim.suspend()
        entries = Journal(Store(str(folder / "store"))).entries()
        is_posting = any(f":{victim.pid} " in entry.owner and entry.phase == "intent" for entry in entries)
        if is_posting:
            victim.resume()
        else:
            victim.kill()
        return not is_posting
    return False


def play(
    name: str, kind: str, folder: Path, dice: random.Random, kills: int, given: Any, args: Any
) -> tuple[int, list[str], Counter[str]]:
    """Run a round; return how many kills there were, what is wrong, and what was killed."""
    charges, rows, on, workers = given
    done, killed, problems = 0, Counter[str](), list[str]()
    with Round(folder, args.pictures, args.seconds) as round_:
        options = ["--shards", str(args.shards), "--on", on] if on else []
        begun = time.monotonic()
        while True:
            running = round_.start(*options)
            while running.poll() is None and time.monotonic() - begun < args.patience:
                wait = dice.uniform(0.2, 3.0)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    running.wait(wait)
                ended = sum(len(p.read_text().splitlines()) for p in (folder / "store").glob("runs/*/shards/*/*.jsonl"))
                is_working = bool(round_.charges) and ended < args.pictures
                if done >= kills or running.poll() is not None or not is_working:
                    continue
                found = victims(running, folder, kind, workers)
                if not found["shard"]:
                    continue
                kinds = [
                    what for what, processes in found.items() if processes and (what != "run" or dice.random() < 0.2)
                ]
                if kinds:
                    what = dice.choice(kinds)
                    if kill(dice.choice(found[what]), folder):
                        killed[what] += 1
                        done += 1
            if running.poll() is None:
                running.kill()
                problems.append(f"it had not ended after {args.patience:g} s")
                break
            if running.returncode == -signal.SIGKILL and time.monotonic() - begun < args.patience:
                continue
            if running.returncode:
                problems.append(f"it ended with {running.returncode}")
            break
        if charges is not None and not problems:
            problems += round_.problems(charges, rows, is_killed=bool(killed["run"]))
        problems += round_.leaked_slots()
        seconds = time.monotonic() - begun
        left = [one for one in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(one.info["cmdline"] or ())]
        if left:
            problems.append(f"processes are left: {left}")
        what = f"kills {dict(killed)}  slots of killed {round_.left_by_killed}"
        print(f"{name:22} {seconds:6.1f} s  {what}  {'; '.join(problems) or 'fine'}", flush=True)
        if problems:
            print((folder / "output.txt").read_text()[-3000:], flush=True)
        given[0], given[1] = given[0] or round_.charges, given[1] or round_.rows
    return done, problems, killed


@contextlib.contextmanager
def prefect_pool(folder: Path, count: int) -> Iterator[list[int]]:
    """A Prefect server with a pool of this machine and so many workers; yields the process ids of these."""
    from forked import Forked  # noqa: F401 - its folder is on the path

    environment = {**os.environ, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    os.environ.update(environment)
    port = 4291
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    bin_ = Path(sys.executable).parent
    log = (folder / "prefect.txt").open("w")
    run = lambda *words: subprocess.Popen([str(bin_ / "prefect"), *words], stdout=log, stderr=log)  # noqa: E731
    server = run("server", "start", "--port", str(port))
    workers: list[subprocess.Popen[bytes]] = []
    try:
        import httpx

        while True:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{os.environ['PREFECT_API_URL']}/health", trust_env=False).status_code == 200:
                    break
            time.sleep(0.5)
        run("work-pool", "create", "shards", "--type", "process").wait()
        workers = [run("worker", "start", "--pool", "shards", "--name", f"w{n}") for n in range(count)]
        yield [worker.pid for worker in workers]
    finally:
        for process in (*workers, server):
            process.terminate()
        for process in (*workers, server):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()
        del os.environ["PREFECT_API_URL"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--on", default="processes,dask,ray")
    parser.add_argument("--pictures", type=int, default=24)
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1.0, help="that each job takes")
    parser.add_argument("--patience", type=float, default=280.0, help="seconds that a round may take")
    args = parser.parse_args()
    os.environ["PREFECT_API_URL"] = ""
    dice, wrong, total, spent = random.Random(args.seed), 0, Counter[str](), 0
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as name:
        place = Path(name)
        reference: list[Any] = [None, None, "", []]
        wrong += bool(play("one process", "", place / "one", dice, 0, reference, args)[1])
        for kind in args.on.split(","):
            pool = prefect_pool(place, 2) if kind == "prefect" else contextlib.nullcontext([])
            with pool as workers:
                on = "prefect:shards" if kind == "prefect" else kind
                given = [*reference[:2], on, workers]
                wrong += bool(play(f"{kind}, no kill", kind, place / kind, dice, 0, given, args)[1])
                left, number = args.kills // len(args.on.split(",")), 0
                while left > 0 and number < 12:
                    number += 1
                    done, problems, killed = play(
                        f"{kind} {number}", kind, place / f"{kind}{number}", dice, min(left, 4), given, args
                    )
                    left, wrong, total, spent = left - done, wrong + bool(problems), total + killed, spent + done
    print(f"kills: {spent} {dict(total)}; rounds that went wrong: {wrong}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
