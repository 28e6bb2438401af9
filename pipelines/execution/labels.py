"""Labels of one item along its walk: masks are made of them, and they follow the picture to each result.

What a walk does at its nodes is noted as it happens. Labels at a node are worked out of these notes, and of nothing
else, when somebody asks for them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from PIL import Image
from pydantic import ValidationError

from flux_tasks.catalog import Tool
from flux_tasks.errors import InvalidRequest, explain
from flux_tasks.images.masks import Mask
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call
from flux_tasks.units import px_size
from pipelines.data.annotations.base import LazyLabels
from pipelines.data.annotations.model import Labels
from pipelines.data.manifest import StepOutcome
from pipelines.execution.answers import Attempt, Outcome
from pipelines.execution.local_steps import canvas_of, grown
from pipelines.execution.placeholders import Placeholder, is_mask_unknown
from pipelines.language import templates
from pipelines.language.compiled import CompiledRecipe
from pipelines.language.document.annotations import Annotations, MaskLabels
from pipelines.language.document.fields import texts_in
from pipelines.language.graph import Node
from pipelines.language.names import LABEL_NAMES, SOURCE
from pipelines.operations.placement import Placement, Size
from pipelines.operations.registry import Operation

__all__ = ["FollowedLabels", "UnknownLabels", "asks_for_labels", "lost_labels", "mentions_labels", "wants_labels"]

_ANOTHER_SHAPE = 0.03
"""How much the aspect ratio of a result may differ: tools round sides to multiples of 16 or 32."""


class UnknownLabels(Exception):
    """The labels depend on a picture that is not made yet."""


@dataclass(frozen=True, slots=True)
class _Note:
    """What was done at a node, and with which result."""

    attempt: Attempt
    outcome: Outcome


class FollowedLabels:
    """The labels of one item at each node.

    Args:
        labels: of the source's picture, as its annotations have them.
        options: what the recipe says of annotations.
    """

    def __init__(self, labels: LazyLabels, options: Annotations) -> None:
        self._given = labels
        self._options = options
        self._source: ImageRef | None = None
        self._notes: dict[str, _Note] = {}
        self._images: dict[str, str | None] = {}
        self._known: dict[str, Labels] = {}

    def begin(self, source: ImageRef | None) -> None:
        """Take note of the source's picture.

        Raises:
            InvalidImage: its annotations are of a picture of another size.
        """
        self._source = source
        if source is not None:
            self._known[SOURCE] = self._given.read().upon(source)

    def note(self, node: Node, attempt: Attempt | None = None, outcome: Outcome | None = None) -> None:
        """Take note of what was done at a node; of nothing if it was skipped."""
        self._images[node.id] = node.image
        if attempt is not None and outcome is not None and outcome.kind is not StepOutcome.UNCHANGED:
            self._notes[node.id] = _Note(attempt, outcome)

    def at(self, name: str | None) -> Labels:
        """Return the labels in the result of a node, or of ``source``. Call it on a thread: masks may be decoded.

        Raises:
            UnknownLabels: they depend on a picture that is not made yet.
            InvalidRequest: run lengths cannot be read.
        """
        if name is None or (name == SOURCE and self._source is None):
            return Labels(None)
        if name not in self._known:
            before, note = self._images[name], self._notes.get(name)
            if note is None:
                self._known[name] = self.at(before)
            elif before is None or note.attempt.image is None:  # made of words, or of another file
                size = note.outcome.image.upright_size if note.outcome.image is not None else None
                self._known[name] = Labels(size)
            else:
                self._known[name] = _after(self.at(before), note, self._options)
        return self._known[name]

    def names_at(self, name: str | None) -> dict[str, Any] | None:
        """Return what conditions and templates know of the labels at a node; None if they are not known yet."""
        try:
            return self.at(name).context
        except UnknownLabels:
            return None

    def masked(self, node: Node, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Return arguments with a mask in the place of each ``{annotations: …}``. Call it on a thread.

        Raises:
            InvalidRequest: the description is wrong; run lengths cannot be read.
        """
        found = dict(arguments)
        for name, value in arguments.items():
            if _is_described(value):
                found[name] = self._mask(node, value)
            elif isinstance(value, list):
                found[name] = [self._mask(node, one) if _is_described(one) else one for one in value]
        return found

    def _mask(self, node: Node, value: Mapping[str, Any]) -> Any:
        wanted = _wanted(value["annotations"], node.step.id)
        changes = {name: value[name] for name in ("invert", "dilate") if name in value}
        name = f"labels for {node.step.id}"
        try:
            labels = self.at(node.image)
        except UnknownLabels:
            parts = ("labels", node.image, wanted.to_data())
            file: ImageRef = Placeholder.made_of(*parts, size=None, name=name)
        else:
            file = ImageRef.of(labels.draw(wanted.label, by_box=wanted.shape == "boxes"), name=name)
        mask = Mask(file, **changes)
        if isinstance(node.action, Tool):
            return mask
        return ImageRef.of(mask.render(file), name=name) if changes and not isinstance(file, Placeholder) else file


_MENTION = re.compile(rf"\b({'|'.join(LABEL_NAMES)})\b")


@cache
def _has_mention(text: str) -> bool:
    return _MENTION.search(text) is not None


def asks_for_labels(recipe: CompiledRecipe) -> bool:
    """Check whether a condition or a template of a recipe may ask for labels."""
    source = recipe.source
    outputs = (text for target in recipe.graph.targets for text in texts_in(target.output.to_data()))
    templated = filter(templates.is_template, (source.image, *source.columns.values(), *outputs))
    return any(map(_has_mention, (source.filter, *templated))) or any(map(mentions_labels, recipe.graph.nodes))


def mentions_labels(node: Node) -> bool:
    """Check whether a condition or a template of a node may ask for labels."""
    step = node.step
    return any(map(_has_mention, (step.when, step.require_mask, repr((node.parameters, step.vars, node.axes)))))


def wants_labels(node: Node) -> bool:
    """Check whether a mask of a node is made of labels."""
    values = (one for value in node.parameters.values() for one in (value if isinstance(value, list) else [value]))
    return any(map(_is_described, values))


def _is_described(value: Any) -> bool:
    """Check whether a parameter describes a mask of labels; the reader has seen that it is the parameter of a mask."""
    return isinstance(value, Mapping) and "annotations" in value


def lost_labels(attempt: Attempt, outcome: Outcome) -> str:
    """Return why the labels of its input are not those of a result, or an empty string."""
    before, after = attempt.image, outcome.image
    if before is None or after is None or outcome.kind is StepOutcome.UNCHANGED or _is_exact(attempt):
        return ""
    sizes = [one.known_size if isinstance(one, Placeholder) else one.upright_size for one in (before, after)]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes) or _has_shape(known[0], known[1]) or len(_through_tool(attempt.call, *known)) > 1:
        return ""
    shapes = " and ".join(map(px_size, known))
    return f"its labels are left out: nobody knows how the input lies on the result ({shapes})"


def _wanted(given: Any, where: str) -> MaskLabels:
    try:
        return MaskLabels.model_validate(MaskLabels.expand(given if given is not None else {}))
    except ValidationError as error:
        what = explain(error.errors(include_url=False)[0])
        raise InvalidRequest(f"{where}: the labels of its mask: {what}") from None


def _is_exact(attempt: Attempt) -> bool:
    """Check whether the place of the input on the result is known exactly."""
    action = attempt.node.action
    return isinstance(action, Operation) or (isinstance(action, Tool) and action.has_canvas)


def _after(before: Labels, note: _Note, options: Annotations) -> Labels:
    """Return the labels in the result of an attempt whose input has the labels ``before``."""
    attempt, after = note.attempt, note.outcome.image
    call = note.outcome.call or attempt.call
    image = attempt.image
    is_unknown = isinstance(after, Placeholder) and not after.is_sized
    is_unknown |= isinstance(image, Placeholder) and not image.is_sized
    if after is None or image is None or is_unknown or (call is None and attempt.node.is_paid):
        raise UnknownLabels
    size = after.upright_size
    if call is not None and call.mask is not None:
        before = before.without(_white(call), options.erased)
    if lost_labels(attempt, note.outcome):
        return Labels(size)
    for step in _placements(attempt, call, image.upright_size, size):
        before = before.placed(step, options.min_visible)
    return before


def _white(call: Call) -> Image.Image:
    """Return the mask of a call, as far as the tool may change the picture."""
    assert call.mask is not None  # noqa: S101 - the caller has looked
    if is_mask_unknown(call):
        raise UnknownLabels
    return grown(call, call.mask)


def _placements(attempt: Attempt, call: Call | None, before: Size, after: Size) -> list[Placement]:
    """Return how the input comes to lie on the result: what is done to it one after the other."""
    action = attempt.node.action
    if isinstance(action, Operation):
        parameters = {name: value for name, value in attempt.arguments.items() if name not in action.inputs}
        found = [action.placement(parameters, before)]
    elif call is not None and call.tool.has_canvas:
        canvas, sent = canvas_of(call), call.inputs[call.tool.main_slot].size
        moved = Placement.moved(canvas.left, canvas.top, (canvas.width, canvas.height))
        found = [Placement.scaled(before, sent), moved]
    else:
        return _through_tool(call, before, after)
    return found if found[-1].size == after else [*found, Placement.scaled(found[-1].size, after)]


def _through_tool(call: Call | None, before: Size, after: Size) -> list[Placement]:
    """Return how the input lies on a result: cut as the service cuts it if that gives the size, else scaled."""
    if call is not None:
        sent, rule = call.inputs[call.tool.main_slot].size, call.tool.sizes
        reduced = rule.reduced(sent)
        left, top, right, bottom = rule.kept(reduced)
        if (right - left, bottom - top) == after:
            return [Placement.scaled(before, reduced), Placement.moved(-left, -top, after)]
    return [Placement.scaled(before, after)]


def _has_shape(one: Size, other: Size) -> bool:
    return abs(math.log(one[0] * other[1] / (one[1] * other[0]))) <= _ANOTHER_SHAPE
