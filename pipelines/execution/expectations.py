"""Results beside what was expected of them: judged by a step's ``expect``, and looked at for the report."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageChops, ImageStat

from flux_tasks.errors import FluxError, InvalidRequest, quote
from flux_tasks.images import masks
from flux_tasks.images.canvas import GRID, parse_aspect_ratio
from flux_tasks.images.encoding import decode
from flux_tasks.images.fidelity.seams import Box, sides
from flux_tasks.images.png import first_rows
from flux_tasks.images.reference import ImageRef, decoding
from flux_tasks.jobs.call import Call
from flux_tasks.store.records import Store
from flux_tasks.units import px_size
from pipelines.execution.facts import Facts, naming
from pipelines.execution.local_steps import grown
from pipelines.language import templates
from pipelines.language.document.expect import BEFORE, Expect

_ASPECT_TOLERANCE = 0.01
_FIRST_ROWS = 16  # that are compared before whole pictures are
_SAME = {"is_unchanged": 1}  # figures of a comparison, and the most that each can be
_DRIFT = {"mean": 255, "peak": 255, "changed": 1}
_SAME_COLOUR = 20  # of 255: how far the mean colour of an edge may be from the solid side next to it
_SOLID_SPREAD = 10  # of 255: what a WebP of one colour varies by (measured, quality 50)


def judge(
    expect: Expect,
    facts: Facts,
    before: ImageRef | None,
    after: ImageRef,
    mask: Image.Image | None = None,
    kept: Box | None = None,
) -> list[str]:
    """Return what of ``expect`` does not hold, one sentence each; empty when all of it does.

    An expectation that cannot be judged, for want of ``before`` or ``mask``, does not hold. It decodes pictures, unless
    only sizes are asked for: call it on a thread.

    Args:
        before: the step's input as it was sent.
        after: the result.
        mask: black and white, as it was sent, grown by as many pixels as the tool was asked to grow it.
        kept: where the input of an outpaint lies on the result: left, top, right, bottom in px.
    """
    found = [*wrong_size(expect, before, after), *_changes_outside(expect, before, after, mask)]
    found += _moved(expect, before, after, mask)
    found += _missing_gain(expect, facts, before, after)
    if expect.solid is False and _is_solid(after):
        found.append("solid: the result is one single colour")
    elif expect.solid is False and kept is not None and _has_solid_side(after, kept):
        found.append("solid: a side that was added is one single colour")
    return [*found, *_false_condition(expect, facts, before, after)]


def wrong_size(expect: Expect, before: ImageRef | None, after: ImageRef) -> Iterator[str]:
    """Yield what is not as expected of the size of a result, as far as headers tell it."""
    width, height = size = after.upright_size
    if expect.size == "same":
        if before is None:
            yield "size: cannot be judged, because the step has no input picture"
        elif any(abs(a - b) >= GRID for a, b in zip(size, before.upright_size, strict=True)):
            yield f"size: {px_size(size)}, but the input has {px_size(before.upright_size)}"
    elif expect.size is not None and expect.size != size:
        yield f"size: {px_size(size)}, not {px_size(expect.size)}"
    if expect.min_side is not None and min(size) < expect.min_side:
        yield f"min_side: {px_size(size)}, below {expect.min_side} px"
    wanted = parse_aspect_ratio(expect.aspect) if expect.aspect is not None else None
    if wanted is not None and abs(width / max(1, height) / wanted - 1) > _ASPECT_TOLERANCE + 1e-9:
        yield f"aspect: {px_size(size)} is {width / max(1, height):.4g}:1, not {expect.aspect} ({wanted:.4g}:1)"


def _changes_outside(
    expect: Expect, before: ImageRef | None, after: ImageRef, mask: Image.Image | None
) -> Iterator[str]:
    limits = {n: v for n, v in (("drift", expect.drift), ("changed", expect.changed)) if v is not None}
    obstacle = _obstacle(before, after, mask)
    if not limits or obstacle or before is None or mask is None:
        yield from (f"{name}: cannot be judged, because {obstacle}" for name in limits)
        return
    with decoding(before, after):
        found = masks.drift(_converted(before, "RGB"), _converted(after, "RGB"), mask)
    for name, limit in limits.items():
        value = found.mean if name == "drift" else found.changed
        if value > limit:
            yield f"{name}: {_shorten(value, limit)}, above {limit:g}"


def _moved(expect: Expect, before: ImageRef | None, after: ImageRef, mask: Image.Image | None) -> Iterator[str]:
    if expect.shift is None:
        return
    if before is None:
        yield "shift: cannot be judged, because the step has no input picture"
        return
    from flux_tasks.images.fidelity.registration import register

    with decoding(before, after):
        found = register(_converted(before, "RGB"), _converted(after, "RGB"), mask)
    if not found.is_known:
        yield "shift: cannot be measured: the result has too little in common with its input"
    elif (distance := found.distance(before.upright_size)) > expect.shift:
        yield f"shift: {found}: {_shorten(distance, expect.shift)} px at most, above {expect.shift:g} px"


def _missing_gain(expect: Expect, facts: Facts, before: ImageRef | None, after: ImageRef) -> Iterator[str]:
    if expect.sharpness_gain is None:
        return
    if before is None:
        yield "sharpness_gain: cannot be judged, because the step has no input picture"
        return
    was, is_now = (float(facts.of(picture, ["sharpness"])["sharpness"]) for picture in (before, after))
    gain = is_now / was if was else math.inf if is_now else 1.0
    if gain < expect.sharpness_gain:
        yield f"sharpness_gain: {_shorten(gain, expect.sharpness_gain)}, below {expect.sharpness_gain:g}"


def _false_condition(expect: Expect, facts: Facts, before: ImageRef | None, after: ImageRef) -> Iterator[str]:
    if expect.condition is None:
        return
    if expect.facts_of_input and before is None:
        yield f"condition: {quote(expect.condition)} cannot be judged, because the step has no input picture"
        return
    known: dict[str, Any] = dict(facts.of(after, expect.facts_of_result))
    was = facts.of(before, expect.facts_of_input) if before is not None and expect.facts_of_input else {}
    try:
        holds = bool(templates.evaluate(expect.condition, {**known, BEFORE: was}, "condition"))
    except InvalidRequest as error:
        yield str(error)
        return
    if not holds:
        shown = {**known, **{f"{BEFORE}.{name}": value for name, value in was.items()}}
        values = ", ".join(f"{name} is {_format(value)}" for name, value in shown.items())
        yield f"condition: {quote(expect.condition)} is not true{f': {values}' if values else ''}"


def _obstacle(before: ImageRef | None, after: ImageRef, mask: Image.Image | None) -> str:
    """Return why a result cannot be compared with its input outside a mask, or an empty text."""
    if before is None:
        return "the step has no input picture"
    if mask is None:
        return "the step has no mask"
    if before.upright_size != after.upright_size:
        return f"the result has {px_size(after.upright_size)} and the input {px_size(before.upright_size)}"
    if mask.size != after.upright_size:
        return f"the mask has {px_size(mask.size)} and the result {px_size(after.upright_size)}"
    return ""


def _converted(image: ImageRef, mode: str) -> Image.Image:
    with naming(image):
        return image.open().convert(mode)


def _is_solid(image: ImageRef) -> bool:
    """Check whether people see one single colour; colours under transparency are not seen."""
    with decoding(image):
        picture = _converted(image, "RGBA")
        flat = Image.new("RGBA", picture.size, "black")
        flat.alpha_composite(picture)
        spreads = [*flat.convert("RGB").getextrema(), picture.getchannel("A").getextrema()]
    return all(high - low <= _SOLID_SPREAD for low, high in spreads)


def _has_solid_side(image: ImageRef, kept: Box) -> bool:
    """Check whether a side that an outpaint has added is one single colour, other than that of the edge next to it.

    A picture on a plain background may go on in its colour.
    """
    with decoding(image):
        picture = _converted(image, "RGB")
    for part, edge in sides(picture.size, kept):
        spans = [band.getextrema() for band in picture.crop(part).split()]
        near = ImageStat.Stat(picture.crop(edge)).mean
        is_solid = all(high - low <= _SOLID_SPREAD for low, high in spans)  # type: ignore[operator]
        if is_solid and any(
            abs(mean - (low + high) / 2) > _SAME_COLOUR  # type: ignore[operator]
            for (low, high), mean in zip(spans, near, strict=True)
        ):
            return True
    return False


def _shorten(value: float, limit: float) -> str:
    """Return ``value`` in as few digits as show on which side of ``limit`` it is."""
    rounded = (f"{value:.{digits}g}" for digits in range(2, 18))
    return next((text for text in rounded if (float(text) < limit) == (value < limit) and float(text) != limit), "")


def _format(value: float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else f"{value:.5g}"


@dataclass(frozen=True, slots=True)
class Observed:
    """What a result shows beside its input.

    Attributes:
        mask: as it was sent, written into the store for the report.
        drift: from its input outside the mask: ``mean`` and ``peak`` of 255, ``changed`` as a share of the pixels.
        is_unchanged: whether it has the very pixels of its input.
    """

    mask: dict[str, Any] | None = None
    drift: dict[str, float] | None = None
    is_unchanged: bool = False


def observe(store: Store, facts: Facts, call: Call, before: ImageRef | None, after: ImageRef) -> Observed:
    """Return what a result shows beside its input; nothing where one cannot be decoded. Call it on a thread.

    The figures are kept with ``facts``: no run compares two pictures again.
    """
    if before is None:
        return Observed()
    name = hashlib.sha256(f"observed:{call.key('')}:{before.digest}:{after.digest}".encode()).hexdigest()
    try:
        if call.mask is None:
            figures = facts.numbers(name, _SAME, lambda: {"is_unchanged": int(_have_same_pixels(before, after))})
            return Observed(is_unchanged=bool(figures["is_unchanged"]))
        given, picture = call.mask, call.mask.picture
        mask = store.put_image(picture.read(), name=picture.name).to_dict()
        if before.upright_size != after.upright_size:
            return Observed(mask)
        drift = dict(facts.numbers(name, _SAME | _DRIFT, lambda: _comparison(before, after, grown(call, given))))
    except (FluxError, OSError):
        return Observed()
    is_unchanged = bool(drift.pop("is_unchanged"))
    return Observed(mask, {**drift, "peak": int(drift["peak"])}, is_unchanged)


def _comparison(before: ImageRef, after: ImageRef, mask: Image.Image) -> dict[str, float]:
    with decoding(before, after):
        original, edited = before.open(), after.open()
        is_unchanged = _are_equal(original, edited)
        found = masks.drift(original, edited, mask)
    figures = {"mean": round(found.mean, 4), "peak": found.peak, "changed": round(found.changed, 6)}
    return {**figures, "is_unchanged": int(is_unchanged)}


def _have_same_pixels(before: ImageRef, after: ImageRef) -> bool:
    """Check whether two pictures have the same pixels; decode them only as far as they are equal."""
    if before.digest == after.digest:
        return True
    if before.upright_size != after.upright_size:
        return False
    if before.orientation == after.orientation == 1:
        one, other = (first_rows(image.read(), _FIRST_ROWS) for image in (before, after))
        if one is not None and other is not None and not _are_equal(decode(one), decode(other)):
            return False
    with decoding(before, after):
        return _are_equal(before.open(), after.open())


def _are_equal(one: Image.Image, other: Image.Image) -> bool:
    mode = "RGBA" if one.has_transparency_data or other.has_transparency_data else "RGB"
    return ImageChops.difference(one.convert(mode), other.convert(mode)).getbbox(alpha_only=False) is None
