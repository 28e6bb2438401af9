"""Speed, all contestants side by side in one run, written to ``docs/benchmarks.md``. Asserts nothing.

    make bench                              # 12 to 15 minutes on two quiet cores
    make bench ARGS="--quick"               # about 2 minutes, for a look; written to out/bench
    make bench ARGS="--only recipe,sizes"   # contestants, sections, or both; written to out/bench
    make bench ARGS="--full"                # the long grid, hours

What is measured and how stands at the head of the page, see ``page.INTRODUCTION``. Nothing is left after any end: see
``janitor``.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import field
import page
from arena import RECIPES, TITLES, Arena, Result
from measuring import ROOT, Workshop
from page import Section
from workload import Work

MAIN = ("hand", "recipe", "recipe-bare", "recipe-server")
PAIR = ("hand", "recipe", "recipe-bare")


@dataclass(frozen=True)
class Grid:
    """What is measured; the sweeps change one thing of ``base`` at a time.

    Attributes:
        runs: of the main contestants at the base point, and of short commands; everything else runs ``sweep_runs``
            times.
        sweep: the base point of the sweeps over duration, size and processes.
        crowd: the base point of the sweep over items.
        shared: processes, and recipes that they run, with the slots of one account.
        new: photos that are added to settled ones.
    """

    runs: int
    sweep_runs: int
    base: Work
    sweep: Work
    crowd: Work
    seconds: tuple[float, ...]
    megapixels: tuple[float, ...]
    processes: tuple[int, ...]
    items: tuple[int, ...]
    shared: tuple[tuple[int, int], ...] = ((3, 3), (8, 2))
    new: int = 10
    swept: tuple[str, ...] = PAIR


CROWD = Work(steps=1, seconds=0.3, megapixels=0.1)
DEFAULT = Grid(3, 1, Work(), Work(items=48), CROWD, (0.3, 3.0), (0.1, 4.0), (2, 4), (1000,))
QUICK = Grid(1, 1, Work(24, 4, 0.5), Work(24, 2, 0.5), CROWD, (0.3,), (0.1,), (2,), (100,))
TINY = Work(2, 1, 0.05, 0.1)
SMALLEST = Grid(1, 1, TINY, TINY, TINY, (0.1,), (0.2,), (2,), (2,), ((2, 2),), new=1)
EACH = tuple(TITLES)
FULL = Grid(5, 3, Work(), Work(), CROWD, (0.3, 1.0, 3.0), (0.1, 1.0, 4.0), (1, 2, 4), (100, 1000, 10_000), swept=EACH)
SECTIONS = ("base", "durations", "sizes", "processes", "slots", "items", "start", "settled")


class Bench:
    """Measures a grid, and shows each figure as soon as there is one."""

    def __init__(self, arena: Arena, grid: Grid, only: Collection[str] = ()) -> None:
        self.arena, self.grid = arena, grid
        self._sections = [name for name in SECTIONS if name in only] or list(SECTIONS)
        self._contestants = [name for name in TITLES if name in only] or list(TITLES)
        if arena.daft is None:
            self._contestants = [name for name in self._contestants if name != "daft"]

    def measure(self) -> list[Section]:
        """Measure everything that is asked for."""
        grid = self.grid
        found: list[Section] = []
        if "base" in self._sections:
            section = Section(page.BASE)
            for name in self._of(TITLES):
                runs = grid.runs if name in MAIN else grid.sweep_runs
                self._add(section, self.arena.measure(name, grid.base, runs))
            found.append(section)
        # Duration matters most: with a Prefect server as well.
        durations = [replace(grid.sweep, seconds=seconds) for seconds in grid.seconds]
        found += self._sweep("durations", "How long a job takes", durations, {*grid.swept, "recipe-server"})
        sizes = [replace(grid.sweep, megapixels=size) for size in grid.megapixels]
        found += self._sweep("sizes", "How large a picture is", sizes, grid.swept)
        shared = [replace(grid.sweep, processes=count) for count in grid.processes]
        found += self._sweep("processes", page.SHARED, shared, PAIR)
        crowded = [replace(grid.sweep, processes=count, recipes=recipes) for count, recipes in grid.shared]
        found += self._sweep("slots", page.SLOTS, [grid.sweep, *crowded], ("recipe-bare",))
        crowds = [replace(grid.crowd, items=items) for items in grid.items]
        found += self._sweep("items", "How many items", crowds, grid.swept)
        if "start" in self._sections:
            section = Section(page.START, is_chain=False)
            for name in self._of(TITLES):
                if name in RECIPES or name == "hand":
                    self._add(section, self.arena.measure(name, Work(1, 1, 0.2, 0.1), grid.runs))
            found.append(section)
        if "settled" in self._sections:
            found += self._settled()
        return found

    def _of(self, names: Collection[str]) -> list[str]:
        return [name for name in self._contestants if name in names]

    def _sweep(self, section: str, title: str, works: Sequence[Work], names: Collection[str]) -> list[Section]:
        if section not in self._sections:
            return []
        swept = Section(title)
        for work in works:
            for name in self._of(names):
                self._add(swept, self.arena.measure(name, work, self.grid.sweep_runs))
        return [swept]

    def _settled(self) -> list[Section]:
        """Measure what comes after a first run: the same again, its plan, and a few new photos."""
        again = Section(page.SETTLED, is_chain=False)
        plan = Section("The plan of it", is_chain=False)
        added = Section(page.ADDED, is_chain=False)
        for items in self.grid.items:
            work = replace(self.grid.crowd, items=items)
            for name in self._of(("recipe", "recipe-server")):
                if (first := self.arena.measure(name, work, 1, keep="kept")).note:
                    self._add(again, first)
                    continue
                self._add(again, self.arena.again(name, work, self.grid.runs))
                if name == "recipe":
                    self._add(plan, self.arena.again(name, work, self.grid.runs, "plan"))
                self._add(added, self.arena.added(name, work, self.grid.new))
        return [again, plan, added]

    @staticmethod
    def _add(section: Section, result: Result) -> None:
        section.results.append(result)
        told = result.note or (
            f"{result.wall:7.2f} s, slots {result.book['use']:.2f}, client CPU {result.cpu:6.2f} s, "
            f"Prefect server {result.server_cpu:6.2f} s, {result.peak:5.0f} MB"
        )
        print(f"{TITLES[result.contestant]:38} {result.work!s:40} {told}", flush=True)


def run(grid: Grid, target: Path, only: Collection[str] = ()) -> str:
    """Measure a grid and write the page; return its text."""
    before = os.getloadavg()[0]
    is_asked = "daft" in only or not any(name in TITLES for name in only)
    python, daft = field.install() if is_asked else (None, "")
    with Workshop() as workshop:
        sections = Bench(Arena(workshop, python), grid, only).measure()
    load = f"{before:.1f} before, {os.getloadavg()[0]:.1f} at the end"
    repeats = f"{grid.runs} runs of the main contestants and of short commands, {grid.sweep_runs} of the others"
    return page.write(target, sections, page.facts_of(load, f"Daft {daft}" if python else daft, repeats))


def main() -> None:
    """Read the options, measure, write."""
    parser = argparse.ArgumentParser(description="Measure the speed of all contestants side by side.")
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="about 2 minutes, for a look")
    size.add_argument("--smallest", action="store_true", help="seconds: shows that everything runs, and nothing else")
    size.add_argument("--full", action="store_true", help="the long grid: hours")
    known = (*SECTIONS, *TITLES)
    parser.add_argument("--only", default="", help=f"names of {', '.join(known)}; with commas between them")
    parser.add_argument("--page", type=Path, help="where to write (default: docs/benchmarks.md after a whole run)")
    given = parser.parse_args()
    only = [name.strip() for name in given.only.split(",") if name.strip()]
    if unknown := [name for name in only if name not in known]:
        parser.error(f"{', '.join(unknown)}: not one of {', '.join(known)}")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    is_whole = not (given.quick or given.smallest or only)
    target = given.page or ROOT / ("docs" if is_whole else "out/bench") / "benchmarks.md"
    grid = QUICK if given.quick else SMALLEST if given.smallest else FULL if given.full else DEFAULT
    try:
        print(f"\n{run(grid, target, only)}\nwritten to {target}")
    except KeyboardInterrupt:
        sys.exit("stopped; no page was written")


if __name__ == "__main__":
    main()
