"""Work that costs nothing: operations, functions, and pixels that are put back; results are kept in the store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from flux_tasks.catalog import Tool
from flux_tasks.errors import InvalidRequest
from flux_tasks.images import masks
from flux_tasks.images.canvas import Canvas
from flux_tasks.images.fidelity.registration import NOTHING
from flux_tasks.images.fidelity.seams import Box, put_back
from flux_tasks.images.mask_reading import mask_reference
from flux_tasks.images.pixels import is_srgb
from flux_tasks.images.reference import FIRST_ONLY, ImageRef, decoding
from flux_tasks.jobs.call import Call, Input
from flux_tasks.store.records import Store
from pipelines.language.document.options import StepOptions
from pipelines.language.graph import Node
from pipelines.operations.pixels import encode
from pipelines.operations.registry import Operation


@dataclass(frozen=True, slots=True)
class LocalResult:
    """The result of a local operation.

    Attributes:
        from_store: the store had it, so that nothing was worked out.
        warnings: what the result lacks of its pictures.
    """

    image: ImageRef
    from_store: bool = False
    warnings: tuple[str, ...] = ()


def operate(
    node: Node, arguments: Mapping[str, Any], image: ImageRef | None, store: Store, *, write: bool = True
) -> LocalResult:
    """Return the result of a local operation, from the store if it was worked out before. Call it on a thread.

    Args:
        arguments: with pictures in their places, the main one aside.
        write: put the result into the store.
    """
    action = node.action
    assert not isinstance(action, Tool)  # noqa: S101 - the caller knows
    slots = action.inputs
    main = next((name for name, slot in slots.items() if slot.is_primary), None)
    pictures: dict[str, Any] = {}
    if main is not None and image is not None and not slots[main].many:
        pictures[main] = image
    for name in slots:
        if name in arguments:
            value = arguments[name]
            of = mask_reference if slots[name].role == "mask" else ImageRef.of
            pictures[name] = [of(one) for one in value] if isinstance(value, list) else of(value)
    parameters = {name: value for name, value in arguments.items() if name not in slots}
    problems = action.check(parameters, where=node.step.id)
    if problems:
        raise InvalidRequest.of(problems)
    digests = {name: _digest(value) for name, value in pictures.items()}
    opened: list[ImageRef] = []
    for value in pictures.values():
        opened += value if isinstance(value, list) else [value]
    # Results of steps have a warning of their own.
    warnings = tuple(f"{one.name}: {FIRST_ONLY}" for one in opened if one.known is not None and one.known.is_sequence)
    identity = dict(action.identity)

    def keys(identity: Mapping[str, str]) -> list[str]:
        given = (action.chosen(parameters), action.defaults(parameters))
        documents = ({"operation": identity, "parameters": one, "pictures": digests} for one in given)
        return list(dict.fromkeys(map(_key, documents)))

    def record(keys: Sequence[str]) -> dict[str, Any] | None:
        return next(filter(None, map(store.result, keys)), None)

    own = keys(identity)
    key, found = own[0], record(own)
    if found is None and isinstance(action, Operation) and "masks" in identity:
        old = record(keys({name: value for name, value in identity.items() if name != "masks"}))
        found = old if old is not None and action.reads_as_before(pictures) else None
        if found is not None and write:
            store.put_result(key, found["image"], {"operation": identity, "parameters": parameters, "cost": 0})
    if found is not None:
        stored: ImageRef = found["image"]
        return LocalResult(replace(stored, name=_name(image, pictures)), True, warnings)
    with decoding(*opened):
        made = action.perform(parameters, pictures)
    for picture in (image, *pictures.values()):
        if isinstance(picture, ImageRef) and made.digest == picture.digest:
            return LocalResult(picture)
    made = _stored(store, key, made, {"operation": identity, "parameters": parameters}) if write else made
    return LocalResult(made, warnings=warnings)


def _digest(value: Any) -> Any:
    return [one.digest for one in value] if isinstance(value, (list, tuple)) else value.digest


def _key(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _name(image: ImageRef | None, pictures: Mapping[str, Any]) -> str:
    first = image or next((p[0] if isinstance(p, list) else p for p in pictures.values()), None)
    return first.name if first is not None else ""


def _stored(store: Store, key: str, made: ImageRef, facts: Mapping[str, Any]) -> ImageRef:
    image = replace(store.put_image(made.read(), name=made.name), engine=made.engine)
    store.put_result(key, image, {**facts, "cost": 0})
    return image


@dataclass(frozen=True, slots=True)
class Restored:
    """A result with what a step says put right.

    Attributes:
        remarks: what was done, or why it was not.
        is_preserved: whether the untouched pixels are those of the input.
    """

    image: ImageRef
    remarks: tuple[str, ...] = ()
    is_preserved: bool = False


def restore(
    step: StepOptions, call: Call, before: ImageRef, after: ImageRef, store: Store, *, write: bool = True
) -> Restored:
    """Return ``after`` with its place, its colours and its untouched pixels put right, as far as the step says so.

    Call it on a thread.

    Args:
        before: the step's input as it was sent.
        write: put the results into the store.
    """
    image, remarks, is_preserved = after, [], False
    if step.align:
        image, remark = _aligned(call, before, image, store, write=write)
        remarks.append(remark)
    if step.match_colour and call.mask is not None:
        image, remark = _matched(call, before, image, store, write=write)
        remarks.append(remark)
    if step.preserve is not None and call.tool.has_canvas:
        image, remark = _put_back(call, before, image, store, step.preserve.feather, write=write)
        remarks.append(remark)
    elif step.preserve is not None and call.mask is not None:
        put = preserve(call, before, image, store, step.preserve.feather, write=write)
        is_preserved, image = put is not image, put
        if not is_preserved:
            remarks.append("the untouched pixels were not put back: the result has another size than its input")
    return Restored(image, tuple(filter(None, remarks)), is_preserved)


def _aligned(call: Call, before: ImageRef, after: ImageRef, store: Store, *, write: bool) -> tuple[ImageRef, str]:
    """Return a result moved back to where its input has the same content, and by how much it was moved."""
    from flux_tasks.images.fidelity.registration import moved_back, register

    def made() -> tuple[Image.Image | None, str]:
        original, edited = before.open(), after.open()
        found = register(original, edited, grown(call, call.mask) if call.mask is not None else None)
        if not found.is_known:
            return None, "not aligned: the result has too little in common with its input"
        if original.size == edited.size and found.distance(original.size) < NOTHING:
            return None, ""
        return moved_back(original, edited, found), f"aligned: it was {found}"

    return _changed({"align": 1, **_mask_of(call)}, before, after, store, made, write=write)


def _matched(call: Call, before: ImageRef, after: ImageRef, store: Store, *, write: bool) -> tuple[ImageRef, str]:
    """Return a result whose colours inside the mask fit the surroundings of the mask."""
    from flux_tasks.images.fidelity.colours import matched_colours

    if before.upright_size != after.upright_size:
        return after, "colours not matched: the result has another size than its input"

    def made() -> tuple[Image.Image | None, str]:
        assert call.mask is not None  # noqa: S101 - the caller has looked
        white = masks.match(grown(call, call.mask), after.upright_size, resize=True)
        found = matched_colours(before.open(), after.open(), white)
        return found, "" if found else "colours not matched: the mask has no surroundings"

    return _changed({"match_colour": 1, **_mask_of(call)}, before, after, store, made, write=write)


def _put_back(
    call: Call, before: ImageRef, after: ImageRef, store: Store, feather: float, *, write: bool
) -> tuple[ImageRef, str]:
    """Return the result of an outpaint with the pixels of its input put back where they lie."""
    kept = kept_of(call, after.upright_size)
    if kept is None:
        return after, "the pixels of the input were not put back: the result has another size than its canvas"

    def made() -> tuple[Image.Image | None, str]:
        original, sent = before.open(), (kept[2] - kept[0], kept[3] - kept[1])
        original = original.resize(sent, Image.Resampling.LANCZOS) if original.size != sent else original
        return put_back(original, after.open(), kept[:2], feather), ""

    return _changed({"preserve": 1, "feather": feather, "kept": kept}, before, after, store, made, write=write)


def canvas_of(call: Call) -> Canvas:
    """Return the canvas of an outpaint, in pixels, and where its input lies on it as it was sent."""
    sent, given = call.inputs[call.tool.main_slot].size, call.parameters
    width, height = given["width"], given["height"]
    left, top = given.get("reference_offset_x"), given.get("reference_offset_y")
    left = (width - sent[0]) // 2 if left is None else left
    return Canvas(width, height, left, (height - sent[1]) // 2 if top is None else top)


def kept_of(call: Call, size: tuple[int, int]) -> Box | None:
    """Return where the input of an outpaint lies on its result; None if that has not the size of the canvas.

    Returns:
        Left, top, right, bottom in pixels; it may reach beyond the canvas.
    """
    if not call.tool.has_canvas:
        return None
    canvas, sent = canvas_of(call), call.inputs[call.tool.main_slot].size
    box = (canvas.left, canvas.top, canvas.left + sent[0], canvas.top + sent[1])
    return box if size == (canvas.width, canvas.height) else None


def _mask_of(call: Call) -> dict[str, Any]:
    return {"grown": _growth(call), "mask": call.mask.identity} if call.mask is not None else {}


def _changed(
    document: Mapping[str, Any],
    before: ImageRef,
    after: ImageRef,
    store: Store,
    make: Callable[[], tuple[Image.Image | None, str]],
    *,
    write: bool,
) -> tuple[ImageRef, str]:
    """Return a result that was changed after it was made, and what is said of it; from the store if it is there."""
    key = _key({**document, "pictures": [before.digest, after.digest]})
    found = store.result(key)
    if found is not None:
        stored: ImageRef = found["image"]
        return replace(stored, name=after.name, cost=after.cost, job_id=after.job_id), str(found.get("remark", ""))
    with decoding(before, after):
        picture, remark = make()
        if picture is None:
            made = after
        else:
            encoded = encode(picture, {"after": [after], "before": [before]}, profile=before.profile)
            made = replace(encoded, engine=after.engine, name=after.name)
    if write:
        made = _stored(store, key, made, {**document, "remark": remark})
    return replace(made, name=after.name, cost=after.cost, job_id=after.job_id), remark


def preserve(
    call: Call, before: ImageRef, after: ImageRef, store: Store, feather: float, *, write: bool = True
) -> ImageRef:
    """Return ``after`` where the tool was asked to change something, and ``before`` elsewhere, pixel for pixel.

    A result of another size cannot be put back and stays as it is. Call it on a thread.

    Args:
        feather: softens the edge by so many pixels, inwards.
        write: put the result into the store.
    """
    mask = call.mask
    if mask is None or before.upright_size != after.upright_size:
        return after
    document = {"preserve": 1, "feather": feather, "grown": _growth(call), "mask": mask.identity}
    pictures = [before.digest, after.digest]
    key = former = _key({**document, "pictures": pictures})
    profile = before.profile
    if profile is not None:  # results up to September 2026 have none, which is as good as that of sRGB
        key = _key({**document, "pictures": pictures, "profile": "kept"})
        former = former if is_srgb(profile) else key
    found = store.result(key) or (store.result(former) if former != key else None)
    if found is not None:
        stored: ImageRef = found["image"]
        return replace(stored, name=after.name, cost=after.cost, job_id=after.job_id)
    with decoding(before, after):
        white = masks.match(grown(call, mask), after.upright_size, resize=True)
        original, edited = before.open(), after.open()
        put = masks.composite(original, edited, white, feather=feather)
        if profile is not None and {original.mode, edited.mode} <= {"L", "LA"}:
            put = put.convert("LA" if put.mode == "RGBA" else "L")  # a profile for greys fits greys only
        made = replace(encode(put, {"after": [after], "before": [before]}, profile=profile), engine=after.engine)
    kept = _stored(store, key, made, document) if write else made
    return replace(kept, cost=after.cost, job_id=after.job_id)


def grown(call: Call, mask: Input) -> Image.Image:
    """Return the black and white mask of a call, grown by as many pixels as the tool is asked to grow it."""
    return masks.dilate(mask.picture.open(), _growth(call))


def _growth(call: Call) -> int:
    return int(call.tool.defaults(call.parameters).get("dilate_pixels", 0))
