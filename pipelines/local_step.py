"""Steps that cost nothing: what a runner needs of one, and how its pictures come in and go out.

Two kinds there are: the operations of ``ops``, and a user's own function (``functions``).
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, TypeAlias

from PIL import Image

from flux_tasks import images
from flux_tasks.errors import InvalidImage, InvalidRequest, Problem, nearest
from flux_tasks.images import ImageRef

__all__ = [
    "Gives",
    "LocalStep",
    "Pictures",
    "Slot",
    "choose",
    "encode",
    "plain",
    "said",
    "same_pixels",
    "untouched",
    "working",
]

Gives: TypeAlias = Literal["image", "mask"]
Pictures: TypeAlias = Mapping[str, "ImageRef | Sequence[ImageRef] | None"]

_SPACES = {"L": b"GRAY", "LA": b"GRAY", "RGB": b"RGB ", "RGBA": b"RGB "}


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for pictures among the inputs of a local step.

    Attributes:
        role: what it takes; ``any`` takes images and masks.
        required: the step does nothing without it.
        many: it takes several, at least ``least``.
        main: the picture that the step is about; the result has its name.
    """

    role: Literal["image", "mask", "any"]
    required: bool = True
    many: bool = False
    main: bool = False
    least: int = 1


class LocalStep(Protocol):
    """A step that costs nothing: an operation of ``ops``, or a user's function."""

    @property
    def gives(self) -> Literal["image", "mask", "same"]:
        """What it gives; ``same``: what its main picture is."""

    @property
    def inputs(self) -> Mapping[str, Slot]:
        """Its pictures by parameter; exactly one is the main one."""

    @property
    def identity(self) -> dict[str, str]:
        """What tells it from any other step, for the key of its results."""

    def on(self, role: Gives) -> LocalStep:
        """The step for a main picture that is an image or a mask; its ``gives`` is never ``same``."""

    def defaults(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """``parameters`` as they go into the key."""

    def check(self, parameters: Mapping[str, Any], *, where: str = "", partial: bool = False) -> list[Problem]:
        """Everything that is wrong with the parameters, pictures aside."""

    def output_size(self, parameters: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int] | None:
        """The size of the result in pixels by that of the main picture, where it is known beforehand."""

    def perform(self, parameters: Mapping[str, Any], pictures: Pictures) -> ImageRef:
        """The result, in memory."""


def choose(
    inputs: Mapping[str, Slot], pictures: Pictures, *, where: str, problems: Sequence[Problem] = ()
) -> dict[str, list[ImageRef]]:
    """The pictures that were given, by slot, the main one first; None counts as not given.

    Raises:
        InvalidRequest: one is missing, unknown or too many; ``problems`` are told with it.
    """
    found: dict[str, list[ImageRef]] = {}
    wrong = list(problems)
    for name in pictures:
        if name not in inputs:
            hint = nearest(str(name), inputs) or f"; it takes {', '.join(inputs)}"
            wrong.append(Problem(f"{where}.{name}", f"there is no such picture{hint}"))
    for name, slot in sorted(inputs.items(), key=lambda entry: not entry[1].main):
        value = pictures.get(name)
        given = [] if value is None else [value] if isinstance(value, ImageRef) else list(value)
        if any(not isinstance(picture, ImageRef) for picture in given):
            wrong.append(Problem(f"{where}.{name}", "is no ImageRef: make one with ImageRef.of(…)"))
        elif slot.required and not given:
            wrong.append(Problem(f"{where}.{name}", "is required: give it a picture"))
        elif slot.many and given and len(given) < slot.least:
            wrong.append(Problem(f"{where}.{name}", f"{len(given)} given: it takes {slot.least} pictures or more"))
        elif len(given) > 1 and not slot.many:
            wrong.append(Problem(f"{where}.{name}", f"{len(given)} pictures given: it takes one"))
        elif given:
            found[name] = given
    if wrong:
        raise InvalidRequest.of(wrong)
    return found


def working(picture: ImageRef) -> Image.Image:
    """The picture, upright, as L, LA, RGB or RGBA: 8 bits a channel, nothing turned white, its colour profile kept.

    Raises:
        InvalidImage: unreadable, damaged, or of a mode that nothing converts.
    """
    image = picture.open()
    clear = image.info.get("transparency")
    if image.mode == "L" and isinstance(clear, int) and images.inspect(picture.read()).mode.startswith("I;16"):
        image.info["transparency"] = round(clear / 257)  # it was said in 16 bits
    try:
        return plain(image)
    except Exception as error:  # a mode that Pillow reads and does not convert
        raise InvalidImage(f"{picture.uri or picture.name}: the mode {image.mode} is not converted: {error}") from None


def plain(image: Image.Image) -> Image.Image:
    """A copy as L, LA, RGB or RGBA, with its colour profile and nothing else in ``info``.

    Raises:
        ValueError: of a mode that Pillow does not convert.
    """
    profile = image.info.get("icc_profile")
    image = images.eight_bit(image)
    if image.mode in ("I", "F"):
        image = _by_range(image)
    grey, clear = image.mode in ("1", "L", "LA", "La"), image.has_transparency_data
    mode = ("LA" if clear else "L") if grey else ("RGBA" if clear else "RGB")
    plain = image.convert(mode) if image.mode != mode or "transparency" in image.info else image.copy()
    plain.info = {"icc_profile": profile} if isinstance(profile, bytes) else {}
    return plain


def _by_range(image: Image.Image) -> Image.Image:
    """Greys of 32 bits as ``L``. No file says their white, so it is the least of 1.0, 8 bits and 16 bits that fits."""
    highest = float(image.getextrema()[1])  # type: ignore[arg-type]
    white = next((top for top in ((1.0,) if image.mode == "F" else ()) + (255.0, 65535.0) if highest <= top), highest)
    scaled = image.point(lambda value: value * (255 / white) + 0.5).convert("L")
    scaled.info = {}
    return scaled


def same_pixels(one: Image.Image, other: Image.Image) -> bool:
    """Whether mode, size and every pixel are equal."""
    return one.mode == other.mode and one.size == other.size and one.tobytes() == other.tobytes()


def untouched(picture: ImageRef) -> ImageRef:
    """The picture's own bytes as a result: not paid for, in memory."""
    return replace(ImageRef.of(picture.read(), name=picture.name), engine=picture.engine)


def encode(
    image: Image.Image,
    sources: Mapping[str, list[ImageRef]],
    *,
    profile: bytes | None = None,
    kind: str = "PNG",
    **options: Any,
) -> ImageRef:
    """``image`` as a result that is made of ``sources``, of which the first is the main one.

    A preview mark of any source is kept. Of the metadata only ``profile`` is written, where it fits: a profile for
    RGB in RGB and RGBA, one for greys in L and LA.

    Raises:
        InvalidImage: the file type cannot hold it.
    """
    image = image.copy()
    image.info = {}
    if profile is not None and profile[16:20] == _SPACES.get(image.mode):
        image.info["icc_profile"] = options["icc_profile"] = profile
    given = [picture for pictures in sources.values() for picture in pictures]
    marked = next((picture.engine for picture in given if picture.is_preview), "")
    try:
        if kind == "PNG" and not marked:
            data = images.encode_png(image)
        else:
            marks = images.mark_preview(image, marked) if marked else {}
            fast = {"compress_level": 1, "compress_type": 3} if kind == "PNG" else {}
            buffer = io.BytesIO()
            image.save(buffer, kind, **fast, **options, **marks)
            data = buffer.getvalue()
    except Exception as error:  # too many pixels for the file type, or for the memory
        size = f"{image.width}×{image.height} px"
        raise InvalidImage(f"{given[0].name}: {size} cannot be written as {kind}: {said(error)}") from None
    return ImageRef.of(data, name=given[0].name)


def said(error: BaseException) -> str:
    """``ValueError: what it says``, of an error of any class."""
    try:
        text = str(error)
    except Exception:
        text = ""
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
