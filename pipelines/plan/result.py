"""The plan: what each step would do and cost, as values and as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from itertools import islice
from typing import Any, Literal

from flux_tasks import catalog, files
from flux_tasks.images.reference import makes_previews
from flux_tasks.units import duration, price, table_text
from pipelines.data.manifest import StepOutcome

_SHOWN = 20
_GROUPS = 3


@dataclass
class Amount:
    """Jobs and what they are expected to cost: ``credits`` of those with a published price, ``unpriced`` the others."""

    jobs: int = 0
    credits: float = 0.0
    unpriced: int = 0

    def add(self, estimate: float | None) -> None:
        """Count one more job; ``estimate`` in credits, None without a published price."""
        self.jobs += 1
        self.credits += estimate or 0.0
        self.unpriced += estimate is None


@dataclass
class StepPlan:
    """What one step would do, over all items and all combinations of its matrix.

    Attributes:
        does: the tool or operation.
        paid: jobs that would be paid for, each counted once.
        undecided: jobs that depend on a condition which cannot be decided yet; not in ``paid``.
        retries: jobs at most, if results are not as expected; not in ``paid``.
        local: operations done here, free.
        moderated: refused earlier, and not tried again.
        cached, shared, collected, held, skipped, unchanged, blocked: see ``StepOutcome``.
    """

    id: str
    does: str
    is_paid: bool
    paid: Amount = field(default_factory=Amount)
    undecided: Amount = field(default_factory=Amount)
    retries: Amount = field(default_factory=Amount)
    cached: int = 0
    shared: int = 0
    collected: int = 0
    held: int = 0
    skipped: int = 0
    unchanged: int = 0
    local: int = 0
    moderated: int = 0
    blocked: int = 0

    def count(self, outcome: StepOutcome) -> None:
        """Count an item for which nothing is done at this step."""
        setattr(self, outcome, getattr(self, outcome) + 1)


@dataclass
class ShardPlan:
    """What one shard of a run would do: ``items`` of it, and the jobs that it would pay for."""

    items: int = 0
    paid: Amount = field(default_factory=Amount)


@dataclass
class Plan:
    """What a run of ``recipe`` would do.

    Attributes:
        seconds: expected duration with ``max_jobs`` jobs at a time.
        assumed: tools whose jobs no run on this store has timed; each is assumed to take what the
            catalogue says (``Tool.seconds``).
        problems: how many things are wrong with items.
        invalid: the first of them, as sentences.
        spent_by: credits that count against the budget already, by the id of the earlier run that was stopped.
        periods: budgets for days and months that hold for it: ``recipe`` (empty for the whole store), ``period``,
            ``credits``, what is ``spent``, and when it ``ends``.
        warnings: how often a person may have meant something else, such as a mask whose name differs in case,
            and what pictures lose.
        warned: the first of these, as sentences.
        store: where results are kept, as an absolute location.
        is_store_new: whether nothing is in it yet.
        calls: the user's functions that the recipe calls, as ``package.module:function``.
        at_end: who is told when the run ends, and when: the command, or the host of the webhook.
        duplicates: what would be left out, by the item that is kept for it; each as ``source`` in a manifest.
        sample_of: how many items those of the plan stand for, if they are a sample.
        looked_at: how many of these were looked at to choose it.
        learned: ``credits`` of a job by tool, as the mean of so many ``jobs`` that this store has settled.
        shards: what each shard would do, by its number, if that was asked for.
    """

    recipe: str
    endpoint: str
    engine: str
    items: int = 0
    steps: list[StepPlan] = field(default_factory=list)
    seconds: float = 0.0
    max_jobs: int = 0
    assumed: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    problems: int = 0
    budget: float | None = None
    spent_by: dict[str, float] = field(default_factory=dict)
    periods: list[dict[str, Any]] = field(default_factory=list)
    learned: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: int = 0
    warned: list[str] = field(default_factory=list)
    store: str = ""
    is_store_new: bool = False
    calls: list[str] = field(default_factory=list)
    at_end: list[str] = field(default_factory=list)
    duplicates: dict[str, list[str]] = field(default_factory=dict)
    sample_of: int | None = None
    looked_at: int | None = None
    shards: dict[int, ShardPlan] = field(default_factory=dict)

    def __str__(self) -> str:
        return table(self)

    def add_problem(self, text: str) -> None:
        """Count something that is wrong with an item."""
        self.problems += 1
        if len(self.invalid) < _SHOWN:
            self.invalid.append(text)

    def add_warning(self, text: str) -> None:
        """Count something that a person may have meant otherwise."""
        self.warnings += 1
        if len(self.warned) < _SHOWN:
            self.warned.append(text)

    @property
    def jobs(self) -> int:
        """Jobs that the run would pay for, as far as that is certain."""
        return self.total("paid").jobs

    @property
    def credits(self) -> float:
        """Credits that they are expected to cost, those without a published price left out."""
        return self.total("paid").credits

    @property
    def unpriced(self) -> int:
        """How many of them have no published price."""
        return self.total("paid").unpriced

    @property
    def collected(self) -> int:
        """Jobs that an interrupted run has paid for, and this one would collect."""
        return sum(step.collected for step in self.steps)

    @property
    def spent(self) -> float:
        """Credits that count against the budget already; see ``spent_by``."""
        return sum(self.spent_by.values())

    def total(self, kind: Literal["paid", "undecided", "retries"]) -> Amount:
        """Return the sum over all steps."""
        amounts: list[Amount] = [getattr(step, kind) for step in self.steps]
        return Amount(*(sum(getattr(amount, name) for amount in amounts) for name in ("jobs", "credits", "unpriced")))

    def add_to_shard(self, number: int, before: Amount) -> None:
        """Count an item, and the jobs that have joined the plan with it.

        Args:
            before: what was to be paid without it.
        """
        shard, now = self.shards.setdefault(number, ShardPlan()), self.total("paid")
        shard.items += 1
        for name in ("jobs", "credits", "unpriced"):
            setattr(shard.paid, name, getattr(shard.paid, name) + getattr(now, name) - getattr(before, name))

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as data for JSON."""
        totals = {
            "jobs": self.jobs,
            "credits": round(self.credits, 4),
            "dollars": round(self.credits / 100, 4),
            "unpriced": self.unpriced,
            "spent": round(self.spent, 4),
            "collected": self.collected,
            "undecided": asdict(self.total("undecided")),
            "retries": asdict(self.total("retries")),
        }
        return asdict(self) | totals


_RUNS = 3  # in a line
_COLUMNS = ("step", "does", "to pay", "stored", "shared", "to collect", "skipped", "undecided", "credits")


def table(plan: Plan, *, width: int | None = None) -> str:
    """Return the plan as text: a sentence, a table of the steps, and notes on what is uncertain.

    Args:
        width: how many characters a line of the table may have; None: as many as it needs.
    """
    rows = [_COLUMNS, *(_row(step) for step in plan.steps)]
    shown = [index for index in range(len(_COLUMNS)) if index in (0, 1, 2, 8) or any(row[index] for row in rows[1:])]
    cells = [[row[index] for index in shown] for row in rows]
    steps = table_text(cells, right=range(2, len(shown)), width=width)
    return "\n".join([_head(plan), "", steps, "", *_notes(plan)]).rstrip()


def _head(plan: Plan) -> str:
    jobs = f"{plan.jobs:,} {_jobs(plan.jobs)}"
    if not plan.jobs:
        paid = "no job to pay for"
    elif makes_previews(plan.engine):
        paid = f"{jobs} to make here; at BFL: {_price(plan)}"
    else:
        paid = f"{jobs} to pay for: {_price(plan)}"
    return f"{plan.recipe}: {plan.items:,} {'item' if plan.items == 1 else 'items'}, {paid}"


def _row(step: StepPlan) -> tuple[str, ...]:
    counts = [step.cached, step.shared, step.collected, step.skipped + step.unchanged, step.undecided.jobs]
    if not step.is_paid:
        counts = [0, 0, 0, step.skipped + step.unchanged, 0]
    jobs, cost = (f"{step.paid.jobs:,}", _credits(step.paid)) if step.is_paid else ("", "free")
    return (step.id, step.does, jobs, *(f"{count:,}" if count else "" for count in counts), cost)


def _credits(amount: Amount) -> str:
    if not amount.unpriced:
        return f"{amount.credits:,.2f}"
    if amount.unpriced == amount.jobs:
        return "unknown"
    return f"{amount.credits:,.2f} + {amount.unpriced:,} unknown"


def _price(amount: Amount | Plan) -> str:
    """Return what jobs are expected to cost, as text."""
    priced = amount.jobs - amount.unpriced
    if not priced:
        return f"the price of {'its tool' if amount.jobs == 1 else 'their tools'} is published nowhere"
    unknown = f" for {priced:,} of them, and {amount.unpriced:,} of unknown price" if amount.unpriced else ""
    return f"about {price(amount.credits)}{unknown}"


def _jobs(count: int) -> str:
    return "job" if count == 1 else "jobs"


def _more(amount: Amount) -> str:
    return f"up to {amount.jobs:,} more {_jobs(amount.jobs)}, {_price(amount)}"


def _notes(plan: Plan) -> list[str]:
    lines: list[str] = []
    undecided, retries = plan.total("undecided"), plan.total("retries")
    if undecided.jobs:
        names = ", ".join(step.id for step in plan.steps if step.undecided.jobs)
        lines.append(
            f"undecided: {_more(undecided)}: the condition of {names} asks about pictures that are not made yet"
        )
    if retries.jobs:
        lines.append(f"retries: {_more(retries)}, if results are not as expected")
    if plan.sample_of is not None:
        chosen = f"chosen by size and sharpness among {plan.looked_at:,}"
        lines.append(f"sample: these are {plan.items:,} of {plan.sample_of:,} items, {chosen}")
    if plan.duplicates:
        lines += _duplicates(plan.duplicates)
    held = sum(step.held for step in plan.steps)
    if held:
        lines.append(f"held: {held:,} {_jobs(held)} that may be paid for already; see flux-pipelines store held")
    moderated = sum(step.moderated for step in plan.steps)
    if moderated:
        lines.append(f"moderated: {moderated:,} refused earlier, and not tried again (see flux-pipelines retry)")
    for tool, learned in plan.learned.items():
        cost, jobs = learned["credits"], learned["jobs"]
        known = f"{price(cost)} is the mean of the {jobs:,} {_jobs(jobs)} that this store has settled"
        lines.append(f"price: that of {tool} is published nowhere; {known}")
    if plan.seconds:
        figures = ", ".join(f"{name} {catalog.TOOLS[name].seconds:g} s" for name in plan.assumed)
        assumed = f"; assumed for a job of {figures}" if figures else ""
        lines.append(f"duration: about {duration(plan.seconds)} with {plan.max_jobs} jobs at a time{assumed}")
    for number, shard in sorted(plan.shards.items()):
        items = f"{shard.items:,} {'item' if shard.items == 1 else 'items'}"
        paid = f"{shard.paid.jobs:,} {_jobs(shard.paid.jobs)}" if shard.paid.jobs else "no job"
        cost = f", {_credits(shard.paid)} credits" if shard.paid.jobs else ""
        lines.append(f"shard {number}/{len(plan.shards)}: {items}, {paid}{cost}")
    if plan.budget is not None:
        lines.append(_budget(plan, plan.budget))
    lines += [_period(plan, **period) for period in plan.periods]
    if makes_previews(plan.engine):
        lines.append(f"local preview: {plan.engine} charges nothing; the credits are what BFL would ask for")
    if plan.calls:
        lines.append(f"calls: {', '.join(plan.calls)}; a plan calls them, too")
    lines += [f"tells at the end: {call}" for call in plan.at_end]
    if plan.store:
        lines.append(f"store: {plan.store}{' (new: nothing is in it yet)' if plan.is_store_new else ''}")
    if plan.warnings:
        lines += [f"warnings: {plan.warnings:,}", *_listed(plan.warned, plan.warnings)]
    if plan.problems:
        lines.append(f"invalid: {plan.problems:,} {'problem' if plan.problems == 1 else 'problems'} with items")
        lines += _listed(plan.invalid, plan.problems)
    return lines


def _duplicates(groups: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Yield how many items are left out, and the first of them."""
    count = sum(map(len, groups.values()))
    many = "groups" if len(groups) > 1 else "group"
    yield f"duplicates: {count:,} {'item is' if count == 1 else 'items are'} left out, in {len(groups):,} {many}"
    for kept, left_out in islice(groups.items(), _GROUPS):
        shown = ", ".join(map(files.quoted, left_out[:_GROUPS]))
        more = f" and {len(left_out) - _GROUPS:,} more" if len(left_out) > _GROUPS else ""
        yield f"  {files.quoted(kept)} is kept for {shown}{more}"
    if len(groups) > _GROUPS:
        yield f"  … and {len(groups) - _GROUPS:,} more groups, all of them with --json"


def _listed(first: Sequence[str], count: int) -> list[str]:
    """Return the first of ``count`` sentences as indented lines, and how many more there are."""
    lines = ["  " + words.replace("\n", "\n    ") for words in first]
    return lines + ([f"  … and {count - len(first):,} more"] if count > len(first) else [])


def _budget(plan: Plan, cap: float) -> str:
    most = plan.spent + plan.credits + plan.total("undecided").credits + plan.total("retries").credits
    if plan.spent + plan.credits > cap + 1e-6:
        verdict = "too few: the run would stop when they are spent"
    elif most > cap:
        verdict = "enough, unless many of the undecided jobs and retries are needed"
    else:
        verdict = f"enough{' as far as prices are known' if plan.unpriced else ''}"
    return f"budget: {cap:,g} credits are {verdict}{_spent(plan)}"


def _period(plan: Plan, *, recipe: str, period: str, credits: float, spent: float, ends: str) -> str:
    left = max(credits - spent, 0.0)
    whose = f"of {recipe}" if recipe else "of the whole store"
    begins = f"the next {period} begins {datetime.fromisoformat(ends):%Y-%m-%d %H:%M %Z}"
    verdict = "" if plan.credits <= left + 1e-6 else f": too few, the run would stop; {begins}"
    to = " to previews, which are counted apart" if makes_previews(plan.engine) else ""
    return f"budget {whose}: {left:,.2f} of {credits:,g} credits a {period} are left{to}{verdict}"


def _spent(plan: Plan) -> str:
    """Return which runs have spent credits of the budget already, and how many."""
    if not plan.spent:
        return ""
    runs = [f"{run or 'earlier ones'} {credits:,.2f}" for run, credits in sorted(plan.spent_by.items(), reverse=True)]
    shown = ", ".join(runs[:_RUNS]) + (f" and {len(runs) - _RUNS:,} more" if len(runs) > _RUNS else "")
    return f"\n  {plan.spent:,.2f} of them are spent, by runs of this recipe that were stopped: {shown}"
