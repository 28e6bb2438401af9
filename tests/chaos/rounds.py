"""A round: one recipe, one store, one server, and processes that die and are started again.

The server lives in this process, the runs in others. When exactly one dies depends on the machine; everything else, the
pictures, the schedule of faults and the plan of kills, comes from the round's seed.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import flaky
from disguise import LEASE
from evidence import Evidence
from PIL import Image
from processes import Launcher, Process
from schedule import DEADLINE, TIMEOUT, Leg
from stores import LOCAL, Shelf
from strikes import Plan, Striker, slowness
from verdict import Verdict, judge
from watched import ENGINE, WatchedServer

from flux_tasks.local import engines
from flux_tasks.store.journal import Journal
from flux_tasks.store.records import Store
from pipelines.recipe import Recipe

__all__ = ["SECRET", "Leg", "Outcome", "Round", "play"]

SECRET = "bfl-c4a05-7be1-4f2d-this-key-must-never-be-written"

RECIPE = """\
name: chaos
source:
  images: "{photos}/*.png"
steps:
  - deblur: {{}}
  - outpaint: {{aspect_ratio: "16:9"}}
  - flux-2-klein-4b: {{prompt: "a lake at dawn", output_format: png}}
output:
  path: "{results}/{{{{ stem }}}}.png"
"""


@dataclass
class Outcome:
    """What a round came to."""

    name: str
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    acted: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0


@dataclass
class _Slot:
    """One of the processes that work side by side, through all its lives."""

    number: int
    process: Process | None = None
    began: float = 0.0
    resume: float = 0.0
    lives: int = 0
    stops: int = 0
    manifest: Path = Path()
    log: Path = Path()
    ended: tuple[int, Path] | None = None
    pid: int = 0
    """Of the process that has ended by itself."""


class Round:
    """See the module. ``play`` plays it; ``evidence`` is what was seen of it then."""

    def __init__(self, leg: Leg, seed: str, folder: Path, launcher: Launcher, shelf: Shelf = LOCAL) -> None:
        self.shelf = shelf
        self.skews: dict[int, float] = {}
        self.load = 1.0
        """The greatest ``slowness`` of the round."""
        self.leg, self.seed, self.folder, self.launcher = leg, seed, folder, launcher
        self.random = random.Random(seed)
        self.outcome = Outcome(seed)
        self.stir = threading.Event()
        self.diary: list[str] = []
        self.slots = [_Slot(number) for number in range(leg.processes)]
        self.max_jobs = leg.max_jobs or self.random.choice((1, 2, 4, 8))
        self.began, self.started = time.monotonic(), time.time()
        self.logs: list[Path] = []
        for name in ("photos", "logs", "home", "tmp", "store", "results", "spool"):
            (folder / name).mkdir(parents=True)
        for index in range(leg.items):
            size = self.random.choice(((96, 64), (64, 64), (64, 96), (80, 64)))
            grain = Image.frombytes("RGB", (16, 16), self.random.randbytes(16 * 16 * 3))
            grain.resize(size, Image.Resampling.BICUBIC).save(folder / "photos" / f"photo-{index:02}.png")
        self.store = shelf.new_store(folder)
        self.seen_failures = len(shelf.proxy.failures) if shelf.proxy else 0
        text = RECIPE.format(photos=folder / "photos", results=folder / "results")
        (folder / "recipe.yaml").write_text(text)
        self.recipe = Recipe.load(str(folder / "recipe.yaml"))
        schedule = {"seed": self.random.randrange(2**31), "faults": [dict(fault) for fault in leg.faults]}
        self.server = WatchedServer(
            key=SECRET, credits=1e9, cap=1000, faults=schedule, latency={"deblur-v1": leg.latency}, workers=2
        )
        self.engine = engines.identity(ENGINE)
        self.flaky = leg.flaky
        self.striker = Striker(
            leg, self.random, self.server, launcher.startup, living=self._living, note=self.note, stir=self.stir
        )

    def note(self, words: str) -> None:
        self.diary.append(f"{time.monotonic() - self.began:8.3f} {words}")

    def play(self) -> Outcome:
        with self.server:
            try:
                self._make_store_fail(self.leg.flaky)
                self._drive(self.leg.kills)
                self._make_store_fail(0.0)
                if not self.outcome.wrong:
                    self._judge(is_over=False)
                for rule in self.server.faults.to_dict()["faults"]:
                    self.outcome.acted[rule["fault"]] += rule["acted"]
                self.server.faults.clear()
                self.slots = [_Slot(len(self.slots))]
                if not self.outcome.wrong:
                    self._drive(0)
                if not self.outcome.wrong:
                    self._judge(is_over=True)
                    self._listed()
            finally:
                self.server.trap = None
                for slot in self.slots:
                    self._end(slot)
        self.outcome.seconds = time.monotonic() - self.began
        self.outcome.counts["kills"] = len(self.striker.kills)
        self.outcome.counts.update(self.striker.counts)
        self.outcome.counts["processes"] = len(self.skews)
        self.outcome.counts["faults of the store"] = len(self._store_failures())
        self.outcome.counts["faults"] = sum(self.outcome.acted.values())
        self.note(f"the machine was {self.server.late:.3f} s late at most")
        (self.folder / "diary.txt").write_text("\n".join(self.diary) + "\n")
        posts = [f"{post.arrived - self.started:8.3f} {post}" for post in self.server.posts]
        (self.folder / "posts.txt").write_text("\n".join([*posts, *map(str, self.server.charges.entries)]) + "\n")
        return self.outcome

    def _make_store_fail(self, share: float) -> None:
        self.load = max(self.load, slowness())
        self.flaky = share
        if self.shelf.proxy is not None:
            self.shelf.proxy.share = share

    def _end(self, slot: _Slot) -> None:
        process = slot.process
        while process is not None and process.code is None:
            process.send(signal.SIGKILL)
            time.sleep(0.01)

    # -- processes that live and die --

    def _start(self, slot: _Slot) -> None:
        slot.lives += 1
        name = f"{slot.number}-{slot.lives}"
        slot.log = self.folder / "logs" / f"run-{name}.log"
        slot.manifest = self.folder / f"manifest-{slot.number}.jsonl"
        slot.log.touch()
        self.logs.append(slot.log)
        is_flaky = bool(self.leg.flaky) and self.shelf.proxy is None
        store = f"flaky://{self.store}" if is_flaky else self.store
        report = ["--report", f"{self.folder}/report-{slot.number}.html"] if self.leg.report else ["--no-report"]
        arguments = ["run", f"{self.folder}/recipe.yaml", "--endpoint", self.server.url, "--store", store]
        arguments += ["--manifest", str(slot.manifest), *report, "--max-jobs", str(self.max_jobs), "--grace", "5"]
        trouble = {"seed": f"{self.seed} {name}", "share": self.flaky, "log": f"{self.folder}/failures.txt"}
        slot.began = time.monotonic()
        disguise = self._disguise()
        slot.process = self.launcher.start(
            arguments, self._environment() | disguise, slot.log, self.stir, flaky=trouble if is_flaky else None
        )
        self.skews[slot.process.pid] = float(disguise["CHAOS_SKEW"])
        self.outcome.counts["runs"] += 1
        self.note(f"process {slot.number}, life {slot.lives}: pid {slot.process.pid}, {disguise}")

    def _disguise(self) -> dict[str, str]:
        """What the next process is to believe of its surroundings."""
        worn = {"CHAOS_SKEW": f"{self.random.choice((0.0, -1.0, 1.0, self.random.uniform(-1, 1))) * self.leg.skew:.0f}"}
        if self.leg.machines > 1:
            worn["CHAOS_MACHINE"] = str(1 + self.random.randrange(self.leg.machines))
        if self.leg.machines > 1 or self.leg.stops:
            worn["CHAOS_LEASE"] = f"{LEASE:g}"
        return worn

    def _environment(self) -> dict[str, str]:
        return {
            **self.shelf.environment,
            "HOME": f"{self.folder}/home",
            "TMPDIR": f"{self.folder}/tmp",
            "BFL_API_KEY": SECRET,
            "FLUX_SPOOL": f"{self.folder}/spool",
            "FLUX_TIMEOUT": f"{TIMEOUT:g}",
            "FLUX_DEADLINE": f"{DEADLINE:g}",
            "FLUX_ON_UNCERTAIN": self.leg.policy,
        }

    def _living(self) -> list[Process]:
        return [s.process for s in self.slots if s.process is not None and s.process.code is None]

    def _drive(self, budget: int) -> None:
        """Start all processes, kill ``budget`` of them, and let each come to its end."""
        plan: Plan | None = None
        done = 0
        while True:
            now = time.monotonic()
            for slot in self.slots:
                if slot.process is not None and slot.process.code is not None:
                    done += self._ended(slot, slot.process)
                elif slot.process is None and slot.ended is None and now >= slot.resume:
                    self._start(slot)
                elif slot.process is not None and now - slot.began > self.leg.patience * slowness():
                    self._hangs(slot)
            if self.outcome.wrong or all(slot.ended is not None for slot in self.slots):
                self.server.trap = None
                return
            if plan is not None and (plan.struck or now > plan.at):
                self.striker.due(plan)
                plan = None
            is_worth_it = self.striker.vain < 3  # else they only wait for a job that never ends
            if plan is None and done < budget and is_worth_it:
                plan = self.striker.plan()
            self.stir.wait(0.02 if plan is None else max(0.0005, min(0.02, plan.at - time.monotonic())))
            self.stir.clear()

    def _ended(self, slot: _Slot, process: Process) -> int:
        """Whether it was killed."""
        code, slot.process = process.code, None
        assert code is not None
        if process.pid in self.striker.kills and code == -signal.SIGKILL:
            self.note(f"process {slot.number} is dead")
            self.outcome.counts[f"killed by {self.striker.kinds[process.pid]}"] += 1
            slot.resume = time.monotonic() + self.random.choice((0.0, 0.0, self.random.uniform(0.0, 0.2)))
            return 1
        self.striker.kills.pop(process.pid, None)  # it had come to its end just before
        self.note(f"process {slot.number} ended by itself with {code}")
        if code == -signal.SIGTERM and process.pid in self.striker.asked:  # before it could hear of it
            return 0
        if code == 3 and slot.stops < 40:  # stopped: what a person does then is to run it again
            slot.stops += 1
            return 0
        slot.ended, slot.pid = (code, slot.manifest), process.pid
        if code not in (0, 1):
            said = slot.log.read_text(errors="replace")[-3000:]
            self.outcome.wrong.append(f"exit code: process {slot.number} ended with {code}: {said}")
        return 0

    def _hangs(self, slot: _Slot) -> None:
        assert slot.process is not None
        slot.process.send(signal.SIGUSR1)
        time.sleep(0.5)
        said = slot.log.read_text(errors="replace")[-6000:]
        self.outcome.wrong.append(
            f"hang: process {slot.number} has not ended for {self.leg.patience:g} s and more: {said}"
        )

    # -- the end --

    def evidence(self, *, is_over: bool) -> Evidence:
        """Everything that can be seen of it from outside."""
        written = [
            path
            for path in self.folder.rglob("*")
            if path.is_file() and path.relative_to(self.folder).parts[0] not in ("photos", "recipe.yaml")
        ]
        manifests = {s.number: (s.ended[0], _rows(s.ended[1])) for s in self.slots if s.ended is not None}
        return Evidence(
            recipe=self.recipe,
            engine=self.engine,
            store=self.store,
            spool=self.folder / "spool",
            logs=self.logs,
            written=written,
            secret=SECRET,
            charges=self.server.charges.entries,
            posts=tuple(self.server.posts),
            kills=self.striker.kills,
            manifests=manifests,
            store_failures=self._store_failures(),
            stops=self.striker.stops,
            skews=self.skews,
            timeout=TIMEOUT,
            pids={slot.number: slot.pid for slot in self.slots},
            lags=tuple(self.server.lags),
            writing=6.0 * self.load + 2 * self.server.late,
            policy=self.leg.policy,
            is_over=is_over,
        )

    def _store_failures(self) -> list[tuple[int, str, str, str]]:
        proxy = self.shelf.proxy
        return proxy.failures[self.seen_failures :] if proxy else flaky.failures(self.folder / "failures.txt")

    def _judge(self, *, is_over: bool) -> None:
        self._let_the_server_finish()
        found: Verdict = judge(self.evidence(is_over=is_over))
        self.outcome.wrong += found.wrong
        for name, count in found.counts.items():
            if name.startswith("rows: ") and is_over:
                self.outcome.counts[f"in the end: {name[6:]}"] += count
            elif is_over or name.startswith(("rows: ", "on the way")):
                self.outcome.counts[name] += count

    def _listed(self) -> None:
        """Whether ``store held`` lists what the journal holds."""
        log = self.folder / "held.json"
        arguments = ["store", "held", "--json", "--store", self.store]
        environment = self._environment() | self._disguise() | {"CHAOS_SKEW": "0"}
        process = self.launcher.start(arguments, environment, log, self.stir)
        over = time.monotonic() + self.leg.patience * slowness()
        while process.code is None and time.monotonic() < over:
            self.stir.wait(0.02)
        if process.code is None:
            process.send(signal.SIGKILL)
        try:
            told = log.read_text()  # after warnings of clocks that are wrong, which go to standard error
            listed = {entry["key"] for entry in json.loads(told[told.find("[") :])}
        except ValueError:
            self.outcome.wrong.append(f"held: store held --json ended with {process.code}: {log.read_text()[-2000:]}")
            return
        store = Store(self.store)
        entries = [e for e in Journal(store).entries() if e.phase == "intent" and store.result(e.key) is None]
        held = {e.key for e in entries}
        # Of a process that was killed on another machine, it is not known at once.
        young = {e.key for e in entries if self.leg.machines > 1 and abs(time.time() - e.at) < 30 + LEASE}
        if not held - young <= listed <= held:
            self.outcome.wrong.append(f"held: {sorted(held)} are held, and {sorted(listed)} are listed")

    def _let_the_server_finish(self) -> None:
        """Jobs that were being made when their owner died are made all the same."""
        over = time.monotonic() + 10
        while time.monotonic() < over:
            running = [e for e in self.server.charges.entries if e.settled is None and "job.never_ends" not in e.faults]
            if not running:
                return
            time.sleep(0.005)


def _rows(manifest: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in manifest.read_text().splitlines()] if manifest.exists() else []


def play(leg: Leg, seed: str, folder: Path, launcher: Launcher, shelf: Shelf = LOCAL, *, keep: bool = False) -> Outcome:
    """One round in a folder of its own, which goes afterwards unless ``keep``."""
    place = folder / f"round-{seed.replace(':', '-')}"
    outcome = Round(leg, seed, place, launcher, shelf).play()
    if not keep:
        shutil.rmtree(place)
    return outcome
