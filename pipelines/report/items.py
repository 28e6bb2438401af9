"""Read one row of the manifest for the report: what happened to the item, and which pictures can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

from flux_tasks import catalog
from flux_tasks.catalog.boxes import Row, rows_in
from flux_tasks.units import px_size
from pipelines.data.manifest import FINE, outcome_of
from pipelines.report import formatting
from pipelines.report.lineage import INPUT, Lineage
from pipelines.report.pictures import Box, Missing, Outline, Picture, Pictures, boxes_outline, digest_of, size_of
from pipelines.report.previews import Previews


@dataclass(frozen=True, slots=True)
class PictureLimits:
    """How large a preview may be, in pixels and bytes, and how many results and thumbnails of steps an item shows."""

    side: int
    max_bytes: int
    results: int
    thumbnails: int


@dataclass(frozen=True, slots=True)
class Mask:
    """The outline of a step's mask; ``css`` places it on a result, as inline style."""

    outline: Outline
    css: str
    step: str
    colour: int


@dataclass(frozen=True, slots=True)
class View:
    """One result that can be compared with the input; ``box`` is the place of the input on it."""

    label: str
    paths: tuple[str, ...]
    picture: Picture | Missing
    thumbnail: Picture | Missing | None
    box: Box
    masks: tuple[Mask, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did; ``inputs`` is empty where the step before is the only input."""

    id: str
    outcome: str
    tool: str = ""
    reason: str = ""
    inputs: tuple[str, ...] = ()
    varied: tuple[tuple[str, str], ...] = ()
    cost: float | None = None
    estimate: float | None = None
    charged_for: str = ""
    seconds: float | None = None
    job_id: str = ""
    warnings: tuple[str, ...] = ()
    parameters: tuple[tuple[str, str], ...] = ()
    expanded_prompt: str = ""
    boxes: tuple[str, ...] = ()
    drift: Mapping[str, float] | None = None
    size: str = ""
    thumbnail: Picture | Missing | None = None
    mask_missing: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a run; its first error decided the outcome, and ``left_out`` results are not shown.

    ``own_masks`` are masks on the input, for an item without a result that differs from it.
    """

    number: int
    name: str
    source: str
    outcome: str
    errors: tuple[Mapping[str, str], ...]
    paths: tuple[str, ...]
    cost: float | None
    seconds: float | None
    preview: bool
    steps: tuple[Step, ...]
    before: Picture | Missing | None = None
    thumbnail: Picture | Missing | None = None
    views: tuple[View, ...] = ()
    own_masks: tuple[Mask, ...] = ()
    left_out: int = 0
    duplicate_of: str = ""

    @property
    def needs_attention(self) -> bool:
        """Whether somebody should look at the item."""
        return self.outcome not in FINE

    @property
    def picture_bytes(self) -> int:
        """Return how much its pictures take of the page."""
        pictures = [self.before, self.thumbnail, *(step.thumbnail for step in self.steps)]
        pictures += [picture for view in self.views for picture in (view.picture, view.thumbnail)]
        masks = [*self.own_masks, *(mask for view in self.views for mask in view.masks)]
        embedded = sum(len(picture.data) for picture in pictures if isinstance(picture, Picture))
        return embedded + sum(len(mask.outline.path) for mask in masks)

    @property
    def pictured(self) -> list[tuple[int, View]]:
        """Return the results whose picture can be shown, with their numbers."""
        return [(n, view) for n, view in enumerate(self.views) if not isinstance(view.picture, Missing)]

    @property
    def masks(self) -> list[Mask]:
        """Return the masks of all results, each step's mask once."""
        masks = [*self.own_masks, *(mask for view in self.views for mask in view.masks)]
        return list({mask.step: mask for mask in masks}.values())


def read_item(number: int, row: Mapping[str, Any], *, is_listed: bool = False) -> Item:
    """Return the item of a row, without its pictures; what the row lacks stays empty.

    Args:
        is_listed: of its steps, only what a list shows: how they ended.
    """
    outcome = formatting.text(row.get("outcome")) or "unknown"
    errors = _errors(row)
    noted = formatting.mappings(row.get("steps"))
    if is_listed:
        steps = [_ended(_step_id(step), formatting.text(step.get("outcome"))) for step in noted]
    else:
        steps = [_step(step, before) for step, before in zip(noted, [{}, *noted], strict=False)]
    for position, error in enumerate(errors):
        if error["step"] and error["step"] not in {step.id for step in steps}:  # the step has no note of its own
            ended = outcome if position == 0 else outcome_of(error["kind"])
            steps.append(_ended(error["step"], outcome if ended in FINE else ended))
    paths = [formatting.text(output.get("path")) for output in formatting.mappings(row.get("outputs"))]
    return Item(
        number=number,
        name=formatting.text(row.get("item")) or f"item {number + 1}",
        source=formatting.text(row.get("source")),
        outcome=outcome,
        errors=errors,
        paths=tuple(filter(None, dict.fromkeys([formatting.text(row.get("output_path")), *paths]))),
        cost=formatting.number(row.get("cost")),
        seconds=formatting.number(row.get("seconds")),
        preview=bool(row.get("preview")),
        steps=tuple(steps),
        duplicate_of=formatting.text(row.get("duplicate_of")),
    )


def _errors(row: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
    listed = formatting.mappings([row.get("error")]) + formatting.mappings(row.get("errors"))
    if not listed:
        return ()
    errors = [{key: formatting.text(error.get(key)) for key in ("step", "kind", "message")} for error in listed]
    return tuple(error for n, error in enumerate(errors) if error not in errors[:n])


@lru_cache
def _ended(step: str, outcome: str) -> Step:
    """Return a step of which no more is known than how it ended."""
    return Step(step, outcome)


def _step_id(step: Mapping[str, Any]) -> str:
    return formatting.text(step.get("id")) or formatting.text(step.get("task")) or "step"


def _step(step: Mapping[str, Any], before: Mapping[str, Any]) -> Step:
    drift, inputs = step.get("drift"), formatting.texts(step.get("from"))
    size = size_of(step.get("image"))
    charged = [(word, formatting.number(step.get(f"{word}put_mp"))) for word in ("in", "out")]
    default = (formatting.text(before.get("id")) or "source",)
    return Step(
        id=_step_id(step),
        tool=formatting.text(step.get("tool")) or formatting.text(step.get("task")),
        outcome=formatting.text(step.get("outcome")),
        reason=formatting.text(step.get("reason")),
        inputs=() if inputs == default or (before and before.get("id") == step.get("id")) else inputs,
        varied=formatting.pairs(step.get("varied")),
        cost=formatting.number(step.get("cost")),
        estimate=formatting.number(step.get("estimate")),
        charged_for=" and ".join(f"{pixels:g} MP {word}" for word, pixels in charged if pixels is not None),
        seconds=formatting.number(step.get("seconds")),
        job_id=formatting.text(step.get("job_id")),
        warnings=formatting.texts(step.get("warnings")),
        parameters=formatting.pairs(step.get("parameters")),
        expanded_prompt=formatting.text(step.get("expanded_prompt")),
        boxes=tuple(f"{row.kind}: {row.text}" for row in _boxes(step)),
        drift={key: formatting.number(drift.get(key)) or 0.0 for key in ("mean", "peak", "changed")}
        if isinstance(drift, Mapping)
        else None,
        size=px_size(size) if size else "",
    )


def _boxes(step: Mapping[str, Any]) -> list[Row]:
    """Return the boxes in the prompt of a step whose tool reads them."""
    parameters, tool = step.get("parameters"), catalog.find(formatting.text(step.get("tool")))
    prompt = parameters.get("prompt") if isinstance(parameters, Mapping) else None
    return rows_in(prompt) if tool is not None and tool.takes_boxes and isinstance(prompt, str) else []


# -- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Result:
    label: str
    image: object
    step: int
    paths: tuple[str, ...]


def count_results(row: Mapping[str, Any]) -> int:
    """Return how many results of an item can be compared with its input."""
    return len(_results(row, Lineage(row)))


def add_pictures(item: Item, row: Mapping[str, Any], limits: PictureLimits, previews: Previews) -> Item:
    """Return ``item`` with previews, thumbnails and mask outlines, each in its place on the result that shows it."""
    pictures, lineage, original = Pictures(limits.side, limits.max_bytes, previews), Lineage(row), row.get("input")
    steps = lineage.steps
    outlines = {n: pictures.outline(step["mask"]) for n, step in enumerate(steps) if step.get("mask")}
    outlines |= {n: boxes_outline(rows) for n, step in enumerate(steps) if (rows := _boxes(step))}
    results = _results(row, lineage)
    selected = results[: limits.results]
    pictured = []
    for number, (step, shown) in enumerate(zip(steps, item.steps, strict=False)):
        outline = outlines.get(number)
        has_thumbnail = number < limits.thumbnails and step.get("image")
        thumbnail = pictures.thumbnail(step["image"]) if has_thumbnail else None
        reason = outline.reason if isinstance(outline, Missing) else ""
        pictured.append(replace(shown, thumbnail=thumbnail, mask_missing=reason))

    def view(result: _Result) -> View:
        places = lineage.places(result.step, result.image)
        return View(
            label=result.label,
            paths=result.paths,
            picture=pictures.preview(result.image),
            thumbnail=pictures.thumbnail(result.image) if len(results) > 1 else None,
            box=places[INPUT],
            masks=_masks(places, item, outlines),
        )

    return replace(
        item,
        steps=(*pictured, *item.steps[len(pictured) :]),
        before=pictures.preview(original) if original else None,
        thumbnail=pictures.thumbnail(original) if original else None,
        views=tuple(map(view, selected)),
        own_masks=() if results else _masks(lineage.places(len(steps) - 1, original), item, outlines),
        left_out=len(results) - len(selected),
    )


def _masks(places: Mapping[int, Box], item: Item, outlines: Mapping[int, Outline | Missing]) -> tuple[Mask, ...]:
    """Return the masks of a line of steps, each in the place of the picture that its step worked on."""
    masks = []
    for number, source in pairwise(places):
        outline = outlines.get(number)
        if isinstance(outline, Outline):
            colour = list(outlines).index(number) % 4
            masks.append(Mask(outline, places[source].css, item.steps[number].id, colour))
    return tuple(reversed(masks))


def _results(row: Mapping[str, Any], lineage: Lineage) -> list[_Result]:
    """Return the results of an item, outputs first; nothing if every result is the input itself."""
    found: dict[tuple[str, str], _Result] = {}
    for output in formatting.mappings(row.get("outputs")):
        if digest_of(output.get("image")):
            step, path = formatting.text(output.get("from")), formatting.text(output.get("path"))
            key = (step, digest_of(output["image"]))
            same = found.get(key, _Result(step, output["image"], lineage.find(step), ()))
            found[key] = replace(same, paths=(*same.paths, path))
    results: Sequence[_Result] = list(found.values())
    if not results:
        last = lineage.last_image()
        name = lineage.steps[last].get("id") if last != INPUT else ""
        image = row.get("output") or (lineage.image(last) if last != INPUT else None)
        label = "After" if row.get("output") else f"After {formatting.text(name)}".rstrip()
        path = formatting.text(row.get("output_path"))
        results = [_Result(label, image, last, (path,) if path else ())] if image else []
    elif len(results) == 1 and not row.get("error"):
        results = [replace(results[0], label="After")]
    original = digest_of(row.get("input"))
    return list(results) if any(digest_of(result.image) != original for result in results) else []
