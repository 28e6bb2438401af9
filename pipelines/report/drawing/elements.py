"""Turn a recipe into boxes and arrows, which SVG and Mermaid then draw.

The source, each step (with all combinations of its matrix), each output, and what a step saves is a box.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flux_tasks.catalog import Tool
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.recipe import Source
from pipelines.language.graph import Node, NodeRef
from pipelines.language.model import Step, image_inputs
from pipelines.language.names import SOURCE
from pipelines.operations.user_function import UserFunction
from pipelines.report.formatting import without_secrets

_UNDRAWABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Kind = Literal["source", "step", "output", "saved"]
Role = Literal["does", "when", "checks", "path"]
Worth = Literal["paid", "unpriced", "free", ""]


@dataclass(frozen=True)
class Line:
    """One line under the title of a box: what a step does, its condition, its checks, or a path."""

    text: str
    role: Role


@dataclass(frozen=True)
class Box:
    """One box.

    Attributes:
        price: of one job, in words; empty for a box that is no step.
        times: how many combinations of the matrices there are, which vary ``varied``.
        details: everything about the box, one fact a line, for its tooltip.
    """

    id: str
    kind: Kind
    title: str
    lines: tuple[Line, ...] = ()
    price: str = ""
    worth: Worth = ""
    times: int = 1
    varied: tuple[str, ...] = ()
    details: str = ""

    @property
    def fan(self) -> str:
        """Return the combinations, such as ``×6 seed, prompt``; an empty string where nothing varies."""
        return f"×{self.times:,} {', '.join(self.varied)}".rstrip() if self.times > 1 or self.varied else ""


@dataclass(frozen=True)
class Arrow:
    """A picture that goes from one box to another, or none where a step only runs once for each item.

    ``label`` is the parameter that takes the picture, empty for the main one; ``details`` how a mask is changed.
    """

    start: str
    end: str
    label: str = ""
    has_picture: bool = True
    details: str = ""


@dataclass(frozen=True)
class Sketch:
    """Boxes and arrows; every arrow leads from a box to a later one."""

    name: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]

    @classmethod
    def of(cls, recipe: CompiledRecipe) -> Sketch:
        """Return the sketch of a checked recipe."""
        by_step: dict[str, list[Node]] = {}
        for node in recipe.graph.nodes:  # each after its inputs
            by_step.setdefault(node.step.id, []).append(node)
        boxes = [_source(recipe.source)]
        arrows: list[Arrow] = []
        for name, nodes in by_step.items():
            boxes.append(_step(nodes[0].step, nodes))
            arrows += _arrows(name, nodes)
            if save := nodes[0].step.save:
                boxes.append(_file(f"saved:{name}", "saved", save, len(nodes)))
                arrows.append(Arrow(f"step:{name}", f"saved:{name}"))
        for number, output in enumerate(recipe.outputs):
            times = len(by_step.get(output.step, ()))
            boxes.append(_file(f"output:{number}", "output", output.place, times))
            arrows.append(Arrow(_box_of(output.step), f"output:{number}"))
        return cls(_clean(recipe.name), tuple(boxes), tuple(arrows))


def _box_of(node: str) -> str:
    step = node.split("[", 1)[0]
    return SOURCE if step == SOURCE else f"step:{step}"


def _source(source: Source) -> Box:
    places = [source.table] if source.table else list(source.dataset or source.images)
    lines = [Line(_clean(place), "path") for place in places[:3]]
    lines += [Line(f"and {len(places) - 3} more", "does")] if len(places) > 3 else []
    lines += [Line(_clean(source.image), "path")] if source.image else []
    lines += [Line(f"where {_clean(source.filter)}", "when")] if source.filter else []
    limits = []
    if source.sample is not None:
        share = source.sample if source.sample >= 1 else 100 * source.sample
        limits.append(f"a sample of {share:.6g}{' %' * (source.sample < 1)}")
    if source.limit is not None:
        limits.append(f"at most {source.limit:,} item{'s' * (source.limit != 1)}")
    lines += [Line(", ".join(limits), "does")] if limits else []
    columns = [f"{name}: {_clean(template)}" for name, template in source.columns.items()]
    details = [*map(_clean, places), *(line.text for line in lines if line.text not in places), *columns]
    return Box(SOURCE, "source", "source", tuple(lines), details="\n".join(dict.fromkeys(details)))


def _file(name: str, kind: Kind, path: str, times: int) -> Box:
    text = _clean(path)
    return Box(name, kind, kind, (Line(text, "path"),), times=max(1, times), details=f"{kind}: {text}")


def _step(step: Step, nodes: Sequence[Node]) -> Box:
    name = _clean(step.id)
    varied = tuple(map(_clean, dict.fromkeys(axis for node in nodes for axis in node.axes)))
    price, worth, in_full = _price(nodes)
    does = _does(step, nodes)
    lines = [Line(does, "does")] if does else []
    lines += [Line(f"when {_clean(step.when)}", "when")] if step.when else []
    lines += [Line(text, "checks") for text in _checks(step)]
    matrix = [f"{_clean(name)}: {', '.join(_clean(v) for v in values)}" for name, values in step.matrix.items()]
    told = [name, *(line.text for line in lines), in_full, *_settings(step.parameters), *matrix]
    details = "\n".join(filter(None, told))
    return Box(f"step:{step.id}", "step", name, tuple(lines), price, worth, len(nodes), varied, details)


def _does(step: Step, nodes: Sequence[Node]) -> str:
    if isinstance(step.action, Tool):
        tools = ", ".join(dict.fromkeys(node.tool.name for node in nodes))
        return tools if step.task in tools else f"{step.task} · {tools}"
    if isinstance(step.action, UserFunction):
        return _clean(step.action.reference)
    settings = ", ".join(text.replace(": ", " ", 1) for text in _settings(step.parameters))
    name = "" if step.id == step.task else step.task
    return " · ".join(filter(None, (name, settings)))


def _settings(parameters: Mapping[str, Any]) -> list[str]:
    """Return parameters as ``name: value``, without pictures of other steps."""
    return [f"{_clean(name)}: {_clean(value)}" for name, value in parameters.items() if not _is_picture(value)]


def _is_picture(value: Any) -> bool:
    return any(isinstance(inner, dict) and "step" in inner for inner in (value if isinstance(value, list) else [value]))


def _checks(step: Step) -> Iterator[str]:
    if step.align:
        yield "moved back into place"
    if step.match_colour:
        yield "colours matched"
    if step.preserve is not None:
        yield "untouched pixels put back"
    if step.expect is not None:
        tries = len(step.on_failure.retry_with)
        again = f", tried again {'once' if tries == 1 else f'up to {tries} times'}" if tries else ""
        yield f"checked{again}{', then kept' * (step.on_failure.then == 'keep')}"


def _price(nodes: Sequence[Node]) -> tuple[str, Worth, str]:
    """Return the price of one job: for the badge, as a class, and in full."""
    prices = list(dict.fromkeys(node.tool.price_for(node.parameters) for node in nodes if node.is_paid))
    if not prices:
        return "free", "free", "free: done on this machine"
    known = sorted(price.first for price in prices if price.first is not None)
    full = f"credits: {' or '.join(dict.fromkeys(map(str, prices)))}"
    if not known:
        return "price unknown", "unpriced", full
    grows = any(price.first is not None and price.per == "megapixel" and price.extra for price in prices)
    span = f"{known[0]:g}" if grows or known[0] == known[-1] else f"{known[0]:g}–{known[-1]:g}"
    unit = "credit" if span == "1" else "credits"
    each = " each" if len(nodes) > 1 else ""
    unknown = " or unknown" if len(known) < len(prices) else ""
    return f"{'from ' * grows}{span} {unit}{each}{unknown}", "unpriced" if unknown else "paid", full


def _arrows(name: str, nodes: Sequence[Node]) -> list[Arrow]:
    """Return the arrows that lead to a step; those of several combinations are one arrow."""
    found: dict[tuple[str, str], Arrow] = {}
    for node in nodes:
        slots = image_inputs(node.action, node.step.task)
        if node.image is not None:
            start = _box_of(node.image)
            found.setdefault((start, ""), Arrow(start, f"step:{name}"))
        for parameter, value in node.parameters.items():
            slot = slots.get(parameter)
            label = "" if slot and slot.is_primary else parameter.removesuffix("s") if slot and slot.many else parameter
            for picture in value if isinstance(value, list) else [value]:
                if isinstance(picture, NodeRef):
                    start = _box_of(picture.node)
                    details = _clean(", ".join(f"{what} {amount}" for what, amount in picture.mask.items()))
                    found.setdefault((start, label), Arrow(start, f"step:{name}", _clean(label), details=details))
    return list(found.values()) or [Arrow(SOURCE, f"step:{name}", has_picture=False)]


def _clean(value: Any) -> str:
    """Return ``value`` as one line of text without secrets and without characters that SVG forbids."""
    return _UNDRAWABLE.sub("\ufffd", " ".join(without_secrets(str(value)).split()))
