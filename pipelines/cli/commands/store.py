"""Jobs that may be paid for and whose id is not known: what a person sees of them, and may decide."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

from flux_tasks.errors import Problem, RecipeError, StoreUnavailable
from flux_tasks.store.journal import Entry, Journal
from flux_tasks.store.records import Store

__all__ = ["decide", "held", "table"]


def held(store: str) -> list[Entry]:
    """The held jobs of a store, oldest first.

    Raises:
        StoreUnavailable: it cannot be read.
    """
    try:
        entries = Journal(Store(store)).entries()
    except OSError as error:
        raise StoreUnavailable(f"the store cannot be read: {error}") from error
    return sorted((entry for entry in entries if entry.is_held), key=lambda entry: entry.at)


def decide(store: str, keys: Sequence[str], decision: Literal["resubmit", "drop"]) -> Iterator[str]:
    """Write down a decision about held jobs, named by the beginning of their keys, or ``all``; a line for each.

    Raises:
        RecipeError: a key that is not of exactly one held job; nothing is decided then.
    """
    journal, entries = Journal(Store(store)), held(store)
    chosen: list[Entry] = []
    problems: list[Problem] = []
    for key in keys:
        found = entries if key == "all" else [entry for entry in entries if entry.key.startswith(key)]
        if key != "all" and len(found) != 1:
            what = "is held by no job" if not found else f"begins the keys of {len(found)} jobs: write more of it"
            problems.append(Problem(key, what))
        chosen += found
    if problems:
        raise RecipeError(problems)
    for entry in {entry.key: entry for entry in chosen}.values():
        journal.put(replace(entry, decision=decision))
        what = "the next run submits it again" if decision == "resubmit" else "left out from now on"
        yield f"{entry.key[:12]}  {entry.tool}  {entry.name}: {what}"


def table(entries: Sequence[Entry]) -> str:
    """Held jobs as aligned text."""
    if not entries:
        return "no job is held"
    rows = [("key", "tool", "image", "age", "credits")]
    rows += [
        (e.key[:12], e.tool, e.name, _age(e.age), "unknown" if e.estimate is None else f"{e.estimate:g}")
        for e in entries
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    known = [e.estimate for e in entries if e.estimate is not None]
    lines += [
        "",
        f"{len(entries)} held: the answer to their submission never came, so that each may have been charged "
        f"({sum(known):g} credits as far as prices are known).",
        "Look into your account, then: flux-pipelines store held --resubmit KEY to pay again, or --drop KEY to leave "
        "it out.",
    ]
    return "\n".join(lines)


def _age(seconds: float) -> str:
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return "long ago" if seconds > 86_400 * 3_650 else f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
