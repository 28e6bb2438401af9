"""The state of each run, as one small record in the store: how far it is while it goes on, and how it ended.

Any process or machine that reaches the store can read it. It is written when the run begins, again every few seconds if
something has changed, and for good when the run ends. A run that is killed leaves its last one, with its owner.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from flux_tasks import files
from flux_tasks.errors import FluxError, reason_of
from flux_tasks.images.reference import LOCAL_ENGINE, makes_previews
from flux_tasks.store.owner import has_ended, is_of_this_machine, this_process
from flux_tasks.store.records import Store
from flux_tasks.store.threads import each
from pipelines.data.history import read_rows, run_record
from pipelines.data.manifest import FINE, ItemOutcome, StepOutcome
from pipelines.language.reading import yaml
from pipelines.run.context import Event, EventKind, RunContext
from pipelines.run.summary import Summary

__all__ = ["RunState", "StateRecord", "read_states", "state_of"]

INTERVAL = 3.0
"""Seconds between two looks whether the record has to be written again."""

_HEARTBEAT = 60.0  # seconds after which it is written though nothing has changed
_SILENT = 300.0  # seconds without a change after which a run of another machine has probably ended
_WINDOW = 60.0  # seconds that the rate is measured over
_NAME = "state"

Standing: TypeAlias = Literal["running", "silent", "killed", "fine", "failed", "stopped"]
"""``running``; not at its end, and ``silent`` for minutes (on another machine) or ``killed``; at its end: ``fine``,
``failed`` (items did not end well), ``stopped``."""


class RunState(BaseModel):
    """How far a run is, or how it ended. Version 1 of the document; later versions may have more fields.

    Attributes:
        version: of this document.
        run_id: its id; empty for a run that failed before it began.
        recipe: the recipe's name.
        digest: the recipe's digest.
        endpoint: who makes the jobs: ``bfl``, ``eu``, ``us``, ``local`` or an address.
        engine: what answers; ``local:…`` makes previews, which cost nothing.
        state: see ``Standing``; while it goes on ``running``.
        started, updated: when it began, and when this was written (ISO 8601, UTC).
        seconds: from its beginning until then.
        owner: its process: ``<host>:<process id> …``.
        total: items of the source.
        items: items that have ended.
        counts: the same by outcome: done, cached, skipped, moderated, invalid, failed, held.
        in_flight: jobs that have a slot: they are submitted, or about to be, and have not ended.
        rate: items a second over the last minute; None at the end, and where it is not known.
        jobs, collected, cached: paid calls of this run, jobs of earlier runs that it collected, results from the store.
        credits: what its jobs cost, as far as the service says; of previews, what they would be worth.
        budget: the most that it may spend, in credits, or None.
        problem: why it did not end well, in one sentence; empty if it did.
        manifest: where it is.
        report: where it is, once it is written.
        shards: how many parts its items are worked on in, each by a process of its own; 0 for a run without.
        shards_on: what these run on, as ``--on`` names it.
        shard: the part that it works on, such as ``2/8``, where somebody has divided the items by hand.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: int = 1
    run_id: str = ""
    recipe: str = ""
    digest: str = ""
    endpoint: str = ""
    engine: str = ""
    state: Standing = "running"
    started: AwareDatetime
    updated: AwareDatetime
    seconds: float = 0.0
    owner: str = ""
    total: int = 0
    items: int = 0
    counts: dict[str, int] = Field(default_factory=dict)
    in_flight: int = 0
    rate: float | None = None
    jobs: int = 0
    collected: int = 0
    cached: int = 0
    credits: float = 0.0
    budget: float | None = None
    problem: str = ""
    manifest: str = ""
    report: str = ""
    shards: int = 0
    shards_on: str = ""
    shard: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return self.model_dump(mode="json")

    @property
    def standing(self) -> Standing:
        """How it stands now: as ``state``, but for a run that was killed or gives no sign of life."""
        if self.state != "running":
            return self.state
        if has_ended(self.owner):
            return "killed"
        is_old = (datetime.now(UTC) - self.updated).total_seconds() > _SILENT
        return "silent" if is_old and not is_of_this_machine(self.owner) else "running"

    @property
    def held(self) -> int:
        """Items that are held."""
        return self.counts.get(ItemOutcome.HELD, 0)

    @property
    def bad(self) -> int:
        """Items that did not end well, without the held ones."""
        return sum(n for outcome, n in self.counts.items() if outcome not in FINE) - self.held

    @property
    def is_preview(self) -> bool:
        """Whether its jobs cost nothing."""
        return makes_previews(self.engine)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until its last item, at the rate of the last minute; None where that is not known."""
        left = max(0, self.total - self.items)
        return left / self.rate if self.rate and self.standing == "running" else None


def state_of(
    context: RunContext, summary: Summary, *, state: Standing | None = None, problem: str = "", **known: Any
) -> RunState:
    """Return the state of a run by its sums.

    Args:
        state: ``running``; by default as the run ended.
        problem: why it did not end well, where its sums do not know.
        known: further fields of ``RunState``.
    """
    problem = "" if state else summary.problem or problem or summary.unreported
    ended: Standing = "stopped" if summary.stopped or (problem and not summary.problem) else "failed"
    counts = dict(summary.counts)
    facts = {
        "run_id": summary.run_id,
        "recipe": summary.name,
        "digest": context.recipe.digest,
        "endpoint": summary.endpoint,
        "engine": summary.engine,
        "state": state or (ended if problem else "fine"),
        "updated": datetime.now(UTC),
        "owner": this_process(),
        "total": summary.total,
        "items": sum(counts.values()),
        "counts": counts,
        "jobs": summary.jobs,
        "collected": summary.collected,
        "cached": summary.cached,
        "credits": round(summary.cost, 6),
        "budget": context.cap,
        "problem": problem,
        "manifest": summary.manifest,
        "report": summary.report,
        "shards": summary.shards,
        "shards_on": summary.shards_on,
        "shard": summary.shard,
    }
    started = datetime.strptime(summary.started, "%Y-%m-%d %H:%M:%S %Z").replace(tzinfo=UTC)
    return RunState.model_validate({"started": started, "seconds": round(summary.seconds, 3), **facts, **known})


class StateRecord:
    """Keeps the record of one run up to date."""

    def __init__(self, context: RunContext, summary: Summary) -> None:
        self._context, self._summary = context, summary
        self._kind = files.join("runs", summary.run_id)
        self._begun = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="run-state", daemon=True)
        self._in_flight = 0
        self._counts: Counter[str] = Counter()
        """By outcome, as items end: in shards, the sums of the run are known at its end."""
        self._credits = 0.0
        self._ended: deque[tuple[float, int]] = deque()
        self._written: RunState | None = None

    def begin(self) -> None:
        """Write the record for the first time, and follow the run from now on."""
        emit = self._context.emit

        def note(event: Event) -> None:
            self._note(event)
            emit(event)

        self._context.emit = note
        with suppress(OSError):  # the run is told if the store cannot be written, by what it writes besides
            self._write(self._now())
        self._thread.start()

    def _note(self, event: Event) -> None:
        if event.kind is EventKind.ITEM:
            self._counts[event.outcome] += 1
        elif event.kind is EventKind.STEP:
            self._credits += event.cost if event.outcome == StepOutcome.DONE else 0.0
        else:
            self._in_flight += {EventKind.ACTIVE: 1, EventKind.END: -1}.get(event.kind, 0)

    def end(self, problem: str) -> RunState:
        """Write the record for the last time; a store that cannot be written now keeps the one before.

        Args:
            problem: what broke off the run, if it was broken off.
        """
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()
        state = state_of(self._context, self._summary, problem=problem, report="")
        with suppress(OSError):
            self._write(state)
        return state

    def note_report(self) -> None:
        """Write the record once more after ``end``, with the report that there is now, or why there is none."""
        with suppress(OSError):
            self._write(state_of(self._context, self._summary))

    def _follow(self) -> None:
        while not self._over.wait(INTERVAL):
            state = self._now()
            if self._is_news(state):
                with suppress(OSError):  # the next look is soon
                    self._write(state)

    def _now(self) -> RunState:
        now = time.monotonic()
        counts = dict(self._counts)
        self._ended.append((now, sum(counts.values())))
        while len(self._ended) > 1 and now - self._ended[1][0] >= _WINDOW:
            self._ended.popleft()
        (then, before), (_, ended) = self._ended[0], self._ended[-1]
        rate = round((ended - before) / (now - then), 4) if now > then else None
        live: dict[str, Any] = {"in_flight": self._in_flight, "credits": round(self._credits, 6), "rate": rate}
        live["report"] = ""
        live |= {"counts": counts, "items": sum(counts.values())}
        seconds = round(now - self._begun, 3)
        return state_of(self._context, self._summary, state="running", seconds=seconds, **live)

    def _is_news(self, state: RunState) -> bool:
        before = self._written
        if before is None or (state.updated - before.updated).total_seconds() >= _HEARTBEAT:
            return True
        of_time = {"updated": state.updated, "seconds": state.seconds, "rate": state.rate}
        return before.model_copy(update=of_time) != state

    def _write(self, state: RunState) -> None:
        self._context.store.put_record(self._kind, _NAME, state.to_dict())
        self._written = state


def read_states(store: Store, run_ids: Sequence[str]) -> tuple[list[RunState], list[str]]:
    """Return the states of runs, in the order of ``run_ids``, and a sentence on each record that says nothing.

    Of a run with such a record, there is what its other files tell, or nothing.

    Raises:
        OSError: the store cannot be read.
    """
    found = [*each(partial(_read, store), run_ids)]
    return [state for state, _ in found if state is not None], [flaw for _, flaw in found if flaw]


def _read(store: Store, run_id: str) -> tuple[RunState | None, str]:
    kind = files.join("runs", run_id)
    record, flaw = _record(store, kind, _NAME)
    if record is not None:
        try:
            return RunState.model_validate(record), ""
        except ValueError:
            flaw = _damaged(store, kind, _NAME)
    state = _of_earlier_version(store, run_id)
    if state is None and not flaw:
        record, flaw = _record(store, kind, "run")
        flaw = flaw or (_damaged(store, kind, "run") if record is not None else "")
    return state, flaw


def _record(store: Store, kind: str, name: str) -> tuple[dict[str, Any] | None, str]:
    """Return a record, and why there is none although something is in its place."""
    try:
        return store.record(kind, name), ""
    except ValueError:
        return None, _damaged(store, kind, name)
    except OSError as error:
        if files.may_pass(error):
            raise
        return None, f"{store.location(kind, f'{name}.json')} cannot be read ({reason_of(error)})"


def _damaged(store: Store, kind: str, name: str) -> str:
    return f"{store.location(kind, f'{name}.json')} is damaged"


def _of_earlier_version(store: Store, run_id: str) -> RunState | None:
    """Return what the recipe and the manifest of a run tell, which has left no state."""
    try:
        record = run_record(store, run_id)
        if record is None:
            return None
        started = datetime.strptime(record["started"], "%Y-%m-%d %H:%M:%S %Z").replace(tzinfo=UTC)
        document = yaml.load(record["recipe"]).data
    except (FluxError, KeyError, ValueError, TypeError):
        return None
    counts: dict[str, int] = {}
    cost = 0.0
    with suppress(OSError, KeyError, TypeError):
        for row in read_rows(record["manifest"]):
            counts[row["outcome"]] = counts.get(row["outcome"], 0) + 1
            cost += row["cost"]
    items = sum(counts.values())
    bad = {outcome for outcome in counts if outcome not in FINE}
    return RunState(
        run_id=run_id,
        recipe=str(document.get("name", "recipe")) if isinstance(document, dict) else "",
        endpoint=record["endpoint"],
        engine=LOCAL_ENGINE if record["endpoint"] == "local" else "",
        state="failed" if bad else "fine",
        started=started,
        updated=started,
        total=items,
        items=items,
        counts=counts,
        credits=cost,
        manifest=record["manifest"],
    )
