"""What the parameters of operations have in common: colours, boxes, sizes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, TypeAlias

from PIL import Image, ImageColor
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flux_tasks.errors import nearest
from flux_tasks.images.reference import ImageRef

__all__ = [
    "HEX",
    "AnyColor",
    "Box",
    "Colour",
    "Edit",
    "OpaqueColor",
    "Others",
    "Size",
    "colour",
    "is_box",
    "is_colour",
    "is_opaque",
    "px",
]

Size: TypeAlias = tuple[int, int]
Colour: TypeAlias = tuple[int, int, int, int]
Others: TypeAlias = Mapping[str, Sequence[Image.Image]]

HEX = re.compile(r"#([0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})")


def colour(text: str) -> Colour:
    """Red, green, blue and alpha, 0–255.

    Raises:
        ValueError: it is no colour.
    """
    if HEX.fullmatch(text) or text.lower() in ImageColor.colormap:
        red, green, blue, *alpha = ImageColor.getrgb(text)
        return red, green, blue, alpha[0] if alpha else 255
    if text.lower() == "transparent":
        return 0, 0, 0, 0
    hint = nearest(text.lower(), [*ImageColor.colormap, "transparent"])
    raise ValueError(f"is no colour{hint}: write a name such as white, or '#rrggbb', '#rrggbbaa'")


def is_colour(text: str) -> str:
    colour(text)
    return text


def is_opaque(text: str) -> str:
    if colour(text)[3] != 255:
        raise ValueError("is transparent: write an opaque colour, such as white or '#rrggbb'")
    return text


def is_box(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError("is empty: write left, top, right, bottom; right and bottom are excluded")
    return box


Edge: TypeAlias = Annotated[int, Field(ge=-65_535, le=65_535)]
Box: TypeAlias = Annotated[tuple[Edge, Edge, Edge, Edge], Field(strict=False), AfterValidator(is_box)]
AnyColor: TypeAlias = Annotated[str, AfterValidator(is_colour)]
OpaqueColor: TypeAlias = Annotated[str, AfterValidator(is_opaque)]


class Edit(BaseModel):
    """Base of the parameters of every operation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    exclusive_groups: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of parameters of which exactly one is used."""
    profile_of: ClassVar[str] = "image"
    """The picture whose colour profile the result keeps."""

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> dict[str, str]:
        """Parameters that contradict others, whatever their values, and why."""
        return {}

    def size(self, given: Size) -> Size:
        """The size of the result in pixels, by that of the main picture as people see it.

        Raises:
            InvalidImage: a picture of that size cannot be dealt with.
        """
        return given

    def is_unchanged(self, main: ImageRef) -> bool | None:
        """Whether an image's own bytes are the result, as far as its header tells; None: compare the pixels."""
        return None

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """The result; ``image`` is the main picture and ``others`` the further ones, by slot.

        Raises:
            InvalidImage: it cannot be done to these pictures.
        """
        return image

    def encoding(self, image: Image.Image, main: ImageRef) -> tuple[Image.Image, str, dict[str, Any]]:
        """The picture as it is written, Pillow's name of the file type, and its options."""
        return image, "PNG", {}


# -- pixels -----------------------------------------------------------------------------------------------------------


def px(size: Size) -> str:
    """``640×480 px``."""
    return f"{size[0]}×{size[1]} px"
