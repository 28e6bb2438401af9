"""The HTML report of a run: one file with everything in it, that opens anywhere and loads nothing.

    write_report("report.html", RunSummary.of(run.summary, run.recipe.text), run.rows())

Each item shows before and after under a slider, the outlines of its masks and what each step did and cost. Only the
first ``max_pictures`` items carry pictures; the others are rows of a table.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING, Any

from flux_tasks import files
from pipelines.manifest import FINE, OUTCOMES
from pipelines.report.pictures import WHOLE, Box, Missing, Outline, Picture, Pictures, place, size_of

if TYPE_CHECKING:
    from jinja2 import Template

    from pipelines.run import Summary

__all__ = ["MAX_PICTURES", "RunSummary", "render", "write_report"]

MAX_PICTURES = 60
"""Items that carry pictures, unless asked for otherwise."""

MAX_LISTED = 2_000
"""Items without pictures that are listed; beyond these only those that need attention are, up to as many again."""

_MAX_CALLED_OUT = 20
_DOLLARS_PER_CREDIT = 0.01
_SIDES = ((12, 1200), (30, 960))
_SMALLEST_SIDE = 800
_WEB_ADDRESS = re.compile(r"(https?://)(?:[^\s/?#@\"'<>]*@)?([^\s?#\"'<>]*)(\?[^\s\"'<>]*)?")
_WEBHOOK_SECRET = re.compile(r"(webhook_secret[\"']?\s*[:=]\s*)[^\s,}][^\n,}]*")


@dataclass(frozen=True, slots=True)
class RunSummary:
    """What the head of the report says.

    Attributes:
        started: ISO text.
        engine: such as ``bfl`` or ``local:classical@1``.
        recipe: its YAML text, or an empty string.
        counts: items by outcome; counted from the rows where left empty.
        jobs: paid calls made by this run.
        cached: answers from the store.
        collected: jobs that an earlier run paid for and this one collected.
        cost: credits.
        unpriced: jobs whose cost the service did not say.
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

    @classmethod
    def of(cls, summary: Summary, recipe: str = "") -> RunSummary:
        """From the runner's own summary and the recipe's text."""
        shared = {name: getattr(summary, name) for name in cls.__dataclass_fields__ if hasattr(summary, name)}
        return cls(**shared | {"recipe": recipe, "counts": dict(summary.counts)})

    @property
    def is_local(self) -> bool:
        """Whether a local engine stood in for the service, so that nothing was charged."""
        return self.engine.startswith("local:")


@dataclass(frozen=True, slots=True)
class _Mask:
    outline: Outline
    css: str
    step: str
    colour: int


@dataclass(frozen=True, slots=True)
class _Step:
    id: str
    tool: str
    outcome: str
    reason: str
    cost: float | None
    estimate: float | None
    seconds: float | None
    job_id: str
    warnings: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    drift: Mapping[str, float] | None
    size: str
    thumbnail: Picture | Missing | None = None
    mask: _Mask | None = None
    mask_missing: str = ""


@dataclass(frozen=True, slots=True)
class _Item:
    number: int
    name: str
    source: str
    outcome: str
    error: Mapping[str, str] | None
    output_path: str
    cost: float | None
    seconds: float | None
    preview: bool
    steps: tuple[_Step, ...]
    before: Picture | Missing | None = None
    after: Picture | Missing | None = None
    after_label: str = "After"
    before_box: Box = WHOLE
    thumbnail: Picture | Missing | None = None
    masks: tuple[_Mask, ...] = ()

    @property
    def needs_attention(self) -> bool:
        return self.outcome not in FINE


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
    side = next((pixels for most, pixels in _SIDES if len(pictured) <= most), _SMALLEST_SIDE)
    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        items = list(pool.map(lambda entry: _with_pictures(_item(*entry), entry[1], side), pictured))
    counted: Counter[str] = Counter(item.outcome for item in items)
    listed: list[_Item] = []
    troubled = 0
    for number, row in numbered:
        item = _item(number, row)
        counted[item.outcome] += 1
        troubled += item.needs_attention
        if len(listed) < MAX_LISTED or (item.needs_attention and troubled <= MAX_LISTED):
            listed.append(item)
    everything = [*items, *listed]
    counts = {name: n for name, n in (run.counts or counted).items() if n}
    attention = [item for item in everything if item.needs_attention]
    return _template().render(
        run=replace(run, recipe=_without_secrets(run.recipe), stopped=_without_secrets(run.stopped)),
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
    )


def _ordered(counts: Mapping[str, int]) -> list[str]:
    known = [name for name in OUTCOMES if name in counts]
    return known + sorted(set(counts) - set(known))


def _item(number: int, row: Mapping[str, Any]) -> _Item:
    error = row.get("error")
    told = {key: _text(error.get(key)) for key in ("step", "kind", "message")} if isinstance(error, Mapping) else None
    steps = [_step(step) for step in _steps(row)]
    if told and told["step"] and told["step"] not in {step.id for step in steps}:  # it ended without a note of its own
        steps.append(_step({"id": told["step"], "outcome": row.get("outcome") or "failed"}))
    return _Item(
        number=number,
        name=_text(row.get("item")) or f"item {number + 1}",
        source=_text(row.get("source")),
        outcome=_text(row.get("outcome")) or "unknown",
        error=told,
        output_path=_text(row.get("output_path")),
        cost=_number(row.get("cost")),
        seconds=_number(row.get("seconds")),
        preview=bool(row.get("preview")),
        steps=tuple(steps),
    )


def _steps(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    steps = row.get("steps")
    return [step for step in steps if isinstance(step, Mapping)] if isinstance(steps, Sequence) else []


def _step(step: Mapping[str, Any]) -> _Step:
    parameters, drift, warnings = step.get("parameters"), step.get("drift"), step.get("warnings")
    size = size_of(step.get("image"))
    return _Step(
        id=_text(step.get("id")) or _text(step.get("task")) or "step",
        tool=_text(step.get("tool")) or _text(step.get("task")),
        outcome=_text(step.get("outcome")),
        reason=_text(step.get("reason")),
        cost=_number(step.get("cost")),
        estimate=_number(step.get("estimate")),
        seconds=_number(step.get("seconds")),
        job_id=_text(step.get("job_id")),
        warnings=tuple(map(_text, warnings)) if isinstance(warnings, (list, tuple)) else (),
        parameters=tuple((str(k), _text(v)) for k, v in parameters.items()) if isinstance(parameters, Mapping) else (),
        drift={key: _number(drift.get(key)) or 0.0 for key in ("mean", "peak", "changed")}
        if isinstance(drift, Mapping)
        else None,
        size=f"{size[0]} × {size[1]}" if size else "",
    )


def _with_pictures(item: _Item, row: Mapping[str, Any], side: int) -> _Item:
    """``item`` with its previews, thumbnails and outlines, each at its place on the final canvas."""
    pictures = Pictures(side)
    original, steps = row.get("input"), _steps(row)
    images = [original]
    for step in steps:
        images.append(step.get("image") or images[-1])
    final = row.get("output") or images[-1]
    boxes = _boxes([*images, final], steps)
    noted: list[_Step] = []
    outlines: list[_Mask] = []
    for step, view, box in zip(steps, item.steps, boxes, strict=False):
        found = pictures.outline(step["mask"]) if step.get("mask") else None
        if isinstance(found, Outline):
            outlines.append(_Mask(found, box.css, view.id, len(outlines) % 4))
        noted.append(
            replace(
                view,
                thumbnail=pictures.thumbnail(step["image"]) if step.get("image") else None,
                mask=outlines[-1] if isinstance(found, Outline) else None,
                mask_missing=found.reason if isinstance(found, Missing) else "",
            )
        )
    is_changed = bool(final) and _digest(final) != _digest(original)
    return replace(
        item,
        steps=(*noted, *item.steps[len(noted) :]),
        before=pictures.preview(original) if original else None,
        after=pictures.preview(final) if is_changed else None,
        after_label="After" if row.get("output") else f"After {_last_pictured(noted)}",
        before_box=boxes[0],
        thumbnail=pictures.thumbnail(original) if original else None,
        masks=tuple(outlines),
    )


def _boxes(images: Sequence[object], steps: Sequence[Mapping[str, Any]]) -> list[Box]:
    """For each of ``images`` (the input, then the output of each step, then the final one) its place on the last."""
    sizes = [size_of(image) for image in images]
    boxes = [WHOLE]
    for position in range(len(images) - 2, -1, -1):
        before, after = sizes[position], sizes[position + 1]
        step = steps[position] if position < len(steps) else {}
        parameters = step.get("parameters")
        box = WHOLE
        if before and after and images[position] is not images[position + 1]:
            known = parameters if isinstance(parameters, Mapping) else {}
            box = place(before, after, known, task=_text(step.get("task")))
        boxes.insert(0, box.within(boxes[0]))
    return boxes


def _last_pictured(steps: Sequence[_Step]) -> str:
    return next((step.id for step in reversed(steps) if step.thumbnail is not None), "")


def _digest(described: object) -> object:
    return described.get("digest") if isinstance(described, Mapping) else None


def _text(value: object) -> str:
    if value is None:
        return ""
    return _without_secrets(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str))


def _number(value: object) -> float | None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else None  # type: ignore[arg-type]


def _without_secrets(text: str) -> str:
    """``text`` with user, password and query taken out of its web addresses (signed links carry their key there)
    and with the value of ``webhook_secret`` taken out of a recipe."""
    return _WEBHOOK_SECRET.sub(
        r"\1…", _WEB_ADDRESS.sub(lambda found: f"{found[1]}{found[2]}{'?…' * bool(found[3])}", text)
    )


def _credits(value: float) -> str:
    return f"{value:,.2f}".rstrip("0").rstrip(".")


def _duration(seconds: float) -> str:
    if seconds < 0.01:
        return "under 0.01 s" if seconds else "0 s"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds:.2f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def _moment(text: str) -> str:
    """``2 March 2026, 21:14 UTC`` for ISO text; anything else as it is."""
    try:
        moment = datetime.fromisoformat(text.removesuffix("UTC").strip())
    except ValueError:
        return text
    zone = moment.tzname() or ("UTC" if text.endswith("UTC") else "")
    return f"{moment.day} {moment:%B %Y, %H:%M} {zone}".rstrip()


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    package = resources.files(__name__)
    script = package.joinpath("report.js").read_text("utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"credits": _credits, "duration": _duration, "moment": _moment}
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    environment.globals |= {
        "css": Markup(package.joinpath("report.css").read_text("utf-8")),  # noqa: S704 - the package's own file
        "script": Markup(script),  # noqa: S704 - the same
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
    }
    return environment.from_string(package.joinpath("template.html.j2").read_text("utf-8"))
