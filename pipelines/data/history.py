"""What earlier runs have left in the store: their recipes and manifests, what jobs cost, what was spent."""

from __future__ import annotations

import math
import time
import uuid
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flux_tasks import files
from flux_tasks.catalog.rules import Price
from flux_tasks.errors import Problem, RecipeError, StoreUnavailable, nearest, quote
from flux_tasks.files.search.trees import tree
from flux_tasks.images.reference import makes_previews
from flux_tasks.jobs.call import Call
from flux_tasks.settings import ENDPOINTS, Settings
from flux_tasks.store.owner import has_ended, is_of_this_machine, readable, this_process
from flux_tasks.store.records import Store
from pipelines.data.manifest import ManifestRow, ShardRows, read_manifest
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.recipe import Source
from pipelines.language.reading import loader, yaml
from pipelines.language.reading.problems import ProblemCollector, read_part

__all__ = [
    "BegunRun",
    "LearnedPrices",
    "PastRun",
    "budget_records",
    "find_run",
    "new_run_id",
    "read_rows",
    "run_ids",
    "run_record",
    "spent_before",
    "spent_by",
    "unended_runs",
]


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
    def find(cls, name: str, store: str, *, no_code: str = "") -> PastRun:
        """Find the run called ``name``: its id, the path of its manifest in the store, or ``last``.

        Its recipe calls no function of Python unless the file that it was read from has the same text here.

        Args:
            no_code: why it may call none in any case, and what to do instead.

        Raises:
            RecipeError: there is none, its record is damaged, its paths are relative to another folder, or its recipe
                is no longer valid.
            StoreUnavailable: the store cannot be read.
        """
        place = Store(store)
        run_id = find_run(place, name)
        record = run_record(place, run_id)
        if record is None:
            what = f"{place.location('runs', run_id, 'run.json')} is missing or damaged: run the recipe itself again"
            raise RecipeError([Problem("run", what)])
        if record["folder"] != str(Path.cwd()) and _is_relative(record):
            what = f"{run_id} was made in {record['folder']}, and its paths are relative: run this there"
            raise RecipeError([Problem("run", what)])
        file, variables = record.get("file") or "", record.get("variables") or {}
        if not _is_text_of(record["recipe"], file, place):
            remedy = f"{files.quoted(file)} has another text here" if file else "no file here has its text"
            no_code = no_code or f"the recipe was read from the store, and {remedy}: run the recipe itself again"
            file = f"{run_id}/run.json"
        recipe = loader.parse(record["recipe"], file=file, variables=variables, no_code=no_code)
        return cls(run_id, recipe, record["endpoint"], record["manifest"])

    def endpoint_for(self, settings: Settings) -> str:
        """Return its endpoint, if that is a named one: whoever may write to a store does not choose who gets the key.

        Raises:
            RecipeError: it is an address, and not that of ``settings``.
        """
        if self.endpoint not in (*ENDPOINTS, "local", settings.endpoint):
            address = files.quoted(self.endpoint)
            what = f"the store says that {self.run_id} was made at {address}, and an address is not taken from a store"
            raise RecipeError([Problem("endpoint", f"{what}: give it again with --endpoint")])
        return self.endpoint

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

    def _rows(self) -> Iterator[ManifestRow]:
        try:
            yield from read_rows(self.manifest)
        except OSError as error:
            raise RecipeError([Problem("run", f"the manifest of {self.run_id} cannot be read: {error}")]) from None


def run_ids(store: Store) -> list[str]:
    """Return the ids of all runs, the oldest first.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    try:
        return files.folders(store.location("runs"))
    except OSError as error:
        raise StoreUnavailable.of("read", error) from error


def find_run(store: Store, name: str) -> str:
    """Return the id of the run called ``name``: its id, a path with it, such as that of its manifest, or ``last``.

    Raises:
        RecipeError: there is none.
        StoreUnavailable: the store cannot be read.
    """
    known = run_ids(store)
    if name == "last" and known:
        return known[-1]
    parts = name.rstrip("/").split("/")
    if found := next((part for part in reversed(parts) if part in known), ""):
        return found
    raise _no_run(store, name, known)


def _no_run(store: Store, name: str, known: list[str]) -> RecipeError:
    none = "; it has no run yet"
    if not known and store.is_new():
        none = "; there is no store there yet: --store or FLUX_STORE names another one"
    hint = nearest(name, known) or (f"; the last one is {known[-1]}" if known else none)
    return RecipeError([Problem("run", f"{store.url} has no run {quote(name)}{hint}")])


_OF_RUN = ("recipe", "folder", "endpoint", "manifest")


def run_record(store: Store, run_id: str) -> dict[str, Any] | None:
    """Return what a run has written at its beginning: recipe, variables, folder, endpoint; None if there is nothing.

    Raises:
        RecipeError: it is damaged.
    """
    try:
        record = store.record(files.join("runs", run_id), "run")
    except (OSError, ValueError):
        return None
    if record is not None and not all(isinstance(record.get(name), str) for name in _OF_RUN):
        what = f"{store.location('runs', run_id, 'run.json')} is damaged: run the recipe itself again"
        raise RecipeError([Problem("run", what)])
    return record


def _is_text_of(recipe: str, file: str, store: Store) -> bool:
    """Check whether ``recipe`` is the text of a file on this machine that does not lie in the store itself."""
    if not file or not files.is_local(file):
        return False
    path = files.local_path(file).resolve()
    if files.is_local(store.url) and path.is_relative_to(store.url):
        return False
    try:
        return files.read(str(path), limit=10_000_000).decode() == recipe
    except (OSError, ValueError):
        return False


def read_rows(manifest: str) -> Iterator[ManifestRow]:
    """Yield the rows of a manifest that say what became of which item; a damaged one does not.

    Raises:
        OSError: it cannot be read; on an object store, a manifest is written when its run ends.
    """
    for row in read_manifest(manifest):
        if isinstance(row, dict) and all(isinstance(row.get(name), str) for name in ("source", "outcome")):
            yield row


def _is_relative(record: dict[str, Any]) -> bool:
    document = yaml.load(record["recipe"])
    written = document.data.get("source") if isinstance(document.data, dict) else None
    source = read_part(Source, written, (), ProblemCollector(document))
    places = [*source.images, *source.dataset, source.table, source.image] if source else []
    return any(place and files.is_local(place) and not files.local_path(place).is_absolute() for place in places)


def new_run_id() -> str:
    """Return an id; ids sort by time, to the millisecond."""
    now = time.time()
    return f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime(now))}-{int(now % 1 * 1000):03d}{uuid.uuid4().hex[:4]}"


class BegunRun:
    """The record of a run that has not ended: it goes with the run, and stays if the process is killed.

    Args:
        recipe: the recipe's digest.
    """

    def __init__(self, store: Store, recipe: str, run_id: str) -> None:
        self._store, self._run_id = store, run_id
        self._kind = files.join("begun", recipe)

    def put_record(self, recipe: CompiledRecipe, **facts: str) -> None:
        """Write the record by which the run is found again.

        Args:
            facts: ``endpoint``, ``manifest`` and ``started``.

        Raises:
            OSError: the store cannot be written.
        """
        file = recipe.file
        own = {
            "recipe": recipe.text,
            "file": str(files.local_path(file).absolute()) if file and files.is_local(file) else file,
            "variables": recipe.variables,
            "folder": str(Path.cwd()),
        }
        self._store.put_record(files.join("runs", self._run_id), "run", {**own, **facts})

    def begin(self, **facts: Any) -> list[str]:
        """Write the record; return a line on each earlier run that was killed, and forget it.

        Args:
            facts: ``started``, ``manifest`` and ``total``, for a later run.

        Raises:
            OSError: the store cannot be read or written.
        """
        found = {name: self._store.record_or_empty(self._kind, name) for name in self._store.records(self._kind)}
        self._store.put_record(self._kind, self._run_id, {**facts, "owner": this_process()})
        told = []
        for run_id, record in found.items():
            owner = str(record.get("owner", ""))
            if is_of_this_machine(owner) and not has_ended(owner):
                continue  # it runs at this moment
            self._store.remove_record(self._kind, run_id)
            told.append(_obituary(run_id, record, parts := ShardRows(self._store, run_id)))
            if has_ended(owner):
                parts.remove()
        return told

    def end(self) -> None:
        """Remove the record: the run has ended, and has said how."""
        with suppress(OSError):
            self._store.remove_record(self._kind, self._run_id)


def unended_runs(store: Store) -> set[str]:
    """Return the ids of the runs that have not come to their end, be they at work or killed.

    Raises:
        StoreUnavailable: the store cannot be read.
    """
    try:
        return {files.stem(found.name) for found in tree(store.location("begun"))}
    except OSError as error:
        raise StoreUnavailable.of("read", error) from error


def _obituary(run_id: str, record: Mapping[str, Any], parts: ShardRows) -> str:
    owner = str(record.get("owner", ""))
    what = "did not come to its end" if has_ended(owner) else "has not come to its end, or still runs there"
    counts = parts.counts(str(record.get("manifest")))
    ended = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts.items())) or "none that is known"
    return (
        f"the run {run_id} of this recipe, begun {record.get('started')} on {readable(owner)}, {what}. "
        f"Of its {record.get('total')} items had ended: {ended}. What it paid for is in the store or is collected now"
    )


class LearnedPrices:
    """What jobs of tools without a published price have cost on this store, for each engine by itself.

    A local engine charges amounts that are made up: nothing is learned from it, and it is told what BFL's jobs cost.
    The store is asked once for each price, until ``close``.
    """

    def __init__(self, store: Store, engine: str) -> None:
        self._store = store
        self._is_local = makes_previews(engine)
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


def budget_records(store: Store, recipe: str) -> dict[str, dict[str, Any]]:
    """Return what runs of the recipe with this digest have spent, by the names of their records.

    A damaged record is empty. The one named after the recipe is of an earlier version, which had one for all runs.

    Raises:
        OSError: the store cannot be read.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in (recipe, *(files.join(recipe, run) for run in store.records(files.join("budgets", recipe)))):
        try:
            record = store.record("budgets", name)
        except ValueError:
            record = {}
        if record is not None:
            found[name] = record
    return found


def spent_by(record: Mapping[str, Any]) -> float:
    """Return the credits that a run has spent, or had reserved; infinite where its record is damaged."""
    try:
        spent = float(record["spent"]) + float(record["held"])
    except (KeyError, TypeError, ValueError):
        return math.inf
    return spent if spent >= 0 else math.inf


def spent_before(store: Store, recipe: str) -> dict[str, float]:
    """Return the credits that runs of the recipe with this digest have spent, or had reserved, and were stopped.

    They are forgotten when a run over all items ends by itself. What an earlier version has written is under an empty
    id: it noted the sum alone. Infinite where a record is damaged.

    Raises:
        OSError: the store cannot be read.
    """
    records = budget_records(store, recipe)
    return {name.removeprefix(recipe).lstrip("/"): credits for name in records if (credits := spent_by(records[name]))}
