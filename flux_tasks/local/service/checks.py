"""The checks that a request must pass before it becomes a job.

Their order is the service's, as far as it was observed with invalid keys, and a guess beyond that: key → body →
pictures and parameters together. ``jobs`` checks credits and active jobs after that. A body that breaks the schema is
answered with a list of ``{loc, msg, type}``, any later problem with one sentence (OAS-0919, SEED-0, SEED-1).
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx
from pydantic import ValidationError

from flux_tasks.catalog import Tool
from flux_tasks.catalog.fields import CALLER_FIELDS
from flux_tasks.catalog.rules import MAX_INPUT_BYTES, MAX_INPUT_PIXELS, PIXELS_PER_MP
from flux_tasks.errors import DeliveryFailed, InvalidImage
from flux_tasks.images.canvas import Canvas, parse_aspect_ratio
from flux_tasks.images.download import download
from flux_tasks.images.encoding import MAX_PIXELS, Header, inspect, is_complete
from flux_tasks.local.engines import Work, offsets
from flux_tasks.local.service.charges import STAND_IN_PRICE

HEAVY = 65_536
"""Bytes of a body above which it is read on a thread."""

STRICT_DILATION = 25
"""Pixels of ``dilate_pixels`` that OAS-0919 allows; SEED-1 says 100."""

_LONGEST_SIDE = {"png": 2**31 - 1, "jpeg": 65_535, "webp": 16_383}
_RATIOS = (9 / 21, 21 / 9)  # aspect_ratio, 9:21 to 21:9 (OAS-0919)


class Refused(Exception):
    """The request is answered with an error status; nothing is created or charged."""

    def __init__(self, status: int, detail: str | list[dict[str, Any]]) -> None:
        self.status = status
        self.detail = detail
        super().__init__(f"{status}: {detail}")


def violation(kind: str, message: str, *place: str | int) -> Refused:
    """Return a schema error with one entry, worded as by the service's framework."""
    return Refused(422, [{"type": kind, "loc": list(place), "msg": message}])


def check_key(given: str | None, key: str | None) -> None:
    """Refuse a key that is not ``key``; without ``key``, accept any, and none.

    The form of a key is not known (some name a UUID, others ``bfl_…``); only what no key can be is called malformed.

    Raises:
        Refused: 422 for a malformed key, 403 for a missing or wrong one (observed at the service in 2026).
    """
    if key is None:
        return
    if given and (len(given) > 256 or not given.isascii() or not given.isprintable() or " " in given):
        raise Refused(422, "Invalid API key format")
    if not given or not hmac.compare_digest(given.encode(), key.encode()):
        raise Refused(403, "Not authenticated")


@dataclass(frozen=True, slots=True)
class Body:
    """A body that satisfies the schema: every field of the request model, and its ``body_key``."""

    values: dict[str, Any]
    key: str


def parse(raw: bytes, media_type: str = "") -> dict[str, Any]:
    """Return the JSON object in ``raw``, or refuse it with 422, as FastAPI does, which the service is built with."""
    if not raw:
        raise violation("missing", "Field required", "body")
    message = "Input should be a valid dictionary or object to extract fields from"
    is_no_object = violation("model_attributes_type", message, "body")
    kind = media_type.partition(";")[0].strip().lower()
    if kind and not re.fullmatch(r"application/(.*\+)?json", kind):
        raise is_no_object
    try:
        body = json.loads(raw)
    except json.JSONDecodeError as error:
        raise violation("json_invalid", f"JSON decode error: {error.msg}", "body", error.pos) from None
    except (ValueError, RecursionError) as error:  # not UTF-8, a number of 5,000 digits, 100,000 brackets
        raise violation("json_invalid", f"JSON decode error: {type(error).__name__}", "body", 0) from None
    if not isinstance(body, dict):
        raise is_no_object
    return body


def examine(tool: Tool, raw: bytes, media_type: str = "", *, strict: bool = False) -> Body:
    """Check ``raw`` against the tool's request model, leniently: only strict tools refuse unknown fields.

    With ``strict``, OAS-0919 alone holds: no field and no limit of a seed document alone, ``dilate_pixels`` up to 25.

    Raises:
        Refused: 422 with all violations.
    """
    body = parse(raw, media_type)
    accepted = {} if strict else tool.accepts
    renamed = {known: seed for seed, known in accepted.items() if seed in body and known not in body}
    left_out = {*(tool.seed_fields if strict else ()), *(renamed.values() if tool.strict else ())}
    fields = {**tool.service_defaults, **body, **{known: body[seed] for known, seed in renamed.items()}}
    fields = {name: value for name, value in fields.items() if name not in left_out}
    try:
        model = tool.request.model_validate(fields, extra="forbid" if tool.strict else "ignore")
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        written = [["body", *(renamed.get(str(part), part) for part in e["loc"])] for e in found]
        entries = [{"type": e["type"], "loc": loc, "msg": e["msg"]} for e, loc in zip(found, written, strict=True)]
        raise Refused(422, entries) from None
    if strict and getattr(model, "dilate_pixels", 0) > STRICT_DILATION:
        message = f"Input should be less than or equal to {STRICT_DILATION}"
        raise violation("less_than_equal", message, "body", "dilate_pixels")
    limit = tool.prompt_limit
    if limit is not None and limit.is_refused and not strict and limit.exceeded_by(getattr(model, "prompt", "")):
        raise violation("string_too_long", f"String should have at most {limit.most} characters", "body", "prompt")
    try:
        key = body_key(body)
    except RecursionError:  # nested almost too deeply to be read
        raise violation("json_invalid", "JSON decode error: RecursionError", "body", 0) from None
    return Body(model.model_dump(), key)


def body_key(body: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a request body as canonical JSON, without the caller's fields."""
    job = {name: value for name, value in body.items() if name not in CALLER_FIELDS}
    return hashlib.sha256(json.dumps(job, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Picture:
    """An image of the request: its bytes, undecoded, and its header."""

    data: bytes
    header: Header

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as people see it."""
        width, height = self.header.width, self.header.height
        return (height, width) if self.header.orientation in (5, 6, 7, 8) else (width, height)


async def pictures(tool: Tool, values: Mapping[str, Any], client: httpx.AsyncClient) -> dict[str, Picture]:
    """Return every image of the request, in its order. Base64 and addresses are accepted in every image field.

    Raises:
        Refused: 422: not base64, not an image, too large, or an address that cannot be read.
    """
    found: dict[str, Picture] = {}
    texts: dict[str, str] = {}
    for name, mark in tool.image_fields.items():
        given = values.get(name)
        if given is not None and mark.most == 1:
            texts[name] = given
        elif given is not None:
            texts |= {f"{name}.{n}": text for n, text in enumerate([given] if isinstance(given, str) else given)}
    for name, text in texts.items():
        if text[:8].lower().startswith(("http://", "https://")):
            try:
                async with asyncio.timeout(60):
                    data = await download(text, client=client, limit=MAX_INPUT_BYTES)
            except (DeliveryFailed, TimeoutError) as error:
                raise Refused(422, f"{name}: could not fetch the image URL ({str(error) or 'too slow'})") from None
            found[name] = _picture(name, data)
        elif len(text) > HEAVY:
            found[name] = await asyncio.to_thread(_from_base64, name, text)
        else:
            found[name] = _from_base64(name, text)
    return found


def _from_base64(name: str, text: str) -> Picture:
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    if len(text) * 3 // 4 > MAX_INPUT_BYTES + 1_000_000:  # 1 MB for line breaks
        raise Refused(422, f"{name}: the image is larger than 20 MB")
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(422, f"{name}: neither valid base64 nor an http(s) URL") from None
    return _picture(name, data)


def _picture(name: str, data: bytes) -> Picture:
    if len(data) > MAX_INPUT_BYTES:
        raise Refused(422, f"{name}: the image is larger than 20 MB")
    try:
        header = inspect(data)
    except InvalidImage as error:
        raise Refused(422, f"{name}: {error}") from None
    if not is_complete(data):
        raise Refused(422, f"{name}: the image is cut short")
    if header.width * header.height > MAX_INPUT_PIXELS:
        raise Refused(422, f"{name}: the image is larger than 20 MP")
    return Picture(data, header)


@dataclass(frozen=True, slots=True)
class Order:
    """A request that passed every check: the work and its price.

    Attributes:
        cost: credits; ``STAND_IN_PRICE`` where the price is unknown.
        input_mp, output_mp: megapixels of the pictures (masks left out) and of the result.
    """

    work: Work
    key: str
    cost: float
    input_mp: float
    output_mp: float

    @property
    def output_format(self) -> str:
        """png, jpeg or webp."""
        return str(self.work.parameters.get("output_format") or self.work.tool.output_format)


def order(tool: Tool, body: Body, given: Mapping[str, Picture]) -> Order:
    """Return what the request asks for, once parameters and pictures are checked together.

    Raises:
        Refused: 422 with one sentence (SEED-0, SEED-1, SEED-4, DOCS-OUT).
    """
    parameters = {n: v for n, v in body.values.items() if n not in (*tool.image_fields, *CALLER_FIELDS)}
    main = given.get(tool.main_slot) or next(iter(given.values()), None)
    _check_sizes(tool, given)
    _check_mask(tool, given)
    size = result_size(tool, parameters, main.size if main else None)
    area = tool.sizes.max_area if "width" in parameters and tool.sizes.max_area else MAX_PIXELS
    if size[0] * size[1] > area:
        raise Refused(422, f"the result of {size[0]}x{size[1]} px would exceed the maximum area of {area} px")
    if "reference_offset_x" in parameters and main is not None:
        _check_overhang(parameters, size, main.size)
    longest = _LONGEST_SIDE[str(parameters.get("output_format") or tool.output_format)]
    if max(size) > longest:
        raise Refused(422, f"a side of {max(size)} px is more than the output format can hold ({longest})")
    sent = [picture.size for name, picture in given.items() if tool.image_slots[name].role != "mask"]
    *inputs, output = (width * height / PIXELS_PER_MP for width, height in (*sent, size))
    price = tool.price_for(parameters).estimate(output, inputs)
    seed = parameters.get("seed")
    work = Work(
        tool=tool,
        parameters=parameters,
        pictures={name: picture.data for name, picture in given.items()},
        size=size,
        seed=(int(body.key, 16) if seed is None else seed) % 2**31,
    )
    return Order(work, body.key, STAND_IN_PRICE if price is None else price, round(sum(inputs), 2), round(output, 2))


def _check_sizes(tool: Tool, given: Mapping[str, Picture]) -> None:
    rule = tool.sizes
    for name, picture in given.items():
        width, height = picture.size
        if tool.image_slots[name].role == "mask":
            continue
        if width * height > rule.max_input:
            raise Refused(422, f"{name}: {width}x{height} px exceeds the maximum image area of {rule.max_input} px")
        if min(width, height) < rule.min_side:
            raise Refused(422, f"{name}: {width}x{height} px, but each side must have at least {rule.min_side} px")
        is_limited = tool.image_slots[name].role == "image" and not rule.reduces
        if is_limited and rule.max_area is not None and width * height > rule.max_area:
            raise Refused(422, f"{name}: {width}x{height} px exceeds the maximum image area of {rule.max_area} px")


def _check_mask(tool: Tool, given: Mapping[str, Picture]) -> None:
    if "mask" not in tool.image_fields:
        return
    image, mask = given[tool.main_slot], given.get("mask")
    if mask is None and not image.header.has_alpha:
        raise Refused(422, "mask is required: the image has no alpha channel")
    if mask is not None and mask.size != image.size:
        found, wanted = ("x".join(map(str, picture.size)) for picture in (mask, image))
        raise Refused(422, f"mask dimensions {found} do not match the image dimensions {wanted}")


def _check_overhang(parameters: Mapping[str, Any], size: tuple[int, int], picture: tuple[int, int]) -> None:
    left, top = offsets(parameters, picture)
    if Canvas(*size, left, top).overhangs(picture) and not parameters["auto_crop"]:
        placed = f"the image of {picture[0]}x{picture[1]} px at ({left}, {top})"
        raise Refused(422, f"{placed} does not fit the canvas of {size[0]}x{size[1]} px; set auto_crop to crop it")


def result_size(tool: Tool, parameters: Mapping[str, Any], picture: tuple[int, int] | None) -> tuple[int, int]:
    """Return (width, height) of the result, from the catalogue where it has a rule.

    Elsewhere from ``aspect_ratio``, or the first picture's shape, at the usual area: about 4 MP for ultra, 1 MP for the
    other tools, in multiples of 32 or of what the tool rounds to.

    Raises:
        Refused: 422: a ratio beyond 21:9.
    """
    rule = tool.sizes
    picture = picture and rule.reduced(picture)
    ratio = min(max(picture[0] / picture[1], _RATIOS[0]), _RATIOS[1]) if picture else 1.0
    if parameters.get("aspect_ratio") not in (None, "", "auto"):
        ratio = parse_aspect_ratio(parameters["aspect_ratio"]) or 0.0
        if not _RATIOS[0] - 1e-6 <= ratio <= _RATIOS[1] + 1e-6:
            raise Refused(422, "aspect_ratio must be between 21:9 and 9:21")
    known = tool.result_size(parameters, picture or ((1, 1) if tool.sizes.is_about else None))
    if known is not None:
        return known
    width, height = parameters.get("width"), parameters.get("height")
    area = 4 * PIXELS_PER_MP if "ultra" in tool.name else PIXELS_PER_MP
    grid = rule.multiple if rule.multiple > 1 else 32
    if width or height:  # one of the two: the other follows the shape of the picture, or makes 1 MP
        side = min(int(width or height or 0), MAX_PIXELS)  # more is refused, whatever the other is
        other = (side / ratio if width else side * ratio) if picture else area / side
        found = (side, other) if width else (other, side)
    else:
        found = ((area * ratio) ** 0.5, (area / ratio) ** 0.5)
    return max(grid * 2, round(found[0] / grid) * grid), max(grid * 2, round(found[1] / grid) * grid)
