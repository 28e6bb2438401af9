"""What a drawing of a recipe shows, whatever it is drawn with: boxes, and arrows between them.

There is one box for the source, one for each step (not for each combination of a matrix), one for each output, and
one for each step that saves its result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flux_tasks.catalog import Tool
from pipelines.language.actions import image_inputs
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.graph import Node, NodeRef
from pipelines.language.model import Source, Step
from pipelines.language.names import SOURCE
from pipelines.operations.user_function import UserFunction
from pipelines.report.redaction import without_secrets

__all__ = ["Arrow", "Box", "Line", "Sketch"]

_UNDRAWABLE = re.compile("[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Kind = Literal["source", "step", "output", "saved"]
Role = Literal["does", "when", "checks", "path"]
Worth = Literal["paid", "unpriced", "free", ""]


@dataclass(frozen=True)
class Line:
    """One line of a box under its title: what a step does, its condition, how it is checked, or a path."""

    text: str
    role: Role


@dataclass(frozen=True)
class Box:
    """One box.

    Attributes:
        id: unique among the boxes.
        price: what one job costs in words, ``free``, or empty for what is no step.
        worth: ``unpriced`` where nobody has published what a job costs.
        times: how many combinations of the matrices there are.
        varied: names of what is varied.
        whole: everything there is to say, one thing a line.
    """

    id: str
    kind: Kind
    title: str
    lines: tuple[Line, ...] = ()
    price: str = ""
    worth: Worth = ""
    times: int = 1
    varied: tuple[str, ...] = ()
    whole: str = ""

    @property
    def fan(self) -> str:
        """Such as ``×6 seed, prompt``; empty where nothing is varied."""
        return f"×{self.times:,} {', '.join(self.varied)}".rstrip() if self.times > 1 or self.varied else ""


@dataclass(frozen=True)
class Arrow:
    """A picture on its way from one box to another.

    Attributes:
        label: the picture parameter that it is for; empty for the main picture.
        carries: False where a step gets no picture, and is only begun for each item.
        whole: what is done to a mask on its way, or an empty string.
    """

    start: str
    end: str
    label: str = ""
    carries: bool = True
    whole: str = ""


@dataclass(frozen=True)
class Sketch:
    """The boxes in an order in which every arrow leads forward, and the arrows."""

    name: str
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]

    @classmethod
    def of(cls, recipe: CompiledRecipe) -> Sketch:
        """The sketch of a checked recipe.

        Raises:
            RecipeError: the recipe is wrong.
        """
        by_step: dict[str, list[Node]] = {}
        for node in recipe.graph.nodes:  # each after what feeds it
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
            boxes.append(_file(f"output:{number}", "output", output.path, times))
            arrows.append(Arrow(_box_of(output.step), f"output:{number}"))
        return cls(_clean(recipe.name), tuple(boxes), tuple(arrows))


def _box_of(step: str) -> str:
    return SOURCE if step == SOURCE else f"step:{step}"


def _source(source: Source) -> Box:
    places = [source.table] if source.table else list(source.images)
    lines = [Line(_clean(place), "path") for place in places[:3]]
    lines += [Line(f"and {len(places) - 3} more", "does")] if len(places) > 3 else []
    lines += [Line(_clean(source.image), "path")] if source.image else []
    lines += [Line(f"where {_clean(source.filter)}", "when")] if source.filter else []
    few = []
    if source.sample is not None:
        share = source.sample if source.sample >= 1 else 100 * source.sample
        few.append(f"a sample of {share:.6g}{' %' * (source.sample < 1)}")
    if source.limit is not None:
        few.append(f"at most {source.limit:,} item{'s' * (source.limit != 1)}")
    lines += [Line(", ".join(few), "does")] if few else []
    columns = [f"{name}: {_clean(template)}" for name, template in source.columns.items()]
    whole = [*map(_clean, places), *(line.text for line in lines if line.text not in places), *columns]
    return Box(SOURCE, "source", "source", tuple(lines), whole="\n".join(dict.fromkeys(whole)))


def _file(name: str, kind: Kind, path: str, times: int) -> Box:
    text = _clean(path)
    return Box(name, kind, kind, (Line(text, "path"),), times=max(1, times), whole=f"{kind}: {text}")


def _step(step: Step, nodes: Sequence[Node]) -> Box:
    names = list(dict.fromkeys(name for node in nodes for name in node.axes))
    price, worth, told = _price(nodes)
    does = _does(step, nodes)
    lines = [Line(does, "does")] if does else []
    lines += [Line(f"when {_clean(step.when)}", "when")] if step.when else []
    lines += [Line(text, "checks") for text in _checks(step)]
    matrix = [f"{_clean(name)}: {', '.join(_clean(v) for v in values)}" for name, values in step.matrix.items()]
    whole = [_clean(step.id), *(line.text for line in lines), told, *_written(step.parameters), *matrix]
    return Box(
        f"step:{step.id}",
        "step",
        _clean(step.id),
        tuple(lines),
        price=price,
        worth=worth,
        times=len(nodes),
        varied=tuple(map(_clean, names)),
        whole="\n".join(filter(None, whole)),
    )


def _does(step: Step, nodes: Sequence[Node]) -> str:
    if isinstance(step.action, Tool):
        tools = ", ".join(dict.fromkeys(node.tool.name for node in nodes))
        return tools if step.task in tools else f"{step.task} · {tools}"
    if isinstance(step.action, UserFunction):
        return _clean(step.action.reference)
    settings = ", ".join(text.replace(": ", " ", 1) for text in _written(step.parameters))
    name = "" if step.id == step.task else step.task
    return " · ".join(filter(None, (name, settings)))


def _written(parameters: Mapping[str, Any]) -> list[str]:
    """Parameters as ``name: value``, without pictures of other steps."""
    return [f"{_clean(name)}: {_clean(value)}" for name, value in parameters.items() if not _is_picture(value)]


def _is_picture(value: Any) -> bool:
    return any(isinstance(inner, dict) and "step" in inner for inner in (value if isinstance(value, list) else [value]))


def _checks(step: Step) -> Iterator[str]:
    if step.preserve is not None:
        yield "untouched pixels put back"
    if step.expect is not None:
        tries = len(step.on_failure.retries)
        again = f", tried again {'once' if tries == 1 else f'up to {tries} times'}" if tries else ""
        yield f"checked{again}{', then kept' * (step.on_failure.then == 'keep')}"


def _price(nodes: Sequence[Node]) -> tuple[str, Worth, str]:
    """What one job costs: on the badge, as a class, and in full."""
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
    """What leads to a step; arrows of several combinations are one."""
    found: dict[tuple[str, str], Arrow] = {}
    for node in nodes:
        slots = image_inputs(node.action, node.step.task)
        if node.image is not None:
            start = _start(node.image)
            found.setdefault((start, ""), Arrow(start, f"step:{name}"))
        for parameter, value in node.parameters.items():
            slot = slots.get(parameter)
            label = "" if slot and slot.is_primary else parameter.removesuffix("s") if slot and slot.many else parameter
            for feed in value if isinstance(value, list) else [value]:
                if isinstance(feed, NodeRef):
                    start = _start(feed.node)
                    whole = ", ".join(f"{what} {amount}" for what, amount in feed.mask.items())
                    found.setdefault((start, label), Arrow(start, f"step:{name}", _clean(label), whole=_clean(whole)))
    return list(found.values()) or [Arrow(SOURCE, f"step:{name}", carries=False)]


def _start(node: str) -> str:
    return _box_of(node.split("[", 1)[0])


def _clean(value: Any) -> str:
    """``value`` as one line of text that every format can hold."""
    return _UNDRAWABLE.sub("\ufffd", " ".join(without_secrets(str(value)).split()))
