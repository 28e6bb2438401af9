"""``status`` and ``history``: the runs of a store, those that go on now and those before."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from flux_tasks.errors import StoreUnavailable
from flux_tasks.units import credits, duration, measured_duration, table_text
from pipelines.cli.commands.store.program import Place, opened
from pipelines.cli.common import Exit, Json, Location, Places, Positive, load_recipe
from pipelines.cli.terminal import print_error, print_line, terminal_width

if TYPE_CHECKING:
    from flux_tasks.store.records import Store
    from pipelines.run.state import RunState

_LAST = 5
"""Runs that have ended which ``status`` shows."""

_NAMED = 10
"""Items that ``status`` names for each outcome."""


def status(
    run: Annotated[str, Parameter(name="RUN")] = "",
    /,
    *,
    place: Place = None,
    json: Json = False,
) -> Exit:
    """Show the runs that go on now on this store, and the last ones; or one run.

    It may be asked on any machine that reaches the store. Of one run, it
    shows its items by outcome, and names those that did not end well.

    For example:
      flux-pipelines status
      flux-pipelines status last --store s3://bucket/store

    Args:
        run: the run: its id, its manifest, or `last`
    """
    from json import dumps

    from pipelines.data.history import find_run, unended_runs
    from pipelines.data.history import run_ids as all_runs

    store = opened(Places(store=place).settings(needs_key=False))
    if run:
        return _one(store, find_run(store, run), json=json)
    known = all_runs(store)
    unended = unended_runs(store)
    states = _states(store, [one for one in known if one in unended or one in known[-_LAST:]])
    now = [state for state in states if state.run_id in unended and state.state == "running"]
    before = [state for state in states if state not in now][-_LAST:]
    if json:
        print_line(dumps({"running": [*map(_data, now)], "ended": [*map(_data, before)]}, indent=2, ensure_ascii=False))
        return Exit.OK
    print_line(_running_table(now) if now else "no run goes on")
    if before:
        print_line(f"\n{_ended_table(before)}")
    return Exit.OK


def history(
    recipe: Annotated[Location, Parameter(name="RECIPE")] = "",
    /,
    *,
    place: Place = None,
    limit: Annotated[Positive, Parameter(help="show the last N runs only (default 20)")] = 20,
    json: Json = False,
) -> Exit:
    """List the runs of this store, or of one recipe: when, how many items, how they ended, credits, report.

    For example:
      flux-pipelines history
      flux-pipelines history nightly.yaml --limit 100 --json

    Args:
        recipe: a recipe: its name or its file
    """
    from json import dumps

    from pipelines.data.history import run_ids as all_runs

    store = opened(Places(store=place).settings(needs_key=False))
    known = all_runs(store)
    if recipe:
        name = load_recipe(recipe, ()).name if str(recipe).endswith((".yaml", ".yml")) else str(recipe)
        states = [state for state in _states(store, known) if state.recipe == name][-limit:]
    else:
        states = _states(store, known[-limit:])
    if json:
        print_line(dumps([_data(state) for state in states], indent=2, ensure_ascii=False))
        return Exit.OK
    if not states:
        print_line(f"no run{f' of {recipe}' if recipe else ''} is known in {store.url}")
        return Exit.OK
    paid = sum(state.credits for state in states if not state.is_preview)
    items = sum(state.items for state in states)
    count = f"{len(states):,} run{'s' if len(states) > 1 else ''}"
    print_line(f"{_ended_table(states)}\n\n{count}, {items:,} items, {credits(paid)} credits")
    return Exit.OK


def _states(store: Store, run_ids: Sequence[str]) -> list[RunState]:
    from pipelines.run.state import read_states

    try:
        states, flaws = read_states(store, run_ids)
    except OSError as error:
        raise StoreUnavailable.of("read", error) from error
    for flaw in flaws:
        print_error(f"{flaw}: what it says of its run is not shown")
    if flaws and not states:
        if len(run_ids) == 1:
            raise StoreUnavailable(f"what run {run_ids[0]} in {store.url} has noted cannot be read: {flaws[0]}")
        raise StoreUnavailable(f"no run in {store.url} can be read: see their records above")
    return states


def _data(state: RunState) -> dict[str, object]:
    """Return a run as JSON has it: as in its record, and how it stands now."""
    left = state.seconds_left
    return {**state.to_dict(), "state": state.standing, "seconds_left": None if left is None else round(left)}


def _running_table(states: Sequence[RunState]) -> str:
    is_divided = any(map(_shards, states))
    heads = ["run", "recipe", "state", "items", "failed", "held", "credits", "in flight", "a minute", "left"]
    heads += ["shards"] if is_divided else []
    rows = []
    for state in states:
        left, rate = state.seconds_left, state.rate
        rows.append(
            (
                state.run_id,
                state.recipe,
                state.standing,
                f"{state.items:,} of {state.total:,}",
                f"{state.bad:,}",
                f"{state.held:,}",
                _credits(state),
                f"{state.in_flight:,}",
                "" if rate is None or left is None else f"{60 * rate:,.0f}",
                "" if left is None else duration(left),
                *([_shards(state)] if is_divided else []),
            )
        )
    lost = [state for state in states if state.standing != "running"]
    told = "".join(f"\n{state.run_id}: {_obituary(state)}" for state in lost)
    return table_text([heads, *rows], right=range(3, 10), width=terminal_width()) + told


def _obituary(state: RunState) -> str:
    process = state.owner.partition(" ")[0]
    what = f"{process} was killed" if state.standing == "killed" else f"{process} gives no sign of life"
    return f"{what}: run the recipe again, which collects what was paid for"


def _shards(state: RunState) -> str:
    return f"{state.shards} on {state.shards_on}" if state.shards else state.shard


def _ended_table(states: Sequence[RunState]) -> str:
    is_divided = any(map(_shards, states))
    heads = ["run", "recipe", "began", "took", "state", "items", "outcomes", "credits"]
    heads += ["shards", "report"] if is_divided else ["report"]
    rows = [
        (
            state.run_id,
            state.recipe,
            _time(state.started),
            measured_duration(state.seconds) if state.seconds else "",
            state.standing,
            f"{state.items:,}" if state.items == state.total else f"{state.items:,} of {state.total:,}",
            ", ".join(f"{n:,} {outcome}" for outcome, n in sorted(state.counts.items())),
            _credits(state),
            *([_shards(state)] if is_divided else []),
            state.report,
        )
        for state in states
    ]
    return table_text([heads, *rows], right=[3, 5, 7], width=terminal_width())


def _credits(state: RunState) -> str:
    return "preview" if state.is_preview else credits(state.credits)


def _time(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M")


def _one(store: Store, run_id: str, *, json: bool) -> Exit:
    """Show one run, with its items that did not end well."""
    from json import dumps

    from pipelines.data.history import read_rows

    states = _states(store, [run_id])
    if not states:
        raise StoreUnavailable(f"{store.location('runs', run_id)} cannot be read")
    state, problem = states[0], ""
    items: dict[str, list[str]] = {}
    failures: dict[str, list[str]] = {}
    try:
        for row in read_rows(state.manifest):
            items.setdefault(row["outcome"], []).append(row["source"])
            error = row.get("error")
            if error and len(failed := failures.setdefault(row["outcome"], [])) < _NAMED:
                failed.append(f"{row['outcome']}: {row['source']}: {' '.join(error['message'].splitlines())}")
    except OSError as problem_of_file:
        problem = f"its items are not known yet: {problem_of_file}"
    if json:
        print_line(dumps({**_data(state), "sources": items}, indent=2, ensure_ascii=False))
        return Exit.OK
    print_line(_running_table([state]) if state.state == "running" else _ended_table([state]))
    print_line()
    for line in filter(None, (state.problem, problem)):
        print_line(line)
    for outcome, lines in failures.items():
        for line in lines:
            print_line(line)
        if (more := len(items[outcome]) - len(lines)) > 0:
            print_line(f"and {more:,} more that are {outcome}: see the manifest")
    print_line(f"manifest: {state.manifest}")
    return Exit.OK
