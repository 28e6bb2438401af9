"""Write the HTML report of a run: one file that contains everything, opens anywhere and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING, Any

from flux_tasks import files, units
from pipelines.data.manifest import FINE, ItemOutcome, StepOutcome
from pipelines.report import formatting
from pipelines.report.formatting import without_secrets
from pipelines.report.items import Item, PictureLimits, add_pictures, count_results, read_item
from pipelines.report.pictures import Missing
from pipelines.run.summary import Summary

if TYPE_CHECKING:
    from jinja2 import Template

MAX_PICTURES = 60
"""How many items carry pictures, unless the caller says otherwise."""

MAX_LISTED = 2_000
"""How many items without pictures are listed. Beyond these, up to as many again that need attention are listed."""

_MAX_CALLED_OUT = 20
_SIDES = ((12, 1200), (30, 960), (60, 800))
_SMALLEST_SIDE = 640
_MAX_RESULTS = 12  # of one item
_ALL_RESULTS = 240
_ALL_THUMBNAILS = 1_800


@dataclass
class RunSummary(Summary):
    """A run's totals, with what else the head of the report shows.

    Attributes:
        counts: items by outcome; counted from the rows if empty.
        recipe: the recipe's YAML text, or an empty string.
        graph: the recipe as ``drawing.svg`` draws it, or an empty string; the page contains it unchanged.
    """

    recipe: str = ""
    graph: str = ""

    @classmethod
    def of(cls, summary: Summary, recipe: str = "", graph: str = "") -> RunSummary:
        """Return the summary of a run with the recipe's text and its drawing."""
        return cls(**vars(summary), recipe=recipe, graph=graph)

    @property
    def is_local(self) -> bool:
        """Whether a local engine answered instead of the service, so that nothing was charged."""
        return self.engine.startswith("local:")


def write_report(
    location: str, run: RunSummary, rows: Iterable[Mapping[str, Any]], *, max_pictures: int = MAX_PICTURES
) -> str:
    """Write the report, made as by ``render``, to a path or any fsspec URL, and return the location.

    Raises:
        OSError: the location cannot be written.
    """
    page = render(run, rows, max_pictures=max_pictures)
    files.write(location, page.encode("utf-8", errors="replace"))
    return os.fspath(location)


def render(run: RunSummary, rows: Iterable[Mapping[str, Any]], *, max_pictures: int = MAX_PICTURES) -> str:
    """Return the report as HTML text.

    Args:
        rows: of the manifest, in the order in which they are shown; read once. A missing key is no error.
        max_pictures: how many items carry pictures: the first ones. The others are rows of a table.
    """
    numbered = enumerate(rows)
    pictured = list(islice(numbered, max(0, max_pictures)))
    limits = _limits([row for _, row in pictured])
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        items = list(pool.map(lambda entry: add_pictures(read_item(*entry), entry[1], limits), pictured))
    counted: Counter[str] = Counter(item.outcome for item in items)
    listed: list[Item] = []
    needing_attention = 0
    for number, row in numbered:
        item = read_item(number, row)
        counted[item.outcome] += 1
        needing_attention += item.needs_attention
        if len(listed) < MAX_LISTED or (item.needs_attention and needing_attention <= MAX_LISTED):
            listed.append(item)
    everything = [*items, *listed]
    counts = {name: n for name, n in (run.counts or counted).items() if n}
    shown = Counter(item.outcome for item in everything)
    attention = [item for item in everything if item.needs_attention]
    return _template().render(
        run=replace(run, recipe=without_secrets(run.recipe), stopped=without_secrets(run.stopped)),
        counts={name: counts[name] for name in _sort_outcomes(counts)},
        items=items,
        listed=listed,
        total=counted.total(),
        left_out=counted.total() - len(everything),
        shown=shown,
        outcomes=_sort_outcomes(shown),
        attention=attention[:_MAX_CALLED_OUT],
        attention_total=sum(n for outcome, n in counted.items() if outcome not in FINE),
        tools=sorted(run.tools.items()),
    )


def _limits(rows: Sequence[Mapping[str, Any]]) -> PictureLimits:
    """Return limits that keep the report small enough to send and open, however many results an item has."""
    items = max(1, len(rows))
    results = min(_MAX_RESULTS, max(1, _ALL_RESULTS // items))
    pictures = sum(min(results, max(1, count_results(row))) for row in rows)
    side = next((pixels for most, pixels in _SIDES if pictures <= most), _SMALLEST_SIDE)
    return PictureLimits(side, results, max(8, _ALL_THUMBNAILS // items))


def _sort_outcomes(counts: Mapping[str, int]) -> list[str]:
    """Return the known outcomes in their usual order, then the others by name."""
    known: list[str] = [name for name in ItemOutcome if name in counts]
    return known + sorted(set(counts) - set(known))


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    package = resources.files("pipelines.report").joinpath("assets")
    script = package.joinpath("report.js").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"credits": units.credits, "dollars": units.dollars, "px_size": units.px_size}
    environment.filters |= {"duration": units.measured_duration, "moment": formatting.moment}
    environment.filters["drawn"] = Markup  # for the graph only: the drawing escapes its own texts
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    environment.globals |= {
        "known": frozenset((*ItemOutcome, *StepOutcome)),  # what the style sheet has a colour for
        "css": Markup(package.joinpath("report.css").read_text("utf-8")),  # noqa: S704 - the package's own file
        "script": Markup(script),  # noqa: S704 - the same
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    }
    return environment.from_string(package.joinpath("template.html.j2").read_text("utf-8"))
