"""``spend``: the credits that were charged on a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any

from cyclopts import Parameter, Token

from flux_tasks.errors import StoreUnavailable, listed, nearest, quote
from flux_tasks.units import credits, dollars, table_text
from pipelines.cli.commands.store.program import Place, opened
from pipelines.cli.common import Exit, Json, Places, value
from pipelines.cli.terminal import print_error, print_line, terminal_width

_KINDS = ("tool", "day", "month", "recipe", "run", "engine")


def _kinds(_type: Any, tokens: Sequence[Token]) -> tuple[str, ...]:
    named = [word.strip() for token in tokens for word in token.value.split(",") if word.strip()]
    for word in named:
        if word not in _KINDS:
            raise ValueError(f"{quote(word)} is not one of {listed(_KINDS)}{nearest(word, _KINDS)}")
    return tuple(dict.fromkeys(named))


def _day(text: str) -> str:
    return date.fromisoformat(text).isoformat()


_Kinds = Annotated[tuple[str, ...], Parameter(converter=_kinds, n_tokens=1, metavar="tool,day,month,recipe,run,engine")]
_Day = Annotated[str, value(_day, "a day such as 2026-11-29", "DATE")]


@dataclass
class _Sum:
    jobs: int = 0
    credits: float = 0.0
    uncertain: float = 0.0


def spend(
    *, by: _Kinds = ("tool",), since: _Day = "", until: _Day = "", place: Place = None, json: Json = False
) -> Exit:
    """Show the credits that were charged on this store, by tool, day, month, recipe, run or engine.

    A job counts on the day on which it was submitted, in UTC, whoever
    collected it. What may have been charged is counted, and is named apart.
    A local engine makes up what it charges: that is never added to BFL's.

    For example:
      flux-pipelines spend --by month
      flux-pipelines spend --by recipe,day --since 2026-11-01 --json

    Args:
        by: what to add up by
        since: the first day
        until: the last day
    """
    from json import dumps

    from flux_tasks.images.reference import makes_previews
    from flux_tasks.store.account.spending import all_charges

    store = opened(Places(store=place).settings(needs_key=False))
    try:
        charges, damaged = all_charges(store, lambda day: since <= day and (not until or day <= until))
    except OSError as error:
        raise StoreUnavailable.of("read", error) from error
    for page in damaged:
        print_error(f"{page} is damaged: its jobs are counted by their results, without recipe and run")
    is_mixed = len({makes_previews(charge.engine) for charge in charges}) > 1
    kinds = (*by, "engine") if is_mixed and "engine" not in by else by
    sums: dict[tuple[str, ...], _Sum] = {}
    totals: dict[bool, _Sum] = {}
    for charge in charges:
        names = {
            "tool": charge.tool,
            "day": (day := _day_of(charge.at)),
            "month": day[:7],
            "recipe": charge.recipe or "(no recipe)",
            "run": charge.run or "(no run)",
            "engine": charge.engine or "bfl",
        }
        row = sums.setdefault(tuple(names[kind] for kind in kinds), _Sum())
        for one in (row, totals.setdefault(makes_previews(charge.engine), _Sum())):
            one.jobs += 1
            one.credits += charge.credits
            one.uncertain += 0.0 if charge.is_certain else charge.credits
    if json:
        rows = [{**dict(zip(kinds, names, strict=True)), **_data(found)} for names, found in sorted(sums.items())]
        total = {"paid": _data(totals.get(False, _Sum())), "preview": _data(totals.get(True, _Sum()))}
        print_line(dumps({"store": store.url, "rows": rows, **total}, indent=2, ensure_ascii=False))
        return Exit.OK
    if not sums:
        print_line(f"nothing was charged on {store.url}{' in this time' if since or until else ''}")
        return Exit.OK
    lines = [(*names, f"{found.jobs:,}", credits(found.credits)) for names, found in sorted(sums.items())]
    print_line(
        table_text([(*kinds, "jobs", "credits"), *lines], right=[len(kinds), len(kinds) + 1], width=terminal_width())
    )
    for is_preview, found in sorted(totals.items()):
        print_line(f"\n{_total(found, is_preview=is_preview)}")
    return Exit.OK


def _day_of(at: float) -> str:
    from flux_tasks.store.charges import day_of

    return day_of(at)


def _data(found: _Sum) -> dict[str, Any]:
    return {"jobs": found.jobs, "credits": round(found.credits, 4), "uncertain": round(found.uncertain, 4)}


def _total(found: _Sum, *, is_preview: bool) -> str:
    jobs = f"{found.jobs:,} job{'s' if found.jobs != 1 else ''}"
    doubt = f", {credits(found.uncertain)} of them maybe" if found.uncertain else ""
    if is_preview:
        return f"{jobs} of a local engine: {credits(found.credits)} credits, which are made up{doubt}"
    return f"{jobs}: {credits(found.credits)} credits ({dollars(found.credits)}){doubt}"
