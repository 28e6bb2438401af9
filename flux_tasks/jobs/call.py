"""Check what a caller writes and make a call of it: all problems are found at once, before anything is spent.

A ``Call`` is cheap: headers are read and digests computed, but no pixel is decoded until the inputs are prepared for
sending. So a call that the store can answer never opens a picture.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import pybase64
from pydantic import ValidationError

from flux_tasks.catalog import Tool
from flux_tasks.catalog.boxes import with_boxes
from flux_tasks.catalog.fields import CALLER_FIELDS, MEDIA_TYPES
from flux_tasks.catalog.rules import MAX_INPUT_BYTES, PIXELS_PER_MP, Price
from flux_tasks.catalog.tool import NO_PROMPT
from flux_tasks.errors import InvalidImage, InvalidRequest, Problem, shown
from flux_tasks.images import masks
from flux_tasks.images.canvas import MAX_CANVAS, resolve_canvas, says_shape
from flux_tasks.images.encoding import LONGEST_SIDE, decode, encode_png, encode_within, is_complete
from flux_tasks.images.mask_reading import mask_reference
from flux_tasks.images.masks import Mask, mask_problems
from flux_tasks.images.pixels import scaled
from flux_tasks.images.reference import FIRST_ONLY, ImageRef, decoding
from flux_tasks.jobs.identity import Identity
from flux_tasks.units import is_blank, px_size

Fit = Literal["error", "downscale"]
"""What to do with a picture that a tool does not accept as it is: refuse it, or scale and convert it."""


@dataclass(frozen=True)
class Input:
    """One picture of a call, and what is done to it before it is sent.

    ``identity`` stands for its content in the job key. It is made of digests and of what is to be done, not of encoded
    bytes, so that it does not change with the version of an encoder.
    """

    source: ImageRef
    identity: str
    size: tuple[int, int]
    mask: Mask | None = None
    reencode: bool = False

    @property
    def bytes_at_most(self) -> int:
        """How many bytes are sent at most, as far as that is known without encoding anything."""
        pixels = self.size[0] * self.size[1]
        if self.mask is not None:
            return pixels // 8
        return min(3 * pixels, MAX_INPUT_BYTES) if self.reencode else self.source.size

    @cached_property
    def picture(self) -> ImageRef:
        """The picture as it is sent.

        Raises:
            InvalidImage: it cannot be decoded.
        """
        if self.mask is not None:
            return ImageRef.of(encode_png(self.mask.render(self.source, self.size)), name=f"{self.source.name} mask")
        if not self.reencode:
            return self.source
        with decoding(self.source):
            data = encode_within(scaled(self.source.open(), self.size), MAX_INPUT_BYTES)
        return replace(ImageRef.of(data, name=self.source.name), engine=self.source.engine)


@dataclass(frozen=True)
class Call:
    """A checked request of one tool.

    Attributes:
        parameters: what is sent besides images: what the caller set, and what follows from it (a canvas).
        inputs: pictures by their places in the request (``Tool.image_slots``).
        warnings: about what is allowed but may surprise.
        variant: asks for another result of the same request, for tools without a seed.
        notify: the caller's fields; sent, but not part of the key.
    """

    tool: Tool
    parameters: Mapping[str, Any]
    inputs: Mapping[str, Input]
    warnings: tuple[str, ...] = ()
    variant: int = 0
    notify: Mapping[str, Any] = field(default_factory=dict)

    def identity(self, engine: str) -> Identity:
        """Return what identifies the call when ``engine`` answers it."""
        if engine not in self._identities:
            images = {name: given.identity for name, given in self.inputs.items()}
            self._identities[engine] = Identity(self.tool, engine, self.parameters, images, self.variant)
        return self._identities[engine]

    @cached_property
    def _identities(self) -> dict[str, Identity]:
        """By engine: a run asks several times for each call, and a key takes a digest."""
        return {}

    def key(self, engine: str) -> str:
        """Return the job key."""
        return self.identity(engine).key

    def body(self, addresses: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the request body: base64 images without a data-URI prefix, and only the parameters that were set.

        Args:
            addresses: what is sent in place of the bytes of some pictures, by their places in the request.

        Raises:
            InvalidImage: a picture cannot be read or decoded.
        """
        images: dict[str, Any] = {}
        for slot, given in self.inputs.items():
            name, _, is_listed = slot.partition(".")
            address = (addresses or {}).get(slot)
            text = address or pybase64.b64encode_as_string(given.picture.read())
            images[name] = [*images.get(name, ()), text] if is_listed else text
        return {**images, **self.parameters, **self.notify}

    @property
    def body_bytes(self) -> int:
        """About how many bytes its body takes in memory while it is sent: base64, once as text and once as JSON."""
        return sum(given.bytes_at_most * 8 // 3 for given in self.inputs.values())

    @property
    def result_bytes(self) -> int:
        """About how many bytes its result takes in memory while it is fetched, at two bytes a pixel, twice."""
        width, height = self.output_size or (self.main.upright_size if self.main else (1024, 1024))
        return 4 * width * height

    @property
    def main(self) -> ImageRef | None:
        """The picture that is edited, if there is one."""
        found = self.inputs.get(self.tool.main_slot)
        return found.source if found else None

    @property
    def mask(self) -> Input | None:
        """The mask, if the tool takes one and was given one."""
        return next((given for given in self.inputs.values() if given.mask is not None), None)

    @property
    def name(self) -> str:
        """What messages call it: the picture's name, or the beginning of the prompt."""
        return self.main.name if self.main else str(self.parameters.get("prompt", ""))[:40]

    def is_noop(self) -> bool:
        """Check whether the result would be the input, so that no call is to be paid for.

        That is so if the mask has no white pixel, or if the canvas is the input itself.
        """
        if self.mask is not None:
            return masks.is_empty(self.mask.picture.open())
        edited = self.inputs.get(self.tool.main_slot)
        if not self.tool.has_canvas or edited is None or edited.reencode:
            return False
        offsets = (self.parameters.get("reference_offset_x") or 0, self.parameters.get("reference_offset_y") or 0)
        canvas = (self.parameters.get("width"), self.parameters.get("height"))
        return canvas == edited.size and offsets == (0, 0)

    @property
    def output_size(self) -> tuple[int, int] | None:
        """(width, height) of the result, where it is known beforehand."""
        found = self.inputs.get(self.tool.main_slot)
        return self.tool.result_size(self.parameters, found.size if found else None)

    @property
    def price(self) -> Price:
        """The row of the price table that holds for the call."""
        return self.tool.price_for(self.parameters)

    def estimate(self) -> float | None:
        """Return the credits that the job is expected to cost; None where the price is unknown."""
        width, height = self.output_size or (1024, 1024)
        inputs = [i.size[0] * i.size[1] / PIXELS_PER_MP for i in self.inputs.values() if i.mask is None]
        return self.price.estimate(width * height / PIXELS_PER_MP, inputs)


def check_content(call: Call, where: str) -> Call:
    """Return ``call``, unless neither a prompt nor a picture says what to make.

    The contract allows that for some models, so ``prepare`` does, too; whoever is about to pay hardly means it.

    Raises:
        InvalidRequest: the prompt is blank, and there is no picture.
    """
    if (
        call.tool.needs_prompt == "without a picture"
        and not call.inputs
        and is_blank(call.parameters.get("prompt") or "")
    ):
        raise InvalidRequest.of([Problem(f"{where}.prompt", NO_PROMPT)])
    return call


def prepare(
    tool: Tool, parameters: Mapping[str, Any], *, fit: Fit = "error", variant: int = 0, where: str = ""
) -> Call:
    """Check everything about a call and return it, ready to be sent.

    Args:
        parameters: images under their field names (``image`` also means the tool's main picture, ``references`` a
            list of further ones) and everything else that the tool takes; None means that an image is not given.
        fit: ``downscale`` scales a picture that is too large, and converts one whose type is not accepted.
        where: prefix of each problem's path.

    Raises:
        InvalidRequest: with all problems of parameters and images.
    """
    where = where or tool.task
    given = dict(parameters)
    pictures, problems = _pictures(tool, given, where)
    if fit not in ("error", "downscale"):
        problems.append(Problem(f"{where}.fit", f"{shown(fit)} is not one of error, downscale"))
    if isinstance(variant, bool) or not isinstance(variant, int):
        problems.append(Problem(f"{where}.variant", f"{shown(variant)} is not a whole number"))
    derived = {"width": 64, "height": 64} if tool.has_canvas and says_shape(given) else {}
    if tool.has_canvas and not derived and "width" not in given and "height" not in given:
        problems.append(Problem(where, "has no canvas: write aspect_ratio, expand, or width and height"))
        derived = {"width": 64, "height": 64}
    problems += tool.check({**derived, **given}, where=where)
    inputs: dict[str, Input] = {}
    warnings: list[str] = []
    for name, source in sorted(pictures.items(), key=lambda given: isinstance(given[1], Mask)):  # masks need the others
        try:
            if not isinstance(source, Mask):
                inputs[name] = _fitted(tool, source, fit, edited=name == tool.main_slot)
            elif tool.main_slot in inputs:
                inputs[name] = _mask_input(source, inputs[tool.main_slot])
        except InvalidImage as error:
            problems.append(Problem(f"{where}.{name}", str(error)))
    main = inputs.get(tool.main_slot)
    if not problems and "mask" in tool.image_fields and "mask" not in inputs and main and not main.source.has_alpha:
        what = "is required: the image has no alpha channel that could mark what to change"
        problems.append(Problem(f"{where}.mask", what))
    if tool.has_canvas and not problems and main is not None:
        try:
            given, size, snapped = resolve_canvas(given, main.size, may_shrink=fit == "downscale", where=where)
            warnings += snapped
            if size != main.size:
                inputs[tool.main_slot] = _reencoded(main.source, size)
        except InvalidRequest as error:
            problems += error.problems
    if tool.takes_boxes and not problems and given.get("boxes"):
        given["prompt"], found = _prompt_with_boxes(tool, given, inputs)
        problems += [replace(problem, where=f"{where}.boxes.{problem.where}") for problem in found]
    if problems:
        raise InvalidRequest.of(problems)
    notify = {n: v for n, v in given.items() if n in CALLER_FIELDS}
    wire = {n: v for n, v in given.items() if n in tool.request.model_fields and n not in notify}
    wire = {n: v for n, v in wire.items() if v is not None or n not in ("width", "height")}  # null is refused
    wire = {**wire, **{n: tool.request.model_fields[n].default for n in tool.service_defaults if n not in wire}}
    warnings += tool.remarks(wire)
    for name, given_picture in inputs.items():
        warnings += _remarks(tool, given_picture, is_edited=name == tool.main_slot)
    return Call(tool, wire, inputs, tuple(warnings), variant=variant, notify=notify)


def _pictures(tool: Tool, given: dict[str, Any], where: str) -> tuple[dict[str, Mask | ImageRef], list[Problem]]:
    """Take the images out of ``given``; an image that is missing or cannot be read becomes a problem."""
    problems: list[Problem] = []
    fields = tool.image_fields
    for name, mark in fields.items():
        if mark.most > 1 and name in given:
            listed = given.pop(name)
            listed = listed if isinstance(listed, (list, tuple)) else [] if listed is None else [listed]
            if len(listed) > mark.most:
                problems.append(
                    Problem(f"{where}.{name}", f"{len(listed)} pictures, but {tool.name} takes {mark.most}")
                )
            given.update({f"{name}.{n}": one for n, one in enumerate(listed[: mark.most])})
    if "image" in given and "image" not in fields and tool.main_slot:
        given[tool.main_slot] = given.pop("image")
    slots = tool.image_slots
    references = [n for n, mark in slots.items() if mark.role == "reference" and n not in given]
    if "references" in given and references:
        listed = given.pop("references")
        if not isinstance(listed, (list, tuple)):  # of an array nobody can ask whether it is empty
            listed = [] if listed is None or (isinstance(listed, str) and not listed) else [listed]
        if len(listed) > len(references):
            what = f"{len(listed)} pictures, but {tool.name} takes {len(references)} more"
            problems.append(Problem(f"{where}.references", what))
        given.update(zip(references, listed, strict=False))
    pictures: dict[str, Mask | ImageRef] = {}
    for name, mark in slots.items():
        source = given.pop(name, None)
        try:
            if source is not None:
                pictures[name] = Mask.of(source) if mark.role == "mask" else ImageRef.of(source)
            elif name in fields and tool.request.model_fields[name].is_required():
                problems.append(Problem(f"{where}.{name}", "is required: give a path, a URL, bytes or an image"))
        except InvalidImage as error:
            problems.append(Problem(f"{where}.{name}", str(error)))
        except ValidationError as error:
            problems += mask_problems(error, f"{where}.{name}")
    return pictures, problems


def _prompt_with_boxes(tool: Tool, given: Mapping[str, Any], inputs: Mapping[str, Input]) -> tuple[str, list[Problem]]:
    """Return the prompt with the rows of the boxes, and what is wrong with these."""
    sizes = [found.source.upright_size for found in inputs.values()]
    is_reshaped = bool(sizes) and given.get("aspect_ratio") not in (None, "auto")
    frame = None if sizes else tool.result_size(given, None)
    return with_boxes(given["prompt"], given["boxes"], sizes, frame, is_reshaped=is_reshaped)


def _fitted(tool: Tool, source: ImageRef, fit: Fit, *, edited: bool) -> Input:
    """Return ``source`` as the tool accepts it.

    Raises:
        InvalidImage: the tool does not accept it, and ``fit`` does not allow to change it.
    """
    if not source.job_id and not is_complete(data := source.read()):
        decode(data)  # only a decoder knows whether a file without an end mark is damaged
    width, height = size = source.upright_size
    rule = tool.sizes
    if min(size) < rule.min_side:
        raise InvalidImage(f"{px_size(size)}: {tool.name} takes at least {rule.min_side} px a side")
    reencode = source.orientation != 1  # turned upright: no document says whether the service obeys EXIF
    area = rule.max_area if edited and not rule.reduces else None
    area = min(area or rule.max_input, rule.max_input)
    remedy = "scale it down, or allow it (fit: downscale)"
    if width * height > area:
        if fit == "error":
            what = f"{px_size(size)} = {width * height:,} px, more than the {area:,} px {tool.name} takes"
            raise InvalidImage(f"{what}: {remedy}")
        scale = math.sqrt(area / (width * height))
        size = (max(1, int(width * scale)), max(1, int(height * scale)))
        reencode = True
    if source.media_type not in MEDIA_TYPES.values():
        if fit == "error":
            what = f"{source.media_type} is not accepted by the service (png, jpeg, webp are)"
            raise InvalidImage(f"{what}: convert it, or allow it (fit: downscale)")
        reencode = True
    smaller = _within_canvas(size)
    if source.size > MAX_INPUT_BYTES and size == (width, height):
        size, reencode = smaller if fit == "downscale" else size, True
    if not reencode:  # another file type for the same pixels is no other picture
        is_converted = fit == "downscale" and bool(tool.sure_types) and source.media_type not in tool.sure_types
        return Input(source, source.digest, size, reencode=is_converted)
    found = _reencoded(source, size)
    if (length := _excess(found)) == 0:
        return found
    if fit == "error":
        raise InvalidImage(f"{length:,} bytes as PNG, more than the 20 MB the service takes: {remedy}")
    return _reencoded(source, smaller)


def _within_canvas(size: tuple[int, int]) -> tuple[int, int]:
    """Return ``size``, reduced to the area of the largest canvas: no PNG of that is too long."""
    scale = min(1.0, math.sqrt(MAX_CANVAS / (size[0] * size[1])))
    return max(1, int(size[0] * scale)), max(1, int(size[1] * scale))


def _excess(found: Input) -> int:
    """Return how many bytes a picture has as it is sent, if these are too many; else 0.

    Only one with alpha can have that many, or one too long for a JPEG: no other is decoded.
    """
    width, height = found.size
    is_short = width * height * 4 < MAX_INPUT_BYTES or (not found.source.has_alpha and max(found.size) <= LONGEST_SIDE)
    if is_short or found.source.job_id:
        return 0
    return found.picture.size if found.picture.size > MAX_INPUT_BYTES else 0


def _reencoded(source: ImageRef, size: tuple[int, int]) -> Input:
    identity = f"{source.digest}:png:{size[0]}x{size[1]}"
    if source.media_type == "image/tiff" and source.header.mode in ("I", "F"):
        identity += ":range"  # up to September 2026 such a picture was sent white or black
    return Input(source, identity, size, reencode=True)


def _remarks(tool: Tool, given: Input, *, is_edited: bool) -> list[str]:
    """Return warnings about a picture that the tool accepts, or about a mask."""
    if given.mask is not None:
        source = given.mask.file
        if source is None:
            return []
        what = [FIRST_ONLY] if source.known is not None and source.known.is_sequence else []
        if not masks.has_shape_of(source.upright_size, given.source.upright_size):
            shapes = f"{px_size(source.upright_size)} to {px_size(given.source.upright_size)}"
            what.append(f"the mask is stretched from {shapes}, another shape: look whether it lies right")
        return [f"{source.name}: {remark}" for remark in what]
    found = tool.sizes.remarks(given.size, is_edited=is_edited)
    if tool.sure_types and given.source.media_type not in tool.sure_types and not given.reencode:
        known = " and ".join(kind.removeprefix("image/") for kind in tool.sure_types)
        found.append(f"{given.source.media_type}: a document names {known} only (fit: downscale converts it)")
    source = given.source
    if source.size > MAX_INPUT_BYTES and given.size == source.upright_size:
        found.append(f"{source.size:,} bytes, more than 20 MB: sent as PNG if that is shorter, else as JPEG")
    if not source.job_id and source.header.is_sequence:
        found.append(FIRST_ONLY)
    return [f"{source.name}: {remark}" for remark in found]


def _mask_input(mask: Mask, main: Input) -> Input:
    """Return ``mask`` for the picture ``main``; sizes are compared by headers, nothing is decoded."""
    described: dict[str, Any] = mask.model_dump(exclude={"file"}, exclude_defaults=True)
    if mask.file is not None:
        source = mask_reference(mask.file)
        masks.check_fit(source, main.source, resize=mask.resize)
        described["file"] = source.digest
        mask = mask.model_copy(update={"file": source})
    elif mask.boxes is not None:
        masks.from_boxes(main.source.upright_size, mask.boxes)
    elif mask.alpha and not main.source.has_alpha:
        raise InvalidImage(
            "the mask is to come from the alpha channel, but the picture has none: give a mask file, or boxes"
        )
    described["size"] = list(main.size)
    if mask.alpha:
        described["of"] = main.source.digest
    identity = "mask:" + json.dumps(described, sort_keys=True, separators=(",", ":"))
    return Input(main.source, identity, main.size, mask=mask)
