"""``store held``, ``explain`` and ``migrate``: jobs that may have been paid for, and the keys of results."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from flux_tasks.errors import Problem, RecipeError, StoreUnavailable
from flux_tasks.units import credits, duration, table_text
from pipelines.cli.commands.store.program import Place, Yes, opened, store
from pipelines.cli.common import Exit, Json, Location, Places, Variables, load_recipe
from pipelines.cli.terminal import print_error, print_line, terminal_width

if TYPE_CHECKING:
    from flux_tasks.jobs.explanation import KeyRecord
    from flux_tasks.store.journal import Entry
    from flux_tasks.store.records import Store
    from pipelines.plan.planner import PlannedCall

_PAUSE = 5.0
"""Seconds between two looks at a job whose owner is not known to have ended."""


_Result = Annotated[Location, Parameter(metavar="RESULT|KEY")]
_Keys = Annotated[Sequence[str], Parameter(metavar="KEY", consume_multiple=1)]


@store.command
def held(
    *,
    place: Place = None,
    json: Json = False,
    resubmit: _Keys = (),
    drop: _Keys = (),
) -> Exit:
    """List the jobs that may have been paid for, and decide about them.

    The answer to their submission never came, so nobody knows their id.
    Check your BFL account first. Then name a job by the beginning of its key.

    For example:
      flux-pipelines store held
      flux-pipelines store held --resubmit 4fb0c2

    Args:
        resubmit: let the next run submit these jobs again; `all` for all of them
        drop: never submit these jobs; `all` for all of them
    """
    from json import dumps

    found = opened(Places(store=place).settings(needs_key=False))
    for line in chain(_decide(found, resubmit, "resubmit"), _decide(found, drop, "drop")):
        print_line(line)
    entries = _held(found)
    listed = [asdict(entry) | {"age": entry.age} for entry in entries]
    print_line(dumps(listed, indent=2) if json else _table(entries))
    return Exit.OK


@store.command
def explain(
    result: _Result,
    other: _Result | None = None,
    /,
    *,
    recipe: Annotated[Location | None, Parameter(metavar="RECIPE")] = None,
    item: Annotated[str, Parameter(metavar="ITEM")] = "",
    variables: Variables = (),
    places: Places = Places(),
) -> Exit:
    """Say what identifies a result, and why a call does not find it.

    A second result, or a recipe and an item, are compared with the first:
    each difference is a line with both values.

    For example:
      flux-pipelines store explain out/hens.png
      flux-pipelines store explain out/hens.png --recipe recipe.yaml --item hens

    Args:
        result: a key, the beginning of one, the id of a job, or a picture that a run wrote
        other: a second result, to compare the first with
        recipe: compare it with the calls of this recipe
        item: the recipe's item: its stem or its location
    """
    from flux_tasks.jobs.explanation import find_records

    if bool(recipe) != bool(item):
        raise RecipeError([Problem("--item" if recipe else "--recipe", "is missing: write both, or none of them")])
    settings = places.settings(needs_key=False)
    place = opened(settings)
    records = find_records(place, str(result))
    for record in records:
        print_line(record.describe())
    if other:
        print_line(f"\nCompared with {other}:")
        for line in _compared(records, find_records(place, str(other))):
            print_line(f"  {line}")
    if recipe:
        from pipelines.plan.planner import calls_of_item

        print_line(f"\nItem {item} of {recipe}:")
        for call in calls_of_item(load_recipe(recipe, variables), item, settings):
            for line in _answered(call, records):
                print_line(f"  {line}")
    return Exit.OK


def _compared(records: Sequence[KeyRecord], others: Sequence[KeyRecord]) -> list[str]:
    """Return how the nearest two of two lists of records differ."""
    from flux_tasks.jobs.explanation import differences

    pairs = [(one.identity, two.identity) for one in records for two in others if one.identity and two.identity]
    if not pairs:
        return ["one of them does not say what identifies its call"]
    found = min((differences(*pair) for pair in pairs), key=len)
    return found or ["the same call"]


def _answered(call: PlannedCall, records: Sequence[KeyRecord]) -> Iterator[str]:
    """Yield how a run would answer a call, and what keeps ``records`` from doing so."""
    from flux_tasks.jobs.explanation import differences

    if any(record.key in call.identity.keys for record in records):
        yield f"{call.node}: this is its result"
        return
    yield f"{call.node}: {call.answer}"
    same = [one.identity for one in records if one.identity and one.identity.tool.name == call.identity.tool.name]
    for line in min((differences(one, call.identity) for one in same), key=len, default=[]):
        yield f"  {line}"
    if same and not call.has_pictures:
        yield "  (a picture that it needs is not made yet)"


@store.command
def migrate(*, place: Place = None, yes: Yes = False) -> Exit:
    """Give results of an earlier version the keys that this version uses.

    You need not do this: results with earlier keys are found, too, only
    later. You may stop it at any time: no result is ever without a record.
    """
    from flux_tasks import background
    from flux_tasks.jobs.migration import migrate as migrate_store
    from flux_tasks.store.commit import reconcile

    settings = Places(store=place).settings(needs_key=False)
    found_store = opened(settings)
    if yes:
        background.run(reconcile(settings))
    found = migrate_store(found_store, is_dry=not yes)
    count = found.moved.total()
    if count:
        which = f"{count:,} {'result has' if count == 1 else 'results have'} a key of September 2026"
        end = "got" if yes else "would get"
        print_line(f"{which}, made of a date and every default, and {end} the key of today:")
        rows = [(f"  {tool}", f"{number:,}") for tool, number in sorted(found.moved.items())]
        print_line(table_text(rows, right=[1]))
    else:
        print_line("no result has a key of September 2026")
    print_line(f"with the key of today: {found.present:,}; free results, which keep their keys: {found.free:,}")
    if found.refusals or found.unsettled:
        which = f"refusals ({found.refusals:,}) and unsettled jobs ({found.unsettled:,}) keep their keys"
        print_line(f"{which}: they do not hold what was asked for, and are found as they are")
    for key, why in found.left.items():
        print_line(f"left: results/{key}.json: {why}")
    if count and not yes:
        print_line("nothing was changed: write --yes to do it")
    return Exit.OK


def _held(found: Store) -> list[Entry]:
    """Return the held jobs of a store, oldest first; an entry whose result is there is left by a dead process."""
    from flux_tasks.store.journal import Journal

    try:
        held = [entry for entry in Journal(found).unsettled() if entry.seems_held]
    except OSError as error:
        raise StoreUnavailable.of("read", error) from error
    return sorted(held, key=lambda entry: entry.at)


def _decide(kept: Store, keys: Sequence[str], decision: Literal["resubmit", "drop"]) -> Iterator[str]:
    """Write a decision about held jobs by the beginnings of their keys, or ``all``, and yield a line for each job."""
    from flux_tasks.store.journal import Journal
    from flux_tasks.store.owner import has_ended, readable

    journal, entries = Journal(kept), _held(kept)
    chosen: dict[str, Entry] = {}
    problems: list[Problem] = []
    for key in keys:
        found = [entry for entry in entries if key == "all" or entry.key.startswith(key)]
        if key != "all" and len(found) != 1:
            what = "no held job has a key that begins with this: flux-pipelines store held lists the keys"
            if found:
                what = f"the keys of {len(found)} jobs begin with this: write more of the key"
            problems.append(Problem(key, what))
        chosen |= {entry.key: entry for entry in found}
    if problems:
        raise RecipeError(problems)
    if not all(has_ended(entry.owner) for entry in chosen.values()):
        print_error(f"looking again in {_PAUSE:g} s: a job whose owner is at work is left to it")
        time.sleep(_PAUSE)
    for entry in chosen.values():
        if not journal.decide(entry, decision):
            what = f"nothing decided: {readable(entry.owner)} is at work on it"
        elif decision == "resubmit":
            what = "the next run submits it again"
        else:
            what = "left out from now on"
        yield f"{entry.key[:12]}  {entry.tool}  {entry.name}: {what}"


def _table(entries: Sequence[Entry]) -> str:
    if not entries:
        return "no job is held"
    rows = [("key", "tool", "image", "age", "credits")]
    for entry in entries:
        estimate = "unknown" if entry.estimate is None else credits(entry.estimate)
        rows.append((entry.key[:12], entry.tool, entry.name, duration(entry.age), estimate))
    known = sum(entry.estimate or 0.0 for entry in entries)
    damaged = "".join(f"{entry.key[:12]}: {entry.reason}\n" for entry in entries if entry.reason)
    cut_off = "the answer to their submission never came"
    why = f"their records are damaged, or {cut_off}" if damaged else cut_off
    return (
        f"{table_text(rows, width=terminal_width())}\n\n{damaged}"
        f"{len(entries)} held: {why}, so that each may have been charged "
        f"({credits(known)} credits as far as prices are known).\n"
        "Check your BFL account, then: flux-pipelines store held --resubmit KEY to pay again, or --drop KEY to leave "
        "it out."
    )
