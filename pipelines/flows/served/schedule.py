"""When recipes run by themselves: schedules, checked before anything is registered.

A Prefect server takes many schedules that never come, and says nothing; some keep it busy for ever.
"""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from prefect.client.schemas.schedules import construct_schedule
from prefect.schedules import Schedule
from prefect.server.schemas.schedules import CronSchedule, RRuleSchedule

from flux_tasks.errors import Problem, RecipeError, quote
from pipelines.language.document.recipe import check_time_zone

__all__ = ["schedules_of"]

_REMEDIES = {
    "cron": "write five fields such as '0 3 * * *' (minute, hour, day, month, weekday)",
    "rrule": "write a rule of RFC 5545 such as 'FREQ=WEEKLY;BYDAY=MO;BYHOUR=3'",
    "interval": "write a duration such as 900, 15m, 2h or 1d",
}
_PATIENCE = 5.0  # seconds to look for the first time of a schedule


def schedules_of(
    count: int, cron: Sequence[str], interval: Sequence[float], rrule: Sequence[str], timezone: Sequence[str]
) -> list[Schedule | None]:
    """Return the schedule of each of ``count`` recipes; None for one without.

    Args:
        cron: one for all of them, or one for each in their order, where an empty one is none; so are the others.
        interval: seconds; 0 is none.
        timezone: such as Europe/Berlin; UTC where empty.

    Raises:
        RecipeError: with every schedule that cannot be used, or never comes; the place is its option.
    """
    problems, columns = [], []
    for name, given in (("cron", cron), ("interval", interval), ("rrule", rrule), ("timezone", timezone)):
        if len(given) > 1 and len(given) != count:
            what = f"is given {len(given)} times for {count} recipes: once for all, or once for each, - for none"
            problems.append(Problem(f"--{name}", what))
        columns.append([*given] if len(given) == count else [*(given or [""])][:1] * count)
    made = []
    for row in dict.fromkeys(zip(*columns, strict=True)):
        problems += _problems_of(*row)
    if problems:
        raise RecipeError(problems)
    for at_cron, every, rule, zone in zip(*columns, strict=True):
        found: dict[str, Any] = {"cron": at_cron or None, "rrule": rule or None}
        found["interval"] = timedelta(seconds=float(every)) if every else None
        made.append(Schedule(**found, timezone=str(zone) or "UTC") if any(found.values()) else None)
    return made


def _problems_of(cron: Any, interval: Any, rrule: Any, timezone: Any) -> list[Problem]:
    """Return what is wrong with the schedule of one recipe."""
    given = {name: value for name, value in (("cron", cron), ("interval", interval), ("rrule", rrule)) if value}
    problems = []
    if len(given) > 1:
        *others, last = (f"--{name}" for name in given)
        problems.append(Problem(last, f"cannot be used together with {', '.join(others)}: write one schedule"))
    is_zone = not timezone or _is_timezone(timezone)
    if timezone and not given:
        problems.append(Problem("--timezone", "belongs to a schedule: write --cron, --interval or --rrule"))
    if not is_zone:
        problems.append(
            Problem("--timezone", f"{quote(timezone)} is not known: write one such as Europe/Berlin or UTC")
        )
    for name, value in given.items():
        if what := _problem_of(name, value, timezone if is_zone and timezone else "UTC"):
            problems.append(Problem(f"--{name}", f"{quote(str(value))} {what}"))
    return problems


def _problem_of(name: str, value: Any, timezone: str) -> str:
    remedy = _REMEDIES[name]
    try:
        if name == "interval":
            construct_schedule(interval=timedelta(seconds=value))
            return ""
        construct_schedule(**{name: value})
        if name == "cron" and len(value.split()) != 5:
            raise ValueError
    except Exception:  # each kind raises its own
        return f"is no schedule: {remedy}"
    if name == "rrule" and re.search(r"\bINTERVAL=0*(?![0-9])", value, re.IGNORECASE):  # looked for without an end
        return f"is no schedule, as its INTERVAL is 0: {remedy}"
    if name == "rrule" and "DTSTART" not in value.upper() and re.search(r"UNTIL=\w+Z", value, re.IGNORECASE):
        return "is not read by Prefect: write UNTIL without Z, or a DTSTART before the rule"
    if _comes(
        CronSchedule(cron=value, timezone=timezone) if name == "cron" else RRuleSchedule(rrule=value, timezone=timezone)
    ):
        return ""
    if name == "rrule" and "DTSTART" not in value.upper() and re.search("COUNT=", value, re.IGNORECASE):
        return "names no time to come: without DTSTART its COUNT begins on 2020-01-01; write a DTSTART"
    return f"names no time to come: {remedy}"


def _comes(schedule: CronSchedule | RRuleSchedule) -> bool:
    """Check whether a schedule has a time that is still to come; it is looked for as Prefect's server does."""
    found: list[Any] = []

    def look() -> None:
        try:
            found.extend(asyncio.run(schedule.get_dates(1)))
        except Exception:  # each kind raises its own where it finds none
            found.clear()

    looking = threading.Thread(target=look, daemon=True)  # a rule may be looked through for minutes
    looking.start()
    looking.join(_PATIENCE)
    return bool(found)


def _is_timezone(name: str) -> bool:
    try:
        construct_schedule(cron="0 0 * * *", timezone=check_time_zone(name))
    except Exception:
        return False
    return True
