"""One row of the manifest as the report shows it: what happened, and the pictures that can be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from pipelines.data.manifest import FINE
from pipelines.report import formatting
from pipelines.report.lineage import INPUT, Lineage, steps_in
from pipelines.report.pictures import Box, Missing, Outline, Picture, Pictures, size_of

__all__ = ["Item", "Mask", "Room", "Step", "View", "item_of", "results_in", "with_pictures"]

_OUTCOMES = {
    "Moderated": "moderated",
    **dict.fromkeys(("InvalidImage", "InvalidRequest"), "invalid"),
    **dict.fromkeys(("SubmissionUncertain", "BudgetReached", "KeyRefused", "OutOfCredits", "RunStopped"), "held"),
}


@dataclass(frozen=True, slots=True)
class Room:
    """What fits into a report: the long side of a picture in pixels, and results and thumbnails of each item."""

    side: int
    results: int
    thumbnails: int


@dataclass(frozen=True, slots=True)
class Mask:
    """The outline of the mask of a step, with its place on a result as inline style."""

    outline: Outline
    css: str
    step: str
    colour: int


@dataclass(frozen=True, slots=True)
class View:
    """One result that can be compared with the input; ``box`` is where the input lies on it."""

    label: str
    paths: tuple[str, ...]
    picture: Picture | Missing
    thumbnail: Picture | Missing | None
    box: Box
    masks: tuple[Mask, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did. ``feeds`` are named only where they are not simply the step before."""

    id: str
    tool: str
    outcome: str
    reason: str
    feeds: tuple[str, ...]
    varied: tuple[tuple[str, str], ...]
    cost: float | None
    estimate: float | None
    seconds: float | None
    job_id: str
    warnings: tuple[str, ...]
    parameters: tuple[tuple[str, str], ...]
    drift: Mapping[str, float] | None
    size: str
    thumbnail: Picture | Missing | None = None
    mask_missing: str = ""


@dataclass(frozen=True, slots=True)
class Item:
    """One item; ``errors`` begins with the one that decided its outcome.

    ``own_masks`` lie on the input, where no result differs from it.
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

    @property
    def needs_attention(self) -> bool:
        """Whether somebody should look at it."""
        return self.outcome not in FINE

    @property
    def error(self) -> Mapping[str, str] | None:
        """The error that decided its outcome."""
        return self.errors[0] if self.errors else None

    @property
    def pictured(self) -> list[tuple[int, View]]:
        """The results that can be seen, with their numbers."""
        return [(n, view) for n, view in enumerate(self.views) if not isinstance(view.picture, Missing)]

    @property
    def masks(self) -> list[Mask]:
        """The masks of all its results, each once."""
        masks = [*self.own_masks, *(mask for view in self.views for mask in view.masks)]
        return list({mask.step: mask for mask in masks}.values())


def item_of(number: int, row: Mapping[str, Any]) -> Item:
    """A row without its pictures; whatever it lacks is left out."""
    outcome = formatting.text(row.get("outcome")) or "unknown"
    errors = _errors(row)
    steps = [_step(step, before) for step, before in zip(steps_in(row), [{}, *steps_in(row)], strict=False)]
    for position, error in enumerate(errors):
        if error["step"] and error["step"] not in {step.id for step in steps}:  # it ended without a note of its own
            ended = outcome if position == 0 else _OUTCOMES.get(error["kind"], "failed")
            steps.append(_step({"id": error["step"], "outcome": outcome if ended in FINE else ended}, {}))
    paths = [formatting.text(output.get("path")) for output in _outputs(row)]
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
    )


def _errors(row: Mapping[str, Any]) -> tuple[dict[str, str], ...]:
    worst, others = row.get("error"), row.get("errors")
    listed = [worst, *(others if isinstance(others, (list, tuple)) else ())]
    told = [{key: formatting.text(e.get(key)) for key in ("step", "kind", "message")} for e in listed if _is_mapping(e)]
    return tuple(error for n, error in enumerate(told) if error not in told[:n])


def _is_mapping(value: object) -> bool:
    return isinstance(value, Mapping)


def _outputs(row: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    outputs = row.get("outputs")
    return [output for output in outputs if isinstance(output, Mapping)] if isinstance(outputs, (list, tuple)) else []


def _step(step: Mapping[str, Any], before: Mapping[str, Any]) -> Step:
    drift, feeds = step.get("drift"), formatting.texts(step.get("from"))
    size = size_of(step.get("image"))
    usual = (formatting.text(before.get("id")) or "source",)
    return Step(
        id=formatting.text(step.get("id")) or formatting.text(step.get("task")) or "step",
        tool=formatting.text(step.get("tool")) or formatting.text(step.get("task")),
        outcome=formatting.text(step.get("outcome")),
        reason=formatting.text(step.get("reason")),
        feeds=() if feeds == usual or (before and before.get("id") == step.get("id")) else feeds,
        varied=formatting.pairs(step.get("varied")),
        cost=formatting.number(step.get("cost")),
        estimate=formatting.number(step.get("estimate")),
        seconds=formatting.number(step.get("seconds")),
        job_id=formatting.text(step.get("job_id")),
        warnings=formatting.texts(step.get("warnings")),
        parameters=formatting.pairs(step.get("parameters")),
        drift={key: formatting.number(drift.get(key)) or 0.0 for key in ("mean", "peak", "changed")}
        if isinstance(drift, Mapping)
        else None,
        size=f"{size[0]} × {size[1]}" if size else "",
    )


# -- pictures --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Result:
    label: str
    image: object
    step: int
    paths: tuple[str, ...]


def results_in(row: Mapping[str, Any]) -> int:
    """How many results an item has that can be compared with its input."""
    return len(_results(row, Lineage(row)))


def with_pictures(item: Item, row: Mapping[str, Any], room: Room) -> Item:
    """``item`` with its previews, thumbnails and outlines, each at its place on the result it is shown on."""
    pictures, lineage = Pictures(room.side), Lineage(row)
    steps, original = steps_in(row), row.get("input")
    outlines = {n: pictures.outline(step["mask"]) for n, step in enumerate(steps) if step.get("mask")}
    results = _results(row, lineage)
    shown = results[: room.results]
    noted = []
    for number, (step, view) in enumerate(zip(steps, item.steps, strict=False)):
        found = outlines.get(number)
        small = number < room.thumbnails and step.get("image")
        noted.append(
            replace(
                view,
                thumbnail=pictures.thumbnail(step["image"]) if small else None,
                mask_missing=found.reason if isinstance(found, Missing) else "",
            )
        )
    places = lineage.places(len(steps) - 1, original) if not results else {}
    return replace(
        item,
        steps=(*noted, *item.steps[len(noted) :]),
        before=pictures.preview(original) if original else None,
        thumbnail=pictures.thumbnail(original) if original else None,
        views=tuple(_view(result, item, lineage, pictures, outlines, len(results) > 1) for result in shown),
        own_masks=_masks(places, item, outlines),
        left_out=len(results) - len(shown),
    )


def _view(
    result: _Result,
    item: Item,
    lineage: Lineage,
    pictures: Pictures,
    outlines: Mapping[int, Outline | Missing],
    is_choice: bool,
) -> View:
    places = lineage.places(result.step, result.image)
    return View(
        result.label,
        result.paths,
        pictures.preview(result.image),
        pictures.thumbnail(result.image) if is_choice else None,
        places[INPUT],
        _masks(places, item, outlines),
    )


def _masks(places: Mapping[int, Box], item: Item, outlines: Mapping[int, Outline | Missing]) -> tuple[Mask, ...]:
    """The masks along a line of steps; each lies on the picture that its step worked on."""
    masks = []
    for number, fed in pairwise(places):
        outline = outlines.get(number)
        if isinstance(outline, Outline):
            colour = list(outlines).index(number) % 4
            masks.append(Mask(outline, places[fed].css, item.steps[number].id, colour))
    return tuple(reversed(masks))


def _results(row: Mapping[str, Any], lineage: Lineage) -> list[_Result]:
    """The results of an item, outputs before what is saved between; none if all are the input itself."""
    found: dict[tuple[str, str], _Result] = {}
    for output in _outputs(row):
        if _digest(output.get("image")):
            step, path = formatting.text(output.get("from")), formatting.text(output.get("path"))
            key = (step, _digest(output["image"]))
            same = found.get(key, _Result(step, output["image"], lineage.find(step), ()))
            found[key] = replace(same, paths=(*same.paths, path))
    results: Sequence[_Result] = list(found.values())
    if not results:
        last = lineage.last_image()
        name = steps_in(row)[last].get("id") if last != INPUT else ""
        image = row.get("output") or (lineage.image(last) if last != INPUT else None)
        label = "After" if row.get("output") else f"After {formatting.text(name)}".rstrip()
        path = formatting.text(row.get("output_path"))
        results = [_Result(label, image, last, (path,) if path else ())] if image else []
    elif len(results) == 1 and not row.get("error"):
        results = [replace(results[0], label="After")]
    original = _digest(row.get("input"))
    return list(results) if any(_digest(result.image) != original for result in results) else []


def _digest(described: object) -> str:
    digest = described.get("digest") if isinstance(described, Mapping) else None
    return digest if isinstance(digest, str) else ""
