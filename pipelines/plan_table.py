"""A plan as text for people."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.plan import Amount, Plan, StepPlan

__all__ = ["dollars", "table"]

_COLUMNS = ("step", "does", "to pay", "stored", "shared", "to collect", "skipped", "undecided", "credits")


def table(plan: Plan) -> str:
    """What the plan says: a sentence, a table of the steps, and what is uncertain."""
    rows = [_COLUMNS, *(_row(step) for step in plan.steps)]
    shown = [index for index in range(len(_COLUMNS)) if index in (0, 1, 2, 8) or any(row[index] for row in rows[1:])]
    widths = [max(len(row[index]) for row in rows) for index in range(len(_COLUMNS))]
    lines = [_head(plan), ""]
    for row in rows:
        cells = [row[i].ljust(widths[i]) if i < 2 else row[i].rjust(widths[i]) for i in shown]
        lines.append("  ".join(cells).rstrip())
    lines += ["", *_notes(plan)]
    return "\n".join(lines).rstrip()


def _head(plan: Plan) -> str:
    paid = f"{plan.jobs:,} {_jobs(plan.jobs)} to pay for: {_price(plan)}" if plan.jobs else "no job to pay for"
    return f"{plan.recipe}: {plan.items:,} {'item' if plan.items == 1 else 'items'}, {paid}"


def _row(step: StepPlan) -> tuple[str, ...]:
    counts = (step.cached, step.shared, step.collected, step.skipped + step.nothing_to_do, step.undecided.jobs)
    if not step.is_paid:
        return (step.id, step.does, "", "", "", "", f"{counts[3]:,}" if counts[3] else "", "", "free")
    return (
        step.id,
        step.does,
        f"{step.paid.jobs:,}",
        *(f"{count:,}" if count else "" for count in counts),
        _credits(step.paid),
    )


def _credits(amount: Amount) -> str:
    if not amount.unpriced:
        return f"{amount.credits:,.2f}"
    if amount.unpriced == amount.jobs:
        return "unknown"
    return f"{amount.credits:,.2f} + {amount.unpriced:,} unknown"


def _price(amount: Amount | Plan) -> str:
    """What jobs cost, in words."""
    priced = amount.jobs - amount.unpriced
    if not priced:
        return f"the price of {'its tool' if amount.jobs == 1 else 'their tools'} is published nowhere"
    known = f"about {amount.credits:,.2f} credits ({dollars(amount.credits)})"
    if amount.unpriced:
        return f"{known} for {priced:,} of them, and {amount.unpriced:,} of unknown price"
    return known


def dollars(credits: float) -> str:
    """Credits in USD, halves of a cent rounded up."""
    return f"${math.floor(credits + 0.5 + 1e-9) / 100:,.2f}"


def _jobs(count: int) -> str:
    return "job" if count == 1 else "jobs"


def _notes(plan: Plan) -> list[str]:
    lines: list[str] = []
    undecided, retries = plan.total("undecided"), plan.total("retries")
    if undecided.jobs:
        names = ", ".join(step.id for step in plan.steps if step.undecided.jobs)
        lines.append(
            f"undecided: up to {undecided.jobs:,} more {_jobs(undecided.jobs)}, {_price(undecided)}: the condition of "
            f"{names} asks about pictures that are not made yet"
        )
    if retries.jobs:
        lines.append(
            f"retries: up to {retries.jobs:,} more {_jobs(retries.jobs)}, {_price(retries)}, if results are not as "
            "expected"
        )
    held = sum(step.held for step in plan.steps)
    if held:
        lines.append(f"held: {held:,} {_jobs(held)} that may be paid for already; see flux-pipelines store held")
    moderated = sum(step.moderated for step in plan.steps)
    if moderated:
        lines.append(f"moderated: {moderated:,} refused earlier, and not tried again (see flux-pipelines retry)")
    if plan.seconds:
        assumed = f"; a job of {', '.join(plan.assumed)} is taken to last 10 s" if plan.assumed else ""
        lines.append(f"duration: about {duration(plan.seconds)} with {plan.max_jobs} jobs at a time{assumed}")
    if plan.budget is not None:
        lines.append(_budget(plan, plan.budget))
    if plan.engine.startswith("local:"):
        lines.append(f"local preview: {plan.engine} charges nothing; the credits are what BFL would ask for")
    if plan.troubled:
        lines.append(f"invalid: {plan.troubled:,} {'problem' if plan.troubled == 1 else 'problems'} with items")
        lines += ["  " + words.replace("\n", "\n    ") for words in plan.invalid]
        if plan.troubled > len(plan.invalid):
            lines.append(f"  … and {plan.troubled - len(plan.invalid):,} more")
    return lines


def _budget(plan: Plan, cap: float) -> str:
    most = plan.spent + plan.credits + plan.total("undecided").credits + plan.total("retries").credits
    before = f", of which earlier runs have spent {plan.spent:,.2f}," if plan.spent else ""
    if plan.spent + plan.credits > cap + 1e-6:
        return f"budget: {cap:,g} credits{before} are too few: the run would stop when they are spent"
    if most > cap:
        return f"budget: {cap:,g} credits{before} are enough, unless much of what is uncertain comes true"
    unknown = " as far as prices are known" if plan.unpriced else ""
    return f"budget: {cap:,g} credits{before} are enough{unknown}"


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 90:
        return f"{math.ceil(seconds)} s"
    minutes = math.ceil(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
