"""What was charged on a store: a line for each job that was submitted, ``charges/<day>/<process>-<number>.json``.

A line is written before the job's journal entry is removed. So each job that may have been charged is in the journal or
here, after any kill; one that is in both, or here twice, is known by its id. Each process writes pages of its own, a
few dozen jobs on each: what a month has cost is read from a few hundred files.
"""

from __future__ import annotations

import calendar
import json
import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from flux_tasks import files
from flux_tasks.files.search.trees import tree
from flux_tasks.store.owner import this_process
from flux_tasks.store.records import Store
from flux_tasks.store.threads import each

__all__ = ["Charge", "ChargePages", "add_charges", "day_of", "uncounted"]

KIND = "charges"
_MOST = 64  # lines of a page
_LISTED = 60.0  # seconds for which the list of a day's pages is believed, once the day is over


@dataclass(frozen=True, slots=True)
class Charge:
    """One job that was charged, or may have been.

    Attributes:
        id: the service's id of the job; one made of key and time for a POST whose answer never came.
        key: the job key.
        at: when it was submitted, in seconds since 1970.
        credits: what it cost; what it was expected to cost where the service has not said.
        engine: what answered, as in the job key; empty where it was not noted.
        run: the id of the run that submitted it; empty for a call outside a run.
        recipe: the name of the run's recipe; empty as ``run``.
        is_certain: whether the service is known to have charged it.
        part: the id of the shard of the run that submitted it; else that of the run.
    """

    id: str
    key: str
    tool: str
    at: float
    credits: float
    engine: str = ""
    run: str = ""
    recipe: str = ""
    is_certain: bool = True
    part: str = ""


@dataclass
class _Page:
    """What this process is writing: lines of one day."""

    name: str
    lines: dict[str, str] = field(default_factory=dict)
    """By job id, as text: a page is written for each of them."""
    added: int = 0
    taken: int = 0
    """How many ``record`` has returned."""
    written: int = 0
    writing: threading.Lock = field(default_factory=threading.Lock)

    def record(self) -> dict[str, Any]:
        with _lock:
            self.taken = self.added
            return {"owner": this_process(), "charges": [*self.lines.values()]}


_pages: dict[tuple[str, str], _Page] = {}
_count = 0
_lock = threading.Lock()


def _forget_parent() -> None:
    global _lock, _count
    _lock, _count = threading.Lock(), 0
    _pages.clear()


os.register_at_fork(after_in_child=_forget_parent)


def day_of(at: float) -> str:
    """Return the day of a time, in UTC."""
    return time.strftime("%Y-%m-%d", time.gmtime(at))


def add_charges(store: Store, charges: Iterable[Charge]) -> None:
    """Write down what was charged; of several threads that come at once, one writes for all. Again: nothing changes.

    Raises:
        OSError: the store cannot be written.
    """
    by_day: dict[str, list[Charge]] = {}
    for charge in charges:
        if charge.credits:
            by_day.setdefault(day_of(charge.at), []).append(charge)
    for day, lines in by_day.items():
        _add(store, day, lines)


def _add(store: Store, day: str, lines: list[Charge]) -> None:
    global _count
    with _lock:
        page = _pages.get((store.url, day))
        if page is None or len(page.lines) >= _MOST:
            _count += 1
            page = _pages[store.url, day] = _Page(f"{this_process().rpartition(' ')[2]}-{_count}")
        for line in lines:
            if line.id not in page.lines:
                page.lines[line.id] = _text(line)
                page.added += 1
        mine = page.added
    with page.writing:
        if page.written >= mine:
            return
        store.put_record(files.join(KIND, day), page.name, page.record)
        page.written = page.taken


class ChargePages:
    """The pages of a store, as one reader sees them; a page that is full is read once.

    Attributes:
        damaged: pages that cannot be read.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._full: set[str] = set()
        self._listed: dict[str, tuple[float, list[str]]] = {}
        """By day: when it was listed, by ``time.monotonic``, and its pages."""
        self.damaged: list[str] = []

    def read(self, is_wanted: Callable[[str], bool] = lambda day: True) -> tuple[list[Charge], list[Charge]]:
        """Return the lines of full pages that were not read before, and those of all others, of some days (UTC).

        A line may be on several pages. Days that are over are listed once a minute.

        Raises:
            OSError: the store cannot be read.
        """
        days = [day for day in files.folders(self._store.location(KIND)) if is_wanted(day)]
        names = [files.join(day, name) for day in days for name in self._names(day)]
        unread = [name for name in names if name not in self._full]
        full: list[Charge] = []
        others: list[Charge] = []
        self.damaged = []
        for name, lines in zip(unread, each(self._page, unread), strict=True):
            if lines is None:
                self.damaged.append(f"{KIND}/{name}.json")
            elif len(lines) >= _MOST:
                self._full.add(name)
                full += lines
            else:
                others += lines
        return full, others

    def _names(self, day: str) -> list[str]:
        at, names = self._listed.get(day, (-math.inf, []))
        if time.monotonic() - at > _LISTED or day >= day_of(time.time() - 86_400.0):
            names = self._store.records(files.join(KIND, day))
            self._listed[day] = time.monotonic(), names
        return names

    def _page(self, name: str) -> list[Charge] | None:
        try:
            record = self._store.record(KIND, name)
            return [] if record is None else [_line(*json.loads(text)) for text in record["charges"]]
        except (ValueError, TypeError, KeyError):
            return None


def _text(charge: Charge) -> str:
    return json.dumps([getattr(charge, name) for name in Charge.__dataclass_fields__])


def _line(*fields: Any) -> Charge:
    charge = Charge(*fields)
    texts = charge.id, charge.key, charge.tool, charge.engine, charge.run, charge.recipe
    if not (all(isinstance(text, str) for text in texts) and math.isfinite(charge.at) and charge.credits >= 0):
        raise ValueError("not a charge")
    return charge


def uncounted(store: Store, charges: Mapping[str, Charge], since: float = -math.inf) -> Iterator[Charge]:
    """Yield the results that were paid and are on no page; their time is that of the result.

    Args:
        charges: what is known, by job id.
        since: only those whose files were written later, in seconds since 1970.

    Raises:
        OSError: the store cannot be read.
    """
    keys = {charge.key for charge in charges.values()}
    found = tree(store.location("copies")) or tree(store.location("results"))
    written = [one.name for one in found if one.modified is None or one.modified >= since]
    names = [files.stem(name) for name in written if name.endswith(".json") and files.stem(name) not in keys]
    for key, record in zip(names, each(partial(store.record_or_empty, "results"), names), strict=True):
        job_id, cost = record.get("job_id"), record.get("cost")
        if not (isinstance(job_id, str) and job_id and isinstance(cost, (int, float))) or job_id in charges:
            continue
        with suppress(ValueError, TypeError):
            at = float(calendar.timegm(time.strptime(str(record.get("created")), "%Y-%m-%dT%H:%M:%SZ")))
            tool, engine = str(record.get("tool", "")), str(record.get("engine", ""))
            yield Charge(job_id, key, tool, at, float(cost), engine, str(record.get("run") or ""))
