"""Local steps: run an operation or a function, and keep its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image

from flux_tasks.catalog import Tool
from flux_tasks.errors import InvalidRequest
from flux_tasks.images import masks
from flux_tasks.images.masks import dilate
from flux_tasks.images.reference import ImageRef
from flux_tasks.jobs.call import Call, Input
from flux_tasks.store.records import Store
from pipelines.language.graph import Node
from pipelines.operations.pixels import encode

__all__ = ["grown", "growth", "operate", "preserved", "sent_mask"]


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
    main = next((name for name, slot in slots.items() if slot.is_primary), None)
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
    document = {"preserve": 1, "feather": feather, "grown": growth(call), "mask": mask.identity}
    key = _key({**document, "pictures": [before.digest, after.digest]})
    found = store.result(key)
    if found is not None:
        stored: ImageRef = found["image"]
        return replace(stored, name=after.name, cost=after.cost, job_id=after.job_id)
    white = masks.match(grown(call, mask), after.upright_size, resize=True)
    put = masks.composite(before.open(), after.open(), white, feather=feather)
    made = replace(encode(put, {"after": [after], "before": [before]}), engine=after.engine)
    return replace(_kept(store, key, made, document, keep=keep), cost=after.cost, job_id=after.job_id)


def sent_mask(call: Call) -> Image.Image | None:
    """The black and white mask as the tool was told to obey it, grown by what it was told to grow it."""
    return None if call.mask is None else grown(call, call.mask)


def grown(call: Call, mask: Input) -> Image.Image:
    return dilate(mask.picture.open(), growth(call))


def growth(call: Call) -> int:
    """Pixels that the tool was told to grow the mask by."""
    return int(call.tool.defaults(call.parameters).get("dilate_pixels", 0))
