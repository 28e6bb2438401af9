"""``store held``: jobs that may have been paid for and whose id is not known, and what a person decides about them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from flux_tasks.errors import Problem, RecipeError, StoreUnavailable
from flux_tasks.units import credits, duration, table_text
from pipelines.cli.common import OPTIONS, Exit, Json, Places, StoreFolder
from pipelines.cli.terminal import print_line, terminal_width

if TYPE_CHECKING:
    from flux_tasks.store.journal import Entry, Journal

__all__ = ["store"]

store = App(name="store", help="List jobs that may have been paid for.", group_parameters=OPTIONS)

_TEN_YEARS = 3_650 * 86_400  # an entry that seems older has no time


_Keys = Annotated[Sequence[str], Parameter(metavar="KEY", consume_multiple=1)]


@store.command
def held(
    *,
    place: Annotated[StoreFolder, Parameter(name="--store")] = None,
    json: Json = False,
    resubmit: _Keys = (),
    drop: _Keys = (),
) -> Exit:
    """List the jobs that may have been paid for, and decide about them.

    The answer to their submission never came: nobody knows their id. Look
    into your account, then name a job by the beginning of its key.

    Args:
        resubmit: let the next run submit these jobs again; `all` for all of them
        drop: leave these jobs out for good; `all` for all of them
    """
    from json import dumps

    from flux_tasks.store.journal import Journal
    from flux_tasks.store.records import Store

    journal = Journal(Store(Places(store=place).settings(needs_key=False).store))
    for line in chain(_decide(journal, resubmit, "resubmit"), _decide(journal, drop, "drop")):
        print_line(line)
    entries = _held(journal)
    listed = [asdict(entry) | {"age": entry.age} for entry in entries]
    print_line(dumps(listed, indent=2) if json else _table(entries))
    return Exit.OK


def _held(journal: Journal) -> list[Entry]:
    """Return the held jobs of a store, oldest first.

    Raises:
        StoreUnavailable: it cannot be read.
    """
    try:
        entries = journal.entries()
    except OSError as error:
        raise StoreUnavailable(f"the store cannot be read: {error}") from error
    return sorted((entry for entry in entries if entry.is_held), key=lambda entry: entry.at)


def _decide(journal: Journal, keys: Sequence[str], decision: Literal["resubmit", "drop"]) -> Iterator[str]:
    """Write a decision about held jobs, and yield a line for each job.

    Args:
        keys: the beginnings of their keys, or ``all``.

    Raises:
        RecipeError: a key that is not of exactly one held job; nothing is decided then.
    """
    entries = _held(journal)
    chosen: dict[str, Entry] = {}
    problems: list[Problem] = []
    for key in keys:
        found = [entry for entry in entries if key == "all" or entry.key.startswith(key)]
        if key != "all" and len(found) != 1:
            what = "is held by no job" if not found else f"begins the keys of {len(found)} jobs: write more of it"
            problems.append(Problem(key, what))
        chosen |= {entry.key: entry for entry in found}
    if problems:
        raise RecipeError(problems)
    for entry in chosen.values():
        journal.put(replace(entry, decision=decision))
        what = "the next run submits it again" if decision == "resubmit" else "left out from now on"
        yield f"{entry.key[:12]}  {entry.tool}  {entry.name}: {what}"


def _table(entries: Sequence[Entry]) -> str:
    if not entries:
        return "no job is held"
    rows = [("key", "tool", "image", "age", "credits")]
    rows += [(e.key[:12], e.tool, e.name, _age(e.age), _credits(e.estimate)) for e in entries]
    known = sum(entry.estimate or 0.0 for entry in entries)
    return (
        f"{table_text(rows, width=terminal_width())}\n\n"
        f"{len(entries)} held: the answer to their submission never came, so that each may have been charged "
        f"({credits(known)} credits as far as prices are known).\n"
        "Look into your account, then: flux-pipelines store held --resubmit KEY to pay again, or --drop KEY to leave "
        "it out."
    )


def _age(seconds: float) -> str:
    return duration(seconds) if seconds < _TEN_YEARS else "long ago"


def _credits(estimate: float | None) -> str:
    return "unknown" if estimate is None else credits(estimate)
