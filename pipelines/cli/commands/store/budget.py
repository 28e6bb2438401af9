"""``store budget``: what all that uses a store may spend in a day or a month."""

from __future__ import annotations

from typing import Annotated, Any

from flux_tasks.errors import StoreUnavailable
from flux_tasks.units import credits, table_text
from pipelines.cli.commands.store.program import Place, opened, store
from pipelines.cli.common import Exit, Json, Places, value
from pipelines.cli.terminal import print_line, terminal_width


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
    place: Place = None,
    json: Json = False,
) -> Exit:
    """Set what all runs on this store may spend together in a day or a month; or show it, and what is left.

    It holds for each run that begins from now on, on every machine. A recipe
    can have a budget of its own besides.

    For example:
      flux-pipelines store budget --day 500 --month 5000 --timezone Europe/Berlin
      flux-pipelines store budget --day none

    Args:
        day: the most to spend in a day
        month: the most to spend in a month
        timezone: where days and months begin (default UTC)
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
        limits = _limits(found)
        spending = periods.PeriodBudget(found, limits, "", "")
        spending.read()
        rows = [(limit, spending.spent(limit)) for limit in limits]
    except OSError as error:
        raise StoreUnavailable.of("used", error) from error
    if json:
        from json import dumps

        data = {limit.period: {"credits": limit.credits, "spent": round(spent, 4)} for limit, spent in rows}
        print_line(dumps({"store": found.url, **data, "timezone": limits[0].timezone if limits else "UTC"}, indent=2))
    elif not rows:
        print_line(f"{found.url} has no budget")
    else:
        lines = [
            (limit.period, credits(limit.credits), credits(spent), credits(max(limit.credits - spent, 0.0)))
            for limit, spent in rows
        ]
        heads = (f"a ({limits[0].timezone})", "credits", "spent", "left")
        print_line(table_text([heads, *lines], right=[1, 2, 3], width=terminal_width()))
    return Exit.OK


def _limits(found: Any, *, is_set_anew: bool = False) -> list[Any]:
    """Return the limits of a store; a damaged record is an error, unless all of it is set anew."""
    from flux_tasks.store.account.periods import SET_AGAIN, read_limits

    try:
        return list(read_limits(found))
    except ValueError as error:
        if is_set_anew:
            return []
        raise StoreUnavailable(f"the store's budget is unknown ({error}): {SET_AGAIN} --day ... --month ...") from None
