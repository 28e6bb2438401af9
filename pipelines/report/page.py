"""The HTML report of a run: one file with everything in it, that opens anywhere and loads nothing.

    write_report("report.html", RunSummary.of(run.summary, recipe.text, svg(recipe)), run.rows())

Each item shows before and after under a slider, the outlines of its masks and what each step did and cost; of several
results one is compared at a time. Only the first ``max_pictures`` items carry pictures; the others are rows of a table.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING, Any

from flux_tasks import files, units
from pipelines.data.manifest import FINE, OUTCOMES
from pipelines.report import formatting
from pipelines.report.items import Item, Room, item_of, results_in, with_pictures
from pipelines.report.pictures import Missing
from pipelines.report.redaction import without_secrets

if TYPE_CHECKING:
    from jinja2 import Template

    from pipelines.run.summary import Summary, ToolTotal

__all__ = ["MAX_PICTURES", "RunSummary", "render", "write_report"]

MAX_PICTURES = 60
"""Items that carry pictures, unless asked for otherwise."""

MAX_LISTED = 2_000
"""Items without pictures that are listed; beyond these only those that need attention are, up to as many again."""

_MAX_CALLED_OUT = 20
_DOLLARS_PER_CREDIT = 0.01
_SIDES = ((12, 1200), (30, 960), (60, 800))
_SMALLEST_SIDE = 640
_MAX_RESULTS = 12  # of one item
_ALL_RESULTS = 240
_ALL_THUMBNAILS = 1_800


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What the head of the report says.

    Attributes:
        started: ISO text.
        engine: such as ``bfl`` or ``local:classical@1``.
        recipe: its YAML text, or an empty string.
        graph: the recipe as ``pipelines.drawing.svg`` draws it, or an empty string; it becomes a part of the page as
            it is.
        counts: items by outcome; counted from the rows where left empty.
        jobs: paid calls made by this run.
        cached: answers from the store.
        collected: jobs that an earlier run paid for and this one collected.
        cost: credits.
        unpriced: jobs whose cost the service did not say.
        tools: what was expected and what it came to, by tool.
        stopped: why the run was stopped, or an empty string.
    """

    name: str
    run_id: str = ""
    started: str = ""
    seconds: float = 0.0
    endpoint: str = ""
    engine: str = ""
    recipe: str = ""
    counts: Mapping[str, int] = field(default_factory=dict)
    jobs: int = 0
    cached: int = 0
    cost: float = 0.0
    stopped: str = ""
    collected: int = 0
    unpriced: int = 0
    graph: str = ""
    tools: Mapping[str, ToolTotal] = field(default_factory=dict)

    @classmethod
    def of(cls, summary: Summary, recipe: str = "", graph: str = "") -> RunSummary:
        """From the runner's own summary, the recipe's text and its drawing."""
        shared = {name: getattr(summary, name) for name in cls.__dataclass_fields__ if hasattr(summary, name)}
        return cls(**shared | {"recipe": recipe, "graph": graph, "counts": dict(summary.counts)})

    @property
    def is_local(self) -> bool:
        """Whether a local engine stood in for the service, so that nothing was charged."""
        return self.engine.startswith("local:")


@dataclass(frozen=True, slots=True)
class _ToolRow:
    """The jobs of one tool. What is not known is None; a difference is told only where both sides are whole."""

    name: str
    jobs: int
    expected: float | None
    cost: float | None
    unpriced: int

    @classmethod
    def of(cls, name: str, total: ToolTotal) -> _ToolRow:
        return cls(
            name,
            total.jobs,
            total.estimate if not total.unestimated else None,
            total.cost if total.jobs > total.unpriced else None,
            total.unpriced,
        )

    @property
    def difference(self) -> float | None:
        if self.expected is None or self.cost is None or self.unpriced:
            return None
        return round(self.cost - self.expected, 6) + 0.0


def write_report(
    location: str, run: RunSummary, rows: Iterable[Mapping[str, Any]], *, max_pictures: int = MAX_PICTURES
) -> str:
    """Write the report to a path or any fsspec URL; returns the location.

    Raises:
        OSError: it cannot be written there.
    """
    page = render(run, rows, max_pictures=max_pictures)
    files.write(location, page.encode("utf-8", errors="replace"))
    return os.fspath(location)


def render(run: RunSummary, rows: Iterable[Mapping[str, Any]], *, max_pictures: int = MAX_PICTURES) -> str:
    """The report as HTML text.

    Args:
        rows: of the manifest, in the order in which they are to be shown. Read once; absent keys are no error.
        max_pictures: items that carry pictures; the first ones.
    """
    numbered = enumerate(rows)
    pictured = list(islice(numbered, max(0, max_pictures)))
    room = _room([row for _, row in pictured])
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        items = list(pool.map(lambda entry: with_pictures(item_of(*entry), entry[1], room), pictured))
    counted: Counter[str] = Counter(item.outcome for item in items)
    listed: list[Item] = []
    troubled = 0
    for number, row in numbered:
        item = item_of(number, row)
        counted[item.outcome] += 1
        troubled += item.needs_attention
        if len(listed) < MAX_LISTED or (item.needs_attention and troubled <= MAX_LISTED):
            listed.append(item)
    everything = [*items, *listed]
    counts = {name: n for name, n in (run.counts or counted).items() if n}
    attention = [item for item in everything if item.needs_attention]
    return _template().render(
        run=replace(run, recipe=without_secrets(run.recipe), stopped=without_secrets(run.stopped)),
        counts={name: counts[name] for name in _ordered(counts)},
        items=items,
        listed=listed,
        total=counted.total(),
        left_out=counted.total() - len(everything),
        shown=Counter(item.outcome for item in everything),
        outcomes=_ordered(Counter(item.outcome for item in everything)),
        attention=attention[:_MAX_CALLED_OUT],
        attention_total=sum(n for outcome, n in counted.items() if outcome not in FINE),
        dollars=run.cost * _DOLLARS_PER_CREDIT,
        tools=[_ToolRow.of(name, total) for name, total in sorted(run.tools.items())],
    )


def _room(rows: Sequence[Mapping[str, Any]]) -> Room:
    """What fits, so that a report stays small enough to be sent and opened, however many results an item has."""
    items = max(1, len(rows))
    results = min(_MAX_RESULTS, max(1, _ALL_RESULTS // items))
    pictures = sum(min(results, max(1, results_in(row))) for row in rows)
    side = next((pixels for most, pixels in _SIDES if pictures <= most), _SMALLEST_SIDE)
    return Room(side, results, max(8, _ALL_THUMBNAILS // items))


def _ordered(counts: Mapping[str, int]) -> list[str]:
    known = [name for name in OUTCOMES if name in counts]
    return known + sorted(set(counts) - set(known))


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    package = resources.files("pipelines.report").joinpath("assets")
    script = package.joinpath("report.js").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"credits": units.credits, "duration": formatting.duration, "moment": formatting.moment}
    environment.filters["drawn"] = Markup  # the graph only; its texts are escaped where it is drawn
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    environment.globals |= {
        "css": Markup(package.joinpath("report.css").read_text("utf-8")),  # noqa: S704 - the package's own file
        "script": Markup(script),  # noqa: S704 - the same
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    }
    return environment.from_string(package.joinpath("template.html.j2").read_text("utf-8"))
