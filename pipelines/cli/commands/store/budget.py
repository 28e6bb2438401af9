"""``store budget``: what all that uses a store may spend in a day or a month."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from flux_tasks.errors import Problem, RecipeError, StoreUnavailable, listed, quote
from flux_tasks.units import credits, duration, table_text
from pipelines.cli.commands.store.program import Place, opened, store
from pipelines.cli.common import Exit, Json, Places, value
from pipelines.cli.terminal import print_line, terminal_width

if TYPE_CHECKING:
    from flux_tasks.store.account.periods import Reserved
    from flux_tasks.store.records import Store

_APART = "credits at BFL; previews of a local engine have the same budget, counted apart"


def _cap(text: str) -> float:
    if text == "none":
        return -1.0
    if not 0 <= float(text) < float("inf"):
        raise ValueError
    return float(text)


def _zone(text: str) -> str:
    from pipelines.language.document.recipe import check_time_zone

    return check_time_zone(text)


_Cap = Annotated[float | None, value(_cap, "a number of credits, or none", "CREDITS|none")]


@store.command
def budget(
    *,
    day: _Cap = None,
    month: _Cap = None,
    timezone: Annotated[str, value(_zone, "a time zone such as UTC or Europe/Berlin", "ZONE")] = "",
    release: Annotated[str, Parameter(metavar="RUN")] = "",
    place: Place = None,
    json: Json = False,
) -> Exit:
    """Set what all runs on this store may spend together in a day or a month; or show it, and what is left.

    It holds for each run that begins from now on, on every machine. A recipe
    can have a budget of its own besides. It shows the credits at BFL; those
    of previews (--endpoint local) are counted apart, against the same budget.

    What jobs in flight may cost is reserved. A run that died on another
    machine keeps that for six hours, or until you --release it.

    For example:
      flux-pipelines store budget --day 500 --month 5000 --timezone Europe/Berlin
      flux-pipelines store budget --day none
      flux-pipelines store budget --release 20261129-201401-579da5d

    Args:
        day: the most to spend in a day
        month: the most to spend in a month
        timezone: where days and months begin (default UTC)
        release: let what this run has reserved count no more: it died on another machine
    """
    from flux_tasks.store.account import periods

    is_set = bool(day is not None or month is not None or timezone)
    found = opened(Places(store=place).settings(needs_key=False), is_to_be_made=is_set)
    try:
        if is_set:
            before = {limit.period: limit for limit in _limits(found, is_set_anew=None not in (day, month))}
            caps: dict[str, Any] = {name: limit.credits for name, limit in before.items()}
            caps |= {name: cap for name, cap in (("day", day), ("month", month)) if cap is not None}
            zone = timezone or next((limit.timezone for limit in before.values()), "UTC")
            kept = {name: None if cap is None or cap < 0 else cap for name, cap in caps.items()}
            periods.write_limits(found, kept.get("day"), kept.get("month"), zone)
        if release:
            print_line(_release(found, release))
        reserved = periods.reserved(found)
        limits = _limits(found)
        spending = periods.PeriodBudget(found, limits, "", "")
        spending.read()
        rows = [(limit, spending.spent(limit)) for limit in limits]
    except OSError as error:
        raise StoreUnavailable.of("used", error) from error
    if json:
        from json import dumps

        data: dict[str, Any] = {
            limit.period: {"credits": limit.credits, "spent": round(spent, 4)} for limit, spent in rows
        }
        data |= {"timezone": limits[0].timezone if limits else "UTC", "reserved": [*map(_data, reserved)]}
        print_line(dumps({"store": found.url, **data}, indent=2))
        return Exit.OK
    if rows:
        lines = [
            (limit.period, credits(limit.credits), credits(spent), credits(max(limit.credits - spent, 0.0)))
            for limit, spent in rows
        ]
        heads = (f"a ({limits[0].timezone})", "credits", "spent", "left")
        print_line(table_text([heads, *lines], right=[1, 2, 3], width=terminal_width()))
        print_line(f"\n{_APART}")
    else:
        print_line(f"{found.url} has no budget")
    for one in reserved:
        print_line(_line(one))
    return Exit.OK


def _release(found: Store, run: str) -> str:
    """Free what a run has reserved; returns what was done.

    Raises:
        RecipeError: it has reserved nothing, or its process is alive.
        OSError: the store cannot be read or written.
    """
    from flux_tasks.store.account import periods
    from flux_tasks.store.owner import is_of_this_machine, readable

    known = {one.run: one for one in periods.reserved(found)}
    if run not in known:
        what = f"{quote(run)} has reserved nothing; these have: {listed(known) or 'none'}"
        raise RecipeError([Problem("--release", what)])
    one = known[run]
    if is_of_this_machine(one.owner):
        what = f"{quote(run)} goes on in the process {readable(one.owner)}: end that, which releases it"
        raise RecipeError([Problem("--release", what)])
    periods.release(found, run)
    return f"released: {credits(one.credits)} credits of {run}"


def _line(one: Reserved) -> str:
    """Return what a run has reserved, for how long, and how to free it."""
    from flux_tasks.images.reference import makes_previews
    from flux_tasks.store.owner import is_of_this_machine, readable

    preview = " of previews" if makes_previews(one.engine) else ""
    line = f"reserved: {credits(one.credits)} credits{preview} by {one.run} ({one.recipe}) on {readable(one.owner)}"
    if is_of_this_machine(one.owner):
        return line
    silent = f"nothing was heard for {duration(max(0.0, time.time() - one.since))}"
    until = f"it counts until {_utc(one.until)} if that stays so"
    return f"{line}; {silent}, {until}\n  if it died: flux-pipelines store budget --release {one.run}"


def _data(one: Reserved) -> dict[str, Any]:
    from flux_tasks.store.owner import readable

    about = {"run": one.run, "recipe": one.recipe, "engine": one.engine, "process": readable(one.owner)}
    return {**about, "credits": round(one.credits, 4), "since": _utc(one.since), "until": _utc(one.until)}


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def _limits(found: Any, *, is_set_anew: bool = False) -> list[Any]:
    """Return the limits of a store; a damaged record is an error, unless all of it is set anew."""
    from flux_tasks.store.account.periods import SET_AGAIN, read_limits

    try:
        return list(read_limits(found))
    except ValueError as error:
        if is_set_anew:
            return []
        raise StoreUnavailable(f"the store's budget is unknown ({error}): {SET_AGAIN} --day ... --month ...") from None
