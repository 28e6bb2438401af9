"""The arguments of a node: templates filled in, pictures put in their places, and the call that follows from them.

A template that cannot be filled in, and whatever is wrong with a call, raises InvalidRequest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel

from flux_tasks.catalog import Tool, signatures
from flux_tasks.images.masks import Mask
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call, check_content, prepare
from pipelines.data.formats.number import Number
from pipelines.language import templates
from pipelines.language.graph import Node, NodeRef
from pipelines.language.model import image_inputs, parameter_types

Results = Mapping[str, ImageRef | None]
"""The result of each node: a picture, or None where there is none."""


def context_of(node: Node, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the names that a node's templates know: the item's, the values that are varied, the step's variables."""
    own = templates.render(dict(node.step.vars), item, f"{node.id}.vars")
    varied = templates.render(dict(node.axes), {**item, **own}, node.id)
    return {**item, "variant": node.variant, **varied, **own}


def arguments_of(node: Node, context: Mapping[str, Any]) -> dict[str, Any]:
    """Return a node's parameters with templates filled in, without those that come out empty.

    References to other nodes' pictures stay as they are.
    """
    filled = {name: _render(value, context, f"{node.id}.{name}") for name, value in node.parameters.items()}
    types_of = {"variant": int, **parameter_types(node.action)}
    return {n: _typed(v, types_of.get(n)) for n, v in filled.items() if v is not None and v != ""}


def tries_of(node: Node, context: Mapping[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the arguments that change at each try: none at the first, then those of ``retry_with``."""
    retries = node.step.on_failure.retry_with if node.step.expect is not None else ()
    return ({}, *(arguments_of(replace(node, parameters=tried), context) for tried in retries))


def _render(value: Any, context: Mapping[str, Any], where: str) -> Any:
    if isinstance(value, NodeRef):
        return value
    if isinstance(value, list):
        return [_render(inner, context, f"{where}.{index}") for index, inner in enumerate(value)]
    return templates.render(value, context, where)


def _typed(value: Any, annotation: Any) -> Any:
    """Return a number of a table as a number where the parameter is one, and as text elsewhere.

    Where it takes whole numbers only, 42.0 is 42: so pandas writes a column of whole numbers in which one is missing.
    """
    if isinstance(value, list):
        return [_typed(inner, annotation) for inner in value]
    kinds = _members(annotation)
    if isinstance(value, Number):
        if str in kinds or not kinds & {int, float}:
            return str(value)
        value = value.value
    if isinstance(value, dict):
        models = (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel))
        fields = next((model.model_fields for model in models), {})
        return {name: _typed(one, fields[name].annotation) if name in fields else one for name, one in value.items()}
    if isinstance(value, float) and int in kinds and float not in kinds and value.is_integer():
        return int(value)
    return value


def _members(annotation: Any) -> set[Any]:
    """Return the types that an annotation consists of, in unions, lists and tuples too."""
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    if inner := get_args(annotation):
        return {kind for one in inner for kind in _members(one)}
    return {annotation}


def with_pictures(node: Node, arguments: Mapping[str, Any], results: Results) -> dict[str, Any] | None:
    """Return ``arguments`` with the pictures of other nodes in their places; None if a required one is missing."""
    slots = image_inputs(node.action, node.step.task)
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
    if not isinstance(value, NodeRef):
        return value
    image = results[value.node]
    return Mask(image, **value.mask) if is_mask and image is not None else image


def mask_of(node: Node, given: Mapping[str, Any]) -> Any:
    """Return a node's mask as it was given, or None."""
    slots = image_inputs(node.action, node.step.task)
    return next((given[name] for name, slot in slots.items() if slot.role == "mask" and name in given), None)


def call_of(node: Node, arguments: Mapping[str, Any], image: ImageRef | None) -> Call:
    """Return the checked call that a node makes of ``image``."""
    given = {name: value for name, value in arguments.items() if name not in ("fit", "variant", "model")}
    call = prepare(
        node.tool,
        {**given, "image": image} if image is not None else given,
        fit=arguments.get("fit", "error"),
        variant=arguments.get("variant", 0),
        where=node.step.id,
    )
    return check_content(call, node.step.id)


def pictures_for_task(node: Node, call: Call) -> dict[str, Any]:
    """Return a call's pictures by the parameters of its task, as references and masks: nothing is read again."""
    main = call.tool.main_slot if node.image is not None else None
    named = {parameter.name for parameter in signatures.parameters(node.step.task)}
    found: dict[str, Any] = {}
    further: list[Any] = []
    for slot, given in call.inputs.items():
        name, _, is_listed = slot.partition(".")
        picture = given.mask if given.mask is not None else given.source
        if slot == main:
            found["image" if "image" in named else name] = picture
        elif name in named:
            found[name] = [*found.get(name, ()), picture] if is_listed else picture
        else:
            further.append(picture)
    return found | ({"references": further} if further else {})
