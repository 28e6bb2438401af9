"""A node's call: its arguments filled in, its pictures put in their places, and what is said of its result."""

from __future__ import annotations

import hashlib
import json
import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Union, get_args, get_origin

from PIL import Image, ImageChops

from flux_tasks import masks, signatures
from flux_tasks.catalog import Tool
from flux_tasks.errors import FluxError, InvalidRequest
from flux_tasks.images import ImageRef
from flux_tasks.masks import Mask, dilate, drift
from flux_tasks.preflight import Call, Input, prepare
from flux_tasks.store import Store
from pipelines import templates
from pipelines.graph import Feed, Node
from pipelines.local_step import encode
from pipelines.parts import parameter_types, pictures_of
from pipelines.tables import Number

__all__ = [
    "Observed",
    "arguments_of",
    "call_of",
    "context_of",
    "mask_of",
    "observe",
    "operate",
    "pictures_for_task",
    "preserved",
    "sent_mask",
    "tries_of",
    "with_pictures",
]

Results = Mapping[str, ImageRef | None]
"""What each node gave: a picture, or None where there is none."""


def context_of(node: Node, item: Mapping[str, Any]) -> dict[str, Any]:
    """What a node's templates know: the item's names and columns, what is varied, and the step's own variables.

    Raises:
        InvalidRequest: a variable cannot be worked out.
    """
    own = templates.render(dict(node.step.vars), item, f"{node.id}.vars")
    varied = templates.render(dict(node.axes), {**item, **own}, node.id)
    return {**item, "variant": node.variant, **varied, **own}


def arguments_of(node: Node, context: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters with templates filled in; an empty text for an optional parameter means not given.

    Pictures of other nodes stay as they are.

    Raises:
        InvalidRequest: a template cannot be filled in.
    """
    filled = {name: _render(value, context, f"{node.id}.{name}") for name, value in node.parameters.items()}
    types_of = parameter_types(node.action)
    return {n: _typed(v, types_of.get(n)) for n, v in filled.items() if v is not None and v != ""}


def tries_of(node: Node, context: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """What is changed of a node's arguments at each try: nothing at the first, then what ``retry_with`` says.

    Raises:
        InvalidRequest: a template cannot be filled in.
    """
    retries = node.step.on_failure.retries if node.step.expect is not None else ()
    return ({}, *(arguments_of(replace(node, parameters=tried), context) for tried in retries))


def _render(value: Any, context: Mapping[str, Any], where: str) -> Any:
    if isinstance(value, Feed):
        return value
    if isinstance(value, list):
        return [_render(inner, context, f"{where}.{index}") for index, inner in enumerate(value)]
    return templates.render(value, context, where)


def _typed(value: Any, annotation: Any) -> Any:
    """A table's text that reads as a number, as one where a number is due."""
    if isinstance(value, Number):
        kinds = _members(annotation)
        if str not in kinds and kinds & {int, float}:
            return value.value
        return str(value)
    return value


def _members(annotation: Any) -> set[Any]:
    if get_origin(annotation) in (Union, types.UnionType):
        return {kind for inner in get_args(annotation) for kind in _members(inner)}
    return {annotation}


def with_pictures(node: Node, arguments: Mapping[str, Any], results: Results) -> dict[str, Any] | None:
    """``arguments`` with the pictures of other nodes in their places; None if one that is needed is not there."""
    slots = pictures_of(node.action, node.step.task)
    found: dict[str, Any] = {}
    for name, value in arguments.items():
        is_mask = name in slots and slots[name].role == "mask"
        placed = _placed(value, results, is_mask=is_mask and isinstance(node.action, Tool))
        if isinstance(placed, list) and None in placed:
            return None  # those behind it would move up, and a prompt that counts its pictures would mean others
        if placed is not None and placed != []:
            found[name] = placed
        elif name in slots and slots[name].required:
            return None
    return found


def _placed(value: Any, results: Results, *, is_mask: bool) -> Any:
    if isinstance(value, list):
        return [_placed(inner, results, is_mask=is_mask) for inner in value]
    if not isinstance(value, Feed):
        return value
    image = results[value.node]
    return Mask(image, **value.mask) if is_mask and image is not None else image


def mask_of(node: Node, given: Mapping[str, Any]) -> Any:
    """What a node was given for a mask, or None."""
    slots = pictures_of(node.action, node.step.task)
    return next((given[name] for name, slot in slots.items() if slot.role == "mask" and name in given), None)


def call_of(node: Node, arguments: Mapping[str, Any], image: ImageRef | None) -> Call:
    """The checked call that a node makes of ``image``.

    Raises:
        InvalidRequest: everything that is wrong with it.
    """
    given = {name: value for name, value in arguments.items() if name not in ("fit", "variant", "model")}
    return prepare(
        node.tool,
        {**given, "image": image} if image is not None else given,
        fit=arguments.get("fit", "error"),
        variant=arguments.get("variant", 0),
        where=node.step.id,
    )


def pictures_for_task(node: Node, call: Call) -> dict[str, Any]:
    """The call's pictures under the names of its task, as references and masks: nothing is looked up again."""
    main = call.tool.image_field if node.image is not None else None
    named = {parameter.name for parameter in signatures.parameters(node.step.task)}
    found: dict[str, Any] = {}
    further: list[Any] = []
    for name, given in call.inputs.items():
        picture = given.mask if given.mask is not None else given.source
        if name == main:
            found["image" if "image" in named else name] = picture
        elif name in named:
            found[name] = picture
        else:
            further.append(picture)
    return found | ({"references": further} if further else {})


# -- what costs nothing -----------------------------------------------------------------------------------------------


def _digest(value: Any) -> Any:
    return [one.digest for one in value] if isinstance(value, (list, tuple)) else value.digest


def _key(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def operate(
    node: Node,
    given: Mapping[str, Any],
    image: ImageRef | None,
    store: Store,
    keep: bool = True,
    known: list[bool] | None = None,
) -> ImageRef:
    """The result of a local operation, from the store if it was worked out before.

    Args:
        keep: write the result into the store.
        known: gets an entry if the store had the result.

    Raises:
        InvalidImage: a picture cannot be worked on.
        InvalidRequest: a parameter is wrong.
        OSError: the store cannot be read or written.
    """
    action = node.action
    assert not isinstance(action, Tool)  # noqa: S101 - the caller knows
    slots = action.inputs
    main = next((name for name, slot in slots.items() if slot.main), None)
    pictures: dict[str, Any] = {}
    if main is not None and image is not None and not slots[main].many:
        pictures[main] = image
    for name in slots:
        if name in given:
            value = given[name]
            pictures[name] = [ImageRef.of(one) for one in value] if isinstance(value, list) else ImageRef.of(value)
    parameters = {name: value for name, value in given.items() if name not in slots}
    problems = action.check(parameters, where=node.step.id)
    if problems:
        raise InvalidRequest.of(problems)
    digests = {name: _digest(value) for name, value in pictures.items()}
    identity = dict(action.identity)
    key = _key({"operation": identity, "parameters": action.defaults(parameters), "pictures": digests})
    found = store.result(key)
    if found is not None:
        if known is not None:
            known.append(True)
        stored: ImageRef = found["image"]
        return replace(stored, name=_name(image, pictures))
    made = action.perform(parameters, pictures)
    for picture in (image, *pictures.values()):
        if isinstance(picture, ImageRef) and made.digest == picture.digest:
            return picture
    return _kept(store, key, made, {"operation": identity, "parameters": parameters}, keep=keep)


def _name(image: ImageRef | None, pictures: Mapping[str, Any]) -> str:
    first = image or next((p[0] if isinstance(p, list) else p for p in pictures.values()), None)
    return first.name if first is not None else ""


def _kept(store: Store, key: str, made: ImageRef, facts: Mapping[str, Any], *, keep: bool) -> ImageRef:
    if not keep:
        return made
    image = replace(store.put_image(made.read(), name=made.name), engine=made.engine)
    store.put_result(key, image, {**facts, "cost": 0})
    return image


def preserved(
    call: Call, before: ImageRef, after: ImageRef, store: Store, feather: float, keep: bool = True
) -> ImageRef:
    """``after`` where the tool was told to change something, ``before`` elsewhere, pixel for pixel.

    A result of another size cannot be put back and stays as it is.

    Raises:
        InvalidImage: a picture cannot be decoded.
        OSError: the store cannot be read or written.
    """
    mask = call.mask
    if mask is None or before.upright_size != after.upright_size:
        return after
    document = {"preserve": 1, "feather": feather, "grown": _growth(call), "mask": mask.identity}
    key = _key({**document, "pictures": [before.digest, after.digest]})
    found = store.result(key)
    if found is not None:
        stored: ImageRef = found["image"]
        return replace(stored, name=after.name, cost=after.cost, job_id=after.job_id)
    white = masks.match(_grown(call, mask), after.upright_size, resize=True)
    put = masks.composite(before.open(), after.open(), white, feather=feather)
    made = replace(encode(put, {"after": [after], "before": [before]}), engine=after.engine)
    return replace(_kept(store, key, made, document, keep=keep), cost=after.cost, job_id=after.job_id)


# -- what is seen -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Observed:
    """What is seen by looking at a result beside its input.

    Attributes:
        mask: the rendered mask, kept in the store for the report.
        drift: how far the result strayed outside the mask.
        unchanged: it has the very pixels of its input.
    """

    mask: dict[str, Any] | None = None
    drift: dict[str, float] | None = None
    unchanged: bool = False


def observe(store: Store, call: Call, before: ImageRef | None, after: ImageRef) -> Observed:
    """Look at a step's result beside its input; each is decoded once. Nothing is seen of what cannot be decoded."""
    if before is None:
        return Observed()
    try:
        original, edited = before.open(), after.open()
        same_size = original.size == edited.size
        unchanged = same_size and _difference(original, edited).getbbox() is None
        if call.mask is None:
            return Observed(unchanged=unchanged)
        picture = call.mask.picture
        kept = store.put_image(picture.read(), name=picture.name).to_dict()
        if not same_size:
            return Observed(kept)
        strayed = drift(original, edited, _grown(call, call.mask))
    except (FluxError, OSError):
        return Observed()
    figures = {"mean": round(strayed.mean, 4), "peak": strayed.peak, "changed": round(strayed.changed, 6)}
    return Observed(kept, figures, unchanged)


def sent_mask(call: Call) -> Image.Image | None:
    """The black and white mask as the tool was told to obey it, grown by what it was told to grow it."""
    return None if call.mask is None else _grown(call, call.mask)


def _grown(call: Call, mask: Input) -> Image.Image:
    return dilate(mask.picture.open(), _growth(call))


def _growth(call: Call) -> int:
    """Pixels that the tool was told to grow the mask by."""
    return int(call.tool.defaults(call.parameters).get("dilate_pixels", 0))


def _difference(one: Image.Image, other: Image.Image) -> Image.Image:
    return ImageChops.difference(one.convert("RGB"), other.convert("RGB"))
