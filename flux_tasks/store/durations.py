"""How long jobs take: learned by engine, tool and size class, and shared by all who use a store.

A record is ``timings/<tool>.json``: by engine and size class, the last 128 durations with the time of each. Writers
read it and add what they have seen. What two write in one moment may be lost to one of them; it is written again with
the next. What is not of this form is passed over.
"""

import asyncio
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from flux_tasks.store.records import Store

_KIND = "timings"
_MOST = 128  # durations of one engine, tool and size class
_MOST_ROWS = 64  # engines and size classes of one tool
_LEAST, _LONGEST = 0.001, 86_400.0  # seconds; no job takes less, or a day
_TICK = 0.02  # seconds; what is dated later than now and that is from a clock that is ahead, and counts only then
_PAUSE = 5.0  # seconds between two writes of one record
_UNSURE = 0.25  # spread that one more, imagined duration has: few durations say little about theirs
_LEAST_SPREAD = 0.02
_EARLY = 4  # jobs in a row that had ended before their first poll, from which on the service counts as faster


class Row(NamedTuple):
    """What has durations of its own: an engine, and a size class of its jobs."""

    engine: str
    size_class: str


@dataclass(frozen=True, slots=True)
class Duration:
    """How long a job takes from the answer to its submission to its end.

    Attributes:
        seconds: that most jobs are around.
        spread: the standard deviation of the logarithm; 0.15 means that two of three jobs take within 15 % of that.
    """

    seconds: float
    spread: float

    def share_ended(self, seconds: float) -> float:
        """Return the share of jobs that have ended after ``seconds``."""
        if seconds <= 0:
            return 0.0
        deviations = (math.log(seconds) - math.log(self.seconds)) / self.spread
        return 0.5 + 0.5 * math.erf(deviations / math.sqrt(2))


def size_class(label: str, size: tuple[int, int] | None) -> str:
    """Return the size class of jobs whose results have ``size`` (width, height), or None where it is not known.

    Args:
        label: of the row of the price table: what costs another price may take another time.
    """
    if size is None:
        return f"{label} ?".strip()
    pixels = max(1, size[0] * size[1])
    return f"{label} {2.0 ** round(math.log2(pixels / 2**20)):g} MP".strip()  # to the nearest power of two


class Durations:
    """What is known of the jobs of one engine, in one store.

    ``load`` reads and ``save`` writes; everything else works on memory, on one event loop.
    """

    def __init__(self, store: Store, engine: str) -> None:
        self._store = store
        self._engine = engine
        self._known: dict[str, dict[Row, dict[float, float]]] = {}
        """By tool and row: seconds by the time at which they were seen."""
        self._fits: dict[tuple[str, str | None], Duration | None] = {}
        self._early: dict[tuple[str, str], int] = {}
        self._unsaved: set[str] = set()
        """Tools with new durations."""
        self._saved = -math.inf
        self._saving: set[asyncio.Task[None]] = set()

    def load(self, tool: str) -> None:
        """Read what the store knows of ``tool``, once; one that cannot be read, or a damaged record, knows nothing."""
        if tool not in self._known:
            self._known.setdefault(tool, self._read(tool))

    def of(self, tool: str, size_class: str | None = None) -> Duration | None:
        """Return how long jobs of ``tool`` take, or None if none was seen.

        Jobs of all sizes are asked where the size class is None, or has no job yet.
        """
        about = tool, size_class
        if about not in self._fits:
            rows = {row: seen for row, seen in self._known.get(tool, {}).items() if row.engine == self._engine}
            own = rows.get(Row(self._engine, size_class or ""))
            asked = [own] if own else rows.values()
            self._fits[about] = _fit([seconds for seen in asked for seconds in seen.values()])
        return self._fits[about]

    def add(self, tool: str, size_class: str, running: float, ended: float) -> None:
        """Add a job that was last seen running after so many seconds, 0 if never, and seen to have ended afterwards."""
        if not 0 <= running <= ended <= _LONGEST or not ended > 0:
            return
        early = self._early[tool, size_class] = 0 if running else self._early.get((tool, size_class), 0) + 1
        # Of a job that had ended before it was polled, only the longest time that it can have taken is known.
        seconds = (running + ended) / 2 if running else ended * (0.9 if early < _EARLY else 0.6)
        rows = self._known.setdefault(tool, {})
        row = rows.setdefault(Row(self._engine, size_class), {})
        at = time.time()
        while at in row:
            at = math.nextafter(at, math.inf)
        row[at] = max(seconds, _LEAST)
        rows[Row(self._engine, size_class)] = _newest(row)
        self._unsaved.add(tool)
        self._forget_fits(tool)

    def _forget_fits(self, tool: str) -> None:
        for about in [about for about in self._fits if about[0] == tool]:
            del self._fits[about]

    def save_soon(self) -> None:
        """Write what was added, without anybody waiting for it; every five seconds at most."""
        now = time.monotonic()
        if not self._saving and now >= self._saved + _PAUSE:
            self._saved = now
            saving = asyncio.get_running_loop().create_task(self._save())
            self._saving.add(saving)
            saving.add_done_callback(self._saving.discard)

    async def save(self) -> None:
        """Write what was added, now; a store that cannot be written learns it another time."""
        await asyncio.gather(*self._saving)
        await self._save()

    async def _save(self) -> None:
        for tool in list(self._unsaved):
            self._unsaved.discard(tool)
            mine = {row: dict(seen) for row, seen in self._known[tool].items()}
            try:
                merged = await asyncio.to_thread(self._write, tool, mine)
            except (OSError, RuntimeError):  # RuntimeError: the interpreter is ending and lends no more threads
                self._unsaved.add(tool)
            else:
                self._known[tool] = _merged(merged, self._known[tool])
                self._forget_fits(tool)

    def _write(self, tool: str, mine: dict[Row, dict[float, float]]) -> dict[Row, dict[float, float]]:
        """Add ``mine`` to the record; return what it then holds."""
        found = self._read(tool)
        for _ in range(3):
            merged = _merged(found, mine)
            if merged != found:
                self._store.put_record(_KIND, tool, _record(merged))
            found = self._read(tool)
            if all(seen.keys() <= found.get(row, {}).keys() for row, seen in merged.items()):
                break  # nobody has written over it in the same moment
        return found

    def _read(self, tool: str) -> dict[Row, dict[float, float]]:
        try:
            record = self._store.record(_KIND, tool) or {}
        except (OSError, ValueError):
            return {}
        return _merged({}, dict(_rows(record)))


def _fit(durations: list[float]) -> Duration | None:
    """Return what most durations have in common; a few that stand out, of jobs that had to wait, change nothing."""
    if not durations:
        return None
    logs = sorted(math.log(seconds) for seconds in durations)
    count = len(logs)
    middle = (logs[(count - 1) // 2] + logs[count // 2]) / 2
    most = 3 * (logs[round(0.84 * (count - 1))] - logs[round(0.16 * (count - 1))]) / 2
    strays = [max(-most, min(most, one - middle)) for one in logs]
    mean = sum(strays) / count
    spread = math.sqrt((sum((one - mean) ** 2 for one in strays) + _UNSURE**2) / (count + 1))
    return Duration(math.exp(middle + mean), max(spread, _LEAST_SPREAD))


def _merged(
    one: Mapping[Row, Mapping[float, float]], other: Mapping[Row, Mapping[float, float]]
) -> dict[Row, dict[float, float]]:
    rows = {row: _newest({**one.get(row, {}), **other.get(row, {})}) for row in {**one, **other}}
    latest = sorted(rows, key=lambda row: max(rows[row]), reverse=True)
    return {row: rows[row] for row in latest[:_MOST_ROWS]}


def _newest(seen: Mapping[float, float]) -> dict[float, float]:
    """Return the latest durations; those that are dated later than now, by another clock, push out no others."""
    latest = time.time() + _TICK
    return {at: seen[at] for at in sorted(seen, key=lambda at: (at < latest, at))[-_MOST:]}


def _record(rows: Mapping[Row, Mapping[float, float]]) -> dict[str, Any]:
    record: dict[str, dict[str, list[list[float]]]] = {}
    for row, seen in rows.items():
        record.setdefault(row.engine, {})[row.size_class] = [[at, float(f"{s:.4g}")] for at, s in seen.items()]
    return record


def _rows(record: Mapping[str, Any]) -> Iterator[tuple[Row, dict[float, float]]]:
    """Yield what of a record has the right form."""
    latest = time.time() + _TICK
    for engine, classes in record.items():
        for name, listed in classes.items() if isinstance(classes, dict) else ():
            pairs = [pair for pair in listed if _is_pair(pair)] if isinstance(listed, list) else []
            seen = {float(at): float(s) for at, s in pairs if 0 < at < latest and _LEAST <= s <= _LONGEST}
            if seen:
                yield Row(engine, name), seen


def _is_pair(pair: object) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(one, (int, float)) for one in pair)
