"""Budgets for a day or a month: what a store's runs and programs may spend together, whichever machine they are on.

What was charged is in the pages of charges and in the journal. A run that works has a record besides,
``reserves/<run>.json``, with what its jobs in flight may cost and what it has spent. It is written before those of the
others are read: of two runs that reserve the last credits at one moment, at least one sees the other. When a run has
ended or was killed, its record does not count any more, and what it has paid for is in pages and journal.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from datetime import time as clock_time
from typing import Any, Literal, NamedTuple
from zoneinfo import ZoneInfo

from flux_tasks.images.reference import makes_previews
from flux_tasks.store.account.spending import NOT_NOTED, unsettled
from flux_tasks.store.charges import Charge, ChargePages, day_of, uncounted
from flux_tasks.store.owner import has_ended, this_process
from flux_tasks.store.records import Store
from flux_tasks.store.threads import each

__all__ = [
    "SET_AGAIN",
    "Limit",
    "PeriodBudget",
    "Reserved",
    "needed",
    "read_limits",
    "release",
    "reserved",
    "write_limits",
]

KIND = "reserves"
_OLD = 6 * 3600.0  # seconds without a change, by both clocks, after which a run of another machine counts as ended
_BUCKET = 900.0  # seconds whose charges a record adds up
_LATE = 2 * 86_400.0  # seconds before a period that are looked at, too: a result may be written long after its job
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
        return self._midnight(self._first_day(datetime.fromtimestamp(now, self._zone).date()))

    def end(self, now: float) -> datetime:
        """Return when the next period begins."""
        begun = self._first_day(datetime.fromtimestamp(now, self._zone).date())
        later = begun + timedelta(days=32 if self.period == "month" else 1)
        return datetime.fromtimestamp(self._midnight(self._first_day(later)), self._zone)

    def _first_day(self, day: date) -> date:
        return day.replace(day=1) if self.period == "month" else day

    def _midnight(self, day: date) -> float:
        """Return when a day begins: where clocks are set back over midnight, the first time; forward, right then."""
        return datetime.combine(day, clock_time(), self._zone).timestamp()

    def is_of(self, recipe: str) -> bool:
        """Check whether what a recipe has spent counts against it; it does where nobody knows which recipe it was."""
        return self.recipe in ("", recipe) or recipe == NOT_NOTED


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


class Reserved(NamedTuple):
    """What the jobs in flight of a run may cost, which counts as spent meanwhile.

    Attributes:
        run: its id, or that of the shard.
        owner: the process that has reserved it.
        since, until: when it was written, and until when it counts if nothing more is heard; seconds since 1970.
    """

    run: str
    recipe: str
    engine: str
    owner: str
    credits: float
    since: float
    until: float


def reserved(store: Store) -> list[Reserved]:
    """Return what runs have reserved that are not known to have ended.

    Raises:
        OSError: the store cannot be read.
    """
    names = store.records(KIND)
    found = []
    for name, record in zip(names, each(lambda name: store.record_or_empty(KIND, name), names), strict=True):
        counted, since = _counted(record), _number(record.get("at"))
        if counted is not None and counted["reserved"]:
            about = counted["recipe"], counted["engine"], str(record.get("owner", ""))
            found.append(Reserved(name, *about, counted["reserved"], since, since + _OLD))
    return found


def release(store: Store, run: str) -> None:
    """Let what a run has reserved count no more. One that goes on after all reserves it again with its next job.

    Raises:
        OSError: the store cannot be written.
    """
    store.remove_record(KIND, run)


class _Sum(NamedTuple):
    """What the jobs of one part of a run have cost at some time."""

    part: str
    engine: str
    recipe: str
    at: float
    credits: float = 0.0

    @classmethod
    def of(cls, charge: Charge, at: float, credits: float = 0.0) -> _Sum:
        """Return the sum that ``charge`` belongs to."""
        return cls(charge.part, charge.engine or "bfl", charge.recipe, at, credits)


@dataclass
class PeriodBudget:
    """What one run knows of the budgets for days and months that hold for it.

    Attributes:
        part: the id of the run, or of the shard; empty for somebody who only looks.
        recipe: the recipe's name.
        engine: what answers; the credits of each engine are counted apart. Empty for all but local ones.
    """

    store: Store
    limits: list[Limit]
    part: str
    recipe: str
    engine: str = ""
    others_reserve: bool = False
    """Whether other runs have reserved credits that they may give back."""
    _own: dict[float, float] = field(default_factory=dict)
    _elsewhere: dict[Limit, tuple[float, float]] = field(default_factory=dict)
    """By limit: the period that was read, by its begin, and what others have spent or reserved in it."""
    _ids: set[str] = field(default_factory=set)
    _sums: dict[_Sum, float] = field(default_factory=dict)
    """What full pages have, by quarters of an hour; ``_ids`` are their jobs."""
    _of_results: list[Charge] = field(default_factory=list)
    """What no page has: it is damaged or gone, or an earlier version had none."""
    _damaged: list[str] | None = None
    """The damaged pages when the results were looked at."""
    _is_written: bool = False

    def __post_init__(self) -> None:
        self._pages = ChargePages(self.store)

    def add(self, credits: float) -> None:
        """Count what a job of this run has cost."""
        at = time.time() // _BUCKET * _BUCKET
        self._own[at] = self._own.get(at, 0.0) + credits

    def spent(self, limit: Limit) -> float:
        """Return the credits of the period that are spent, or that other runs have reserved."""
        begin = limit.begin(time.time())
        read, elsewhere = self._elsewhere.get(limit, (begin, 0.0))
        own = sum(credits for at, credits in self._own.items() if at + _BUCKET > begin)
        return own + (elsewhere if read == begin else 0.0)  # a new period has begun since

    def reached(self, limit: Limit, spent: float, tool: str, price: float | None) -> str:
        """Return what to say where a job of ``tool`` does not fit into a limit, of which so much is spent."""
        of_whom = " by previews, which are counted apart" if makes_previews(self.engine) else ""
        opens = f"it opens again at {limit.end(time.time()):%Y-%m-%d %H:%M} {limit.timezone}"
        return f"{limit.title} is reached: {spent:.2f} are spent{of_whom}, and {needed(tool, price)}; {opens}"

    def exchange(self, reserved: Callable[[], float]) -> None:
        """Write what this run has spent and reserved, then read what the others have. Call it on a thread.

        Args:
            reserved: asked for the credits right before they are written, and before what is spent is looked at.

        Raises:
            OSError: the store cannot be read or written.
        """

        def record() -> dict[str, Any]:
            now = {"owner": this_process(), "at": time.time()}
            what = {"recipe": self.recipe, "engine": self.engine, "reserved": reserved(), "spent": [*self._own.items()]}
            return {**now, **what}

        self.store.put_record(KIND, self.part, record)
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
        read = zip(names, each(lambda name: self.store.record_or_empty(KIND, name), names), strict=True)
        live = {name: found for name, record in read if (found := _counted(record)) is not None}
        now = time.time()
        known = {*live, self.part} - {""}  # what these have spent is in their records
        spent = [row for row in self._charged(now) if row.part not in known and self._is_ours(row.engine)]
        ours = [record for record in live.values() if self._is_ours(record["engine"])]
        elsewhere = {}
        for limit in self.limits:
            begin = limit.begin(now)
            total = sum(row.credits for row in spent if row.at >= begin and limit.is_of(row.recipe))
            for record in ours:
                if limit.is_of(record["recipe"]):
                    paid = sum(credits for at, credits in record["spent"] if at + _BUCKET > begin)
                    total += record["reserved"] + paid
            elsewhere[limit] = begin, total
        self._elsewhere = elsewhere
        self.others_reserve = any(record["reserved"] for record in ours)
        return [name for name in names if name not in live]

    def _charged(self, now: float) -> list[_Sum]:
        """Return what was charged in the longest period, by whatever run or program, and what is in flight."""
        first = min(limit.begin(now) for limit in self.limits) - _LATE
        others = unsettled(self.store)
        full, rest = self._pages.read(lambda day: day >= day_of(first))
        for charge in full:
            if charge.id not in self._ids:
                self._ids.add(charge.id)
                place = _Sum.of(charge, charge.at // _BUCKET * _BUCKET)
                self._sums[place] = self._sums.get(place, 0.0) + charge.credits
        others |= {charge.id: charge for charge in rest}
        if self._pages.damaged != self._damaged:  # at first, and when a page is damaged: its jobs have results
            self._damaged = self._pages.damaged
            known = others | {charge.id: charge for charge in full}
            self._of_results = [replace(one, recipe=NOT_NOTED) for one in uncounted(self.store, known, first)]
        others |= {charge.id: charge for charge in self._of_results if charge.id not in others}
        single = [_Sum.of(one, one.at, one.credits) for one in others.values() if one.id not in self._ids]
        return [place._replace(credits=credits) for place, credits in self._sums.items()] + single

    def _is_ours(self, engine: str) -> bool:
        return engine == self.engine if self.engine else not makes_previews(engine)

    def remove(self) -> None:
        """Remove the record of this run, which has ended: what it has spent is in pages and journal.

        Raises:
            OSError: the store cannot be written.
        """
        if self._is_written:
            self.store.remove_record(KIND, self.part)


def needed(tool: str, price: float | None) -> str:
    """Return what a job of ``tool`` needs of a budget, for a message."""
    return f"a job of {tool} costs {price:.2f}" if price is not None else f"{tool} has no known price"


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
