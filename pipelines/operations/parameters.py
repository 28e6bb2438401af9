"""What the parameters of operations have in common: their base class, colours and boxes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeAlias

from PIL import Image, ImageColor
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flux_tasks.errors import nearest
from flux_tasks.images.reference import ImageRef
from pipelines.operations.placement import Placement

__all__ = ["AnyColor", "Box", "Edit", "OpaqueColor", "Others", "Size", "canvas_for", "parse_colour"]

Size: TypeAlias = tuple[int, int]
Colour: TypeAlias = tuple[int, int, int, int]
Others: TypeAlias = Mapping[str, Sequence[Image.Image]]

_HEX = re.compile(r"#([0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})")


def parse_colour(text: str) -> Colour:
    """Return red, green, blue and alpha, 0–255.

    Raises:
        ValueError: it is not a colour.
    """
    if _HEX.fullmatch(text) or text.lower() in ImageColor.colormap:
        red, green, blue, *alpha = ImageColor.getrgb(text)
        return red, green, blue, alpha[0] if alpha else 255
    if text.lower() == "transparent":
        return 0, 0, 0, 0
    hint = nearest(text.lower(), [*ImageColor.colormap, "transparent"])
    raise ValueError(f"is not a colour{hint}: write a name such as white, or '#rrggbb', '#rrggbbaa'")


def canvas_for(mode: str, size: Size, color: str) -> Image.Image:
    """Return a picture of one colour for one of ``mode`` on it: with colours, or alpha, if either has them."""
    red, green, blue, alpha = parse_colour(color)
    grey = mode in ("L", "LA") and (red == green == blue or alpha == 0)
    clear = mode in ("LA", "RGBA") or alpha < 255
    fill = ((red,) if grey else (red, green, blue)) + ((alpha,) if clear else ())
    kind = ("LA" if clear else "L") if grey else ("RGBA" if clear else "RGB")
    return Image.new(kind, size, fill if len(fill) > 1 else fill[0])


def _check_colour(text: str) -> str:
    parse_colour(text)
    return text


def _check_opaque(text: str) -> str:
    if parse_colour(text)[3] != 255:
        raise ValueError("is transparent: write an opaque colour, such as white or '#rrggbb'")
    return text


def _check_box(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError("is empty: write left, top, right, bottom; right and bottom are excluded")
    return box


Edge: TypeAlias = Annotated[int, Field(ge=-65_535, le=65_535)]
Box: TypeAlias = Annotated[tuple[Edge, Edge, Edge, Edge], Field(strict=False), AfterValidator(_check_box)]
AnyColor: TypeAlias = Annotated[str, AfterValidator(_check_colour)]
OpaqueColor: TypeAlias = Annotated[str, AfterValidator(_check_opaque)]


class Edit(BaseModel):
    """Base of the parameters of every operation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    exclusive_groups: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of parameters; exactly one group is used."""
    profile_of: ClassVar[str] = "image"
    """The parameter of the picture whose colour profile the result keeps."""

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> dict[str, str]:
        """Return the parameters that contradict others, whatever their values, and why."""
        return {}

    def size(self, given: Size) -> Size:
        """Return the size of the result in pixels for a primary picture of the size ``given``, as people see it.

        Raises:
            InvalidImage: a picture of that size cannot be used.
        """
        return given

    def placement(self, given: Size) -> Placement:
        """Return where a primary picture of the size ``given`` lies on the result, for a size that can be used."""
        return Placement.scaled(given, self.size(given))

    def is_unchanged(self, main: ImageRef) -> bool | None:
        """Check whether the file itself is the result, as far as its header shows; None: compare the pixels."""
        return None

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return the result; ``image`` is the primary picture, ``others`` are the further ones, by parameter.

        Raises:
            InvalidImage: the operation cannot use these pictures.
        """
        return image

    def encoding(self, image: Image.Image, main: ImageRef) -> tuple[Image.Image, str, dict[str, Any]]:
        """Return the picture as it is written, Pillow's name of the file type, and its options."""
        return image, "PNG", {}
