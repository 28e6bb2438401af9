"""Write the HTML report of a run: one file that contains everything, opens anywhere and loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from flux_tasks import files, units
from flux_tasks.background import Pool
from flux_tasks.images.reference import makes_previews
from pipelines.data.manifest import FINE, ItemOutcome, StepOutcome
from pipelines.report import formatting
from pipelines.report.formatting import without_secrets
from pipelines.report.items import Item, PictureLimits, add_pictures, count_results, read_item
from pipelines.report.listing import Listing
from pipelines.report.pictures import Missing
from pipelines.report.previews import Previews
from pipelines.run.summary import Summary

if TYPE_CHECKING:
    from jinja2 import Template

MAX_PICTURES = 60
"""How many items carry pictures, unless the caller says otherwise."""

MAX_LISTED = 2_000
"""How many items without pictures a browser without scripts shows, and up to as many again that need attention."""

_MAX_CALLED_OUT = 20
_MAX_PAGE = 19_000_000  # bytes
_MAX_PICTURED = 11_500_000  # of these, for the items with pictures
_BATCH = 20
_SIZES = ((12, (1200, 250_000)), (30, (960, 180_000)), (60, (800, 60_000)))
_SMALLEST_SIZE = (640, 50_000)
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
        return makes_previews(self.engine)


def write_report(
    location: str,
    run: RunSummary,
    rows: Iterable[Mapping[str, Any]],
    previews: Previews | None = None,
    *,
    max_pictures: int = MAX_PICTURES,
) -> str:
    """Write the report, made as by ``render``, to a path or any fsspec URL, and return the location.

    Raises:
        OSError: the location cannot be written.
    """
    page = render(run, rows, previews, max_pictures=max_pictures)
    files.write(location, page.encode("utf-8", errors="replace"))
    return os.fspath(location)


def render(
    run: RunSummary,
    rows: Iterable[Mapping[str, Any]],
    previews: Previews | None = None,
    *,
    max_pictures: int = MAX_PICTURES,
) -> str:
    """Return the report as HTML text: one page of less than 20 MB, however many items there are.

    Args:
        rows: of the manifest, in the order in which they are shown; read once. A missing key is no error.
        previews: what earlier reports have made of pictures; without it, every picture that is shown is decoded.
        max_pictures: how many items carry pictures: the first ones, as far as there is room. The others are rows of a
            table.
    """
    numbered = enumerate(rows)
    first = list(islice(numbered, max(0, max_pictures)))
    previews = previews or Previews()
    items = _with_pictures(first, previews)
    previews.save()
    template = _template()
    macros = template.environment.get_template("row.html.j2").module
    room = _MAX_PAGE - sum(item.picture_bytes for item in items)
    listing = Listing(MAX_LISTED, room, macros.row, macros.steps_of)  # type: ignore[attr-defined]
    counted = Counter(item.outcome for item in items)
    attention = [item for item in items if item.needs_attention]
    for number, row in chain(first[len(items) :], numbered):
        item = read_item(number, row, is_listed=True)
        counted[item.outcome] += 1
        listing.add(item)
        if item.needs_attention and len(attention) < _MAX_CALLED_OUT:
            attention.append(item)
    counts = {name: n for name, n in (run.counts or counted).items() if n}
    return template.render(
        run=replace(run, recipe=without_secrets(run.recipe), stopped=without_secrets(run.stopped)),
        counts={name: counts[name] for name in _sort_outcomes(counts)},
        items=items,
        listing=listing,
        total=counted.total(),
        counted=counted,
        outcomes=_sort_outcomes(counted),
        attention=attention[:_MAX_CALLED_OUT],
        attention_total=sum(n for outcome, n in counted.items() if outcome not in FINE),
        tools=sorted(run.tools.items()),
    )


def _with_pictures(rows: Sequence[tuple[int, Mapping[str, Any]]], previews: Previews) -> list[Item]:
    """Return the items of the first rows, with pictures, as many as there is room for."""
    limits = limits_of([row for _, row in rows])
    items: list[Item] = []
    room = _MAX_PICTURED
    with Pool(max_workers=min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(rows), _BATCH):
            batch = rows[start : start + _BATCH]
            pictured = pool.map(lambda entry: add_pictures(read_item(*entry), entry[1], limits, previews), batch)
            for (_, row), item in zip(batch, pictured, strict=True):
                room -= item.picture_bytes + len(json.dumps(row, default=str))
                if room < 0:
                    return items
                items.append(item)
    return items


def limits_of(rows: Sequence[Mapping[str, Any]]) -> PictureLimits:
    """Return limits that keep the report small enough to send and open, however many results an item has."""
    items = max(1, len(rows))
    results = min(_MAX_RESULTS, max(1, _ALL_RESULTS // items))
    pictures = sum(min(results, max(1, count_results(row))) for row in rows)
    size = next((size for most, size in _SIZES if pictures <= most), _SMALLEST_SIZE)
    return PictureLimits(*size, results, max(8, _ALL_THUMBNAILS // items))


def _sort_outcomes(counts: Mapping[str, int]) -> list[str]:
    """Return the known outcomes in their usual order, then the others by name."""
    known: list[str] = [name for name in ItemOutcome if name in counts]
    return known + sorted(set(counts) - set(known))


@cache
def _template() -> Template:
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    package = resources.files("pipelines.report").joinpath("assets")
    script = package.joinpath("report.js").read_text("utf-8")
    loader = PackageLoader("pipelines.report", "assets")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )
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
    return environment.get_template("template.html.j2")
