"""Budgets for a day or a month: what a store's runs and programs may spend together, whichever machine they are on.

What was charged is in the pages of charges and in the journal. A run that works has a record besides,
``reserves/<run>.json``, with what its jobs in flight may cost and what it has spent. It is written before those of the
others are read: of two runs that reserve the last credits at one moment, at least one sees the other. When a run has
ended or was killed, its record does not count any more, and what it has paid for is in pages and journal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any, Literal
from zoneinfo import ZoneInfo

from flux_tasks.store.account.spending import NOT_NOTED, spent_in
from flux_tasks.store.charges import Charge, ChargePages, day_of, uncounted
from flux_tasks.store.owner import has_ended, this_process
from flux_tasks.store.records import Store
from flux_tasks.store.threads import each

__all__ = ["SET_AGAIN", "Limit", "PeriodBudget", "read_limits", "write_limits"]

KIND = "reserves"
_OLD = 6 * 3600.0  # seconds without a change, by both clocks, after which a run of another machine counts as ended
_BUCKET = 900.0  # seconds whose charges a record adds up
_TIME_ZONE = "UTC"

SET_AGAIN = "set it again with flux-pipelines store budget"
"""What to do where the record of a store's limits is damaged."""


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that may be spent in a period.

    Attributes:
        credits: the cap.
        period: a calendar day or month.
        recipe: the name of the recipe whose runs share it; empty for all that uses the store.
        timezone: where the period begins, such as ``Europe/Berlin``.
    """

    credits: float
    period: Literal["day", "month"]
    recipe: str = ""
    timezone: str = _TIME_ZONE

    @property
    def title(self) -> str:
        """What messages call it."""
        return f"the budget of {self.recipe or 'the store'} of {self.credits:g} credits a {self.period}"

    @property
    def _zone(self) -> tzinfo:
        return UTC if self.timezone == _TIME_ZONE else ZoneInfo(self.timezone)

    def begin(self, now: float) -> float:
        """Return when the period of ``now`` began, in seconds since 1970."""
        day = datetime.fromtimestamp(now, self._zone).replace(hour=0, minute=0, second=0, microsecond=0)
        return (day.replace(day=1) if self.period == "month" else day).timestamp()

    def end(self, now: float) -> datetime:
        """Return when the next period begins."""
        begun = datetime.fromtimestamp(self.begin(now), self._zone)
        later = begun + timedelta(days=32 if self.period == "month" else 1)
        return later.replace(day=1) if self.period == "month" else later

    def counts(self, recipe: str, at: float, now: float) -> bool:
        """Check whether something that ``recipe`` has spent counts against it."""
        return (recipe == NOT_NOTED or self.recipe in ("", recipe)) and at >= self.begin(now)


def read_limits(store: Store) -> list[Limit]:
    """Return the limits of a store, which hold for all of its runs.

    Raises:
        OSError: the store cannot be read.
        ValueError: their record is damaged.
    """
    record = store.record("budgets", "store") or {}
    zone = str(record.get("timezone") or _TIME_ZONE)
    named = {name: record.get(name) for name in ("day", "month")}
    return [Limit(float(credits), name, "", zone) for name, credits in named.items() if credits is not None]  # type: ignore[arg-type]


def write_limits(store: Store, day: float | None, month: float | None, timezone: str) -> None:
    """Write the limits of a store; None is no limit.

    Raises:
        OSError: the store cannot be written.
    """
    store.put_record("budgets", "store", {"day": day, "month": month, "timezone": timezone})


@dataclass
class PeriodBudget:
    """What one run knows of the budgets for days and months that hold for it.

    Attributes:
        part: the id of the run, or of the shard.
        recipe: the recipe's name.
        engine: what answers; the credits of each engine are counted apart.
    """

    store: Store
    limits: list[Limit]
    part: str
    recipe: str
    engine: str = ""
    others_reserve: bool = False
    """Whether other runs have reserved credits that they may give back."""
    _own: dict[float, float] = field(default_factory=dict)
    _live: dict[str, dict[str, Any]] = field(default_factory=dict)
    _charges: list[Charge] = field(default_factory=list)
    _of_damaged: list[Charge] = field(default_factory=list)
    _is_written: bool = False

    def __post_init__(self) -> None:
        self._pages = ChargePages(self.store)

    def add(self, credits: float) -> None:
        """Count what a job of this run has cost."""
        at = time.time() // _BUCKET * _BUCKET
        self._own[at] = self._own.get(at, 0.0) + credits

    def spent(self, limit: Limit) -> float:
        """Return the credits of the period that are spent, or that other runs have reserved."""
        now = time.time()
        begin = limit.begin(now)
        spent = sum(credits for at, credits in self._own.items() if at + _BUCKET > begin)
        for record in self._live.values():
            if limit.recipe in ("", record["recipe"]):
                spent += record["reserved"] + sum(c for at, c in record["spent"] if at + _BUCKET > begin)
        counted = (charge for charge in self._charges if limit.counts(charge.recipe, charge.at, now))
        return spent + sum(charge.credits for charge in counted)

    def exchange(self, reserved: float) -> None:
        """Write what this run has spent and reserved, then read what the others have. Call it on a thread.

        Raises:
            OSError: the store cannot be read or written.
        """
        now = {"owner": this_process(), "at": time.time()}
        what = {"recipe": self.recipe, "engine": self.engine, "reserved": reserved, "spent": [*self._own.items()]}
        self.store.put_record(KIND, self.part, {**now, **what})
        self._is_written = True
        for name in self.read():
            self.store.remove_record(KIND, name)

    def read(self) -> list[str]:
        """Read what is spent and reserved; returns the names of records whose runs have ended. Nothing is written.

        Raises:
            OSError: the store cannot be read.
        """
        if not self.limits:
            return []
        names = [name for name in self.store.records(KIND) if name != self.part]
        records = zip(names, each(lambda name: self.store.record_or_empty(KIND, name), names), strict=True)
        live = {name: found for name, record in records if (found := _counted(record)) is not None}
        begin = min(limit.begin(time.time()) for limit in self.limits)
        charges = spent_in(self._pages, self.store, lambda day: day >= day_of(begin))
        if self._pages.damaged and not self._of_damaged:  # the jobs of a damaged page have results
            self._of_damaged = [replace(charge, recipe=NOT_NOTED) for charge in uncounted(self.store, charges)]
        charges |= {charge.id: charge for charge in self._of_damaged if charge.id not in charges}
        self._charges = [c for c in charges.values() if c.part not in live and c.part != self.part and self._is_ours(c)]
        self._live = {name: record for name, record in live.items() if record["engine"] == self.engine}
        self.others_reserve = any(record["reserved"] for record in self._live.values())
        return [name for name in names if name not in live]

    def _is_ours(self, charge: Charge) -> bool:
        return (charge.engine or "bfl") == self.engine

    def remove(self) -> None:
        """Remove the record of this run, which has ended: what it has spent is in pages and journal.

        Raises:
            OSError: the store cannot be written.
        """
        if self._is_written:
            self.store.remove_record(KIND, self.part)


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else 0.0


def _counted(record: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the record of a run that works; None for one that has ended."""
    age = time.time() - _number(record.get("at"))
    if has_ended(str(record.get("owner", ""))) or not abs(age) < _OLD:
        return None
    spent = record.get("spent")
    pairs = [pair for pair in spent if isinstance(pair, list) and len(pair) == 2] if isinstance(spent, list) else []
    return {
        "recipe": str(record.get("recipe")),
        "engine": str(record.get("engine")),
        "reserved": _number(record.get("reserved")),
        "spent": [(_number(at), _number(credits)) for at, credits in pairs],
    }
