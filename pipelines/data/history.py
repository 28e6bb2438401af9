"""What earlier runs have left in the store: their recipes and manifests, how long jobs take, what was spent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flux_tasks import files
from flux_tasks.catalog.rules import Price
from flux_tasks.errors import Problem, RecipeError, StoreUnavailable, nearest, quote
from flux_tasks.jobs.call import Call
from flux_tasks.store.records import Store
from pipelines.data.manifest import ManifestRow, read_manifest
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.reading import loader

__all__ = ["USUAL", "JobDurations", "LearnedPrices", "PastRun", "spent_before"]


@dataclass(frozen=True)
class PastRun:
    """An earlier run.

    Attributes:
        manifest: where it is.
    """

    run_id: str
    recipe: CompiledRecipe
    endpoint: str
    manifest: str

    @classmethod
    def find(cls, name: str, store: str) -> PastRun:
        """Find the run called ``name``: its id, the path of its manifest in the store, or ``last``.

        Raises:
            RecipeError: there is none, its paths are relative to another folder, or its recipe is no longer valid.
            StoreUnavailable: the store cannot be read.
        """
        place = Store(store)
        try:
            known = files.folders(place.location("runs"))
        except OSError as error:
            raise StoreUnavailable.of("read", error) from error
        parts = name.rstrip("/").split("/")
        run_id = (
            known[-1] if name == "last" and known else next((part for part in reversed(parts) if part in known), "")
        )
        record = _record(place, run_id) if run_id else None
        if record is None:
            none = (
                "; there is no store there yet: --store or FLUX_STORE names another one"
                if place.is_new()
                else "; it has no run yet"
            )
            hint = nearest(name, known) or (f"; the last one is {known[-1]}" if known else none)
            raise RecipeError([Problem("run", f"{place.url} has no run {quote(name)}{hint}")])
        if record["folder"] != str(Path.cwd()) and _is_relative(record):
            what = f"{run_id} was made in {record['folder']}, and its paths are relative: run this there"
            raise RecipeError([Problem("run", what)])
        recipe = loader.parse(record["recipe"], file=f"{run_id}/run.json", variables=record.get("variables") or {})
        return cls(run_id, recipe, record["endpoint"], record["manifest"])

    def items(self, outcomes: Collection[str]) -> set[str]:
        """Return the locations of the items that ended in one of ``outcomes``.

        Raises:
            RecipeError: the manifest cannot be read.
        """
        return {row["source"] for row in self._rows() if row["outcome"] in outcomes}

    def counts(self) -> Counter[str]:
        """Return how many items ended in each outcome.

        Raises:
            RecipeError: the manifest cannot be read.
        """
        return Counter(row["outcome"] for row in self._rows())

    def _rows(self) -> list[ManifestRow]:
        try:
            return list(read_manifest(self.manifest))
        except OSError as error:
            raise RecipeError([Problem("run", f"the manifest of {self.run_id} cannot be read: {error}")]) from None


def _record(store: Store, run_id: str) -> dict[str, Any] | None:
    try:
        return store.record(files.join("runs", run_id), "run")
    except (OSError, ValueError):
        return None


def _is_relative(record: dict[str, Any]) -> bool:
    source = loader.parse(record["recipe"], variables=record.get("variables") or {}).source
    places = [*source.images, source.table, source.image]
    return any(place and files.is_local(place) and not files.local_path(place).is_absolute() for place in places)


USUAL = 10.0
"""Seconds that a job is assumed to take where the store does not know."""

_WEIGHT = 0.3  # of this run's mean against the one before


class JobDurations:
    """Mean seconds of a job, by tool; the store is asked once for each, until ``close``."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, float | None] = {}
        self._seen: dict[str, list[float]] = {}

    def add(self, tool: str, seconds: float) -> None:
        """Add the seconds that a job of ``tool`` took."""
        sums = self._seen.setdefault(tool, [0.0, 0.0])
        sums[0] += seconds
        sums[1] += 1

    def close(self) -> None:
        """Write the means; a store that cannot be written now learns them from a later run."""
        for tool, (seconds, jobs) in self._seen.items():
            mean = seconds / jobs
            before = self._read(tool)
            known = mean if before is None else (1 - _WEIGHT) * before + _WEIGHT * mean
            with suppress(OSError):
                self._store.put_record("timings", tool, {"seconds": round(known, 3)})
        self._known.clear()

    def of(self, tool: str) -> float | None:
        """Return the mean seconds of a job of ``tool``, or None if no run on this store has timed one."""
        if tool not in self._known:
            self._known[tool] = self._read(tool)
        return self._known[tool]

    def _read(self, tool: str) -> float | None:
        try:
            seconds = (self._store.record("timings", tool) or {}).get("seconds")
        except (OSError, ValueError):
            return None
        return float(seconds) if isinstance(seconds, (int, float)) and 0 <= seconds < 1e6 else None


class LearnedPrices:
    """What jobs of tools without a published price have cost on this store, for each engine by itself.

    A local engine charges amounts that are made up: nothing is learned from it, and it is told what BFL's jobs cost.
    The store is asked once for each price, until ``close``.
    """

    def __init__(self, store: Store, engine: str) -> None:
        self._store = store
        self._is_local = engine.startswith("local:")
        self._engine = "bfl" if self._is_local else engine
        self._seen: dict[str, list[float]] = {}
        self._known: dict[str, tuple[float, int]] = {}

    def price(self, call: Call) -> Price:
        """Return the published price of a call, or else the mean of what its tool has cost, or else an unknown one."""
        price = call.price
        if price.state != "unknown":
            return price
        row = _row_of(call)
        if row not in self._known:
            self._known[row] = self._read(row)
        credits, jobs = self._known[row]
        return replace(price, first=round(credits / jobs, 4), per="image", jobs=jobs) if jobs else price

    def estimate(self, call: Call) -> float | None:
        """Return the credits that a call is expected to cost, or None where nothing is known."""
        published = call.estimate()
        return self.price(call).estimate(0) if published is None else published

    def add(self, call: Call, cost: float | None) -> None:
        """Note what a job has cost, if its tool has no published price."""
        if cost is not None and not self._is_local and call.price.state == "unknown":
            sums = self._seen.setdefault(_row_of(call), [0.0, 0.0])
            sums[0] += cost
            sums[1] += 1

    def close(self) -> None:
        """Write what was learned; a store that cannot be written now learns it another time."""
        for row, (credits, jobs) in self._seen.items():
            before = self._read(row)
            known = {"credits": round(before[0] + credits, 4), "jobs": int(before[1] + jobs)}
            with suppress(OSError):
                self._store.put_record("prices", row, {**self._records(row), self._engine: known})
        self._known.clear()

    def _read(self, row: str) -> tuple[float, int]:
        """Return credits and jobs."""
        found = self._records(row).get(self._engine)
        try:
            credits, jobs = float(found["credits"]), int(found["jobs"])  # type: ignore[index] # damaged: a TypeError
        except (TypeError, KeyError, ValueError, OverflowError):
            return 0.0, 0
        return (credits, jobs) if 0 <= credits < 1e9 and jobs > 0 else (0.0, 0)

    def _records(self, row: str) -> dict[str, Any]:
        try:
            return self._store.record("prices", row) or {}
        except (OSError, ValueError):
            return {}


def _row_of(call: Call) -> str:
    return "-".join(filter(None, (call.tool.name, call.price.label)))


def spent_before(store: Store, recipe: str) -> dict[str, float]:
    """Return the credits that runs of the recipe with this digest have spent, or had reserved, and were stopped.

    They are forgotten when a run over all items ends by itself. What an earlier version has written is under an empty
    id: it noted the sum alone.

    Raises:
        OSError: the store cannot be read.
    """
    try:
        record = store.record("budgets", recipe) or {}
        runs = {str(run): float(credits) for run, credits in (record.get("runs") or {}).items()}
        rest = float(record.get("spent", 0.0)) + float(record.get("held", 0.0)) - sum(runs.values())
    except (ValueError, TypeError, AttributeError):  # damaged
        return {}
    return runs | ({"": rest} if rest > 1e-6 else {})
