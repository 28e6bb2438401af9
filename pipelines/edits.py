"""What the local operations do that change colours, types and masks, and the base of all of them.

One class an operation. Its fields are what is written in a recipe, so their descriptions, ranges and defaults are the
schema and the documentation. Pictures come upright, as L, LA, RGB or RGBA; masks as L of 0 and 255.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from PIL import Image, ImageChops, ImageColor
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from flux_tasks import images, masks
from flux_tasks.errors import InvalidImage, nearest
from flux_tasks.images import ImageRef

__all__ = [
    "AnyColor",
    "Box",
    "Colour",
    "Composite",
    "Convert",
    "Cutout",
    "Dilate",
    "Edit",
    "Flatten",
    "FromAlpha",
    "FromBoxes",
    "FromColor",
    "Invert",
    "Load",
    "OpaqueColor",
    "Others",
    "Size",
    "Union",
    "colour",
    "px",
]

Size: TypeAlias = tuple[int, int]
Colour: TypeAlias = tuple[int, int, int, int]
Others: TypeAlias = Mapping[str, Sequence[Image.Image]]

_HEX = re.compile(r"#([0-9a-fA-F]{3,4}|[0-9a-fA-F]{6}|[0-9a-fA-F]{8})")
_CANNOT = (("jpeg", "RGBA"), ("webp", "L"))


def colour(text: str) -> Colour:
    """Red, green, blue and alpha, 0–255.

    Raises:
        ValueError: it is no colour.
    """
    if _HEX.fullmatch(text) or text.lower() in ImageColor.colormap:
        red, green, blue, *alpha = ImageColor.getrgb(text)
        return red, green, blue, alpha[0] if alpha else 255
    if text.lower() == "transparent":
        return 0, 0, 0, 0
    hint = nearest(text.lower(), [*ImageColor.colormap, "transparent"])
    raise ValueError(f"is no colour{hint}: write a name such as white, or '#rrggbb', '#rrggbbaa'")


def _is_colour(text: str) -> str:
    colour(text)
    return text


def _is_opaque(text: str) -> str:
    if colour(text)[3] != 255:
        raise ValueError("is transparent: write an opaque colour, such as white or '#rrggbb'")
    return text


def _is_box(box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    if box[2] <= box[0] or box[3] <= box[1]:
        raise ValueError("is empty: write left, top, right, bottom; right and bottom are excluded")
    return box


Edge: TypeAlias = Annotated[int, Field(ge=-65_535, le=65_535)]
Box: TypeAlias = Annotated[tuple[Edge, Edge, Edge, Edge], Field(strict=False), AfterValidator(_is_box)]
AnyColor: TypeAlias = Annotated[str, AfterValidator(_is_colour)]
OpaqueColor: TypeAlias = Annotated[str, AfterValidator(_is_opaque)]


class Edit(BaseModel):
    """Base of the parameters of every operation."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    ways: ClassVar[tuple[tuple[str, ...], ...]] = ()
    """Groups of parameters of which exactly one is used."""
    profile_of: ClassVar[str] = "image"
    """The picture whose colour profile the result keeps."""

    @classmethod
    def clashes(cls, given: Mapping[str, Any]) -> dict[str, str]:
        """Parameters that contradict others, whatever their values, and why."""
        return {}

    def size(self, given: Size) -> Size:
        """The size of the result in pixels, by that of the main picture as people see it.

        Raises:
            InvalidImage: a picture of that size cannot be dealt with.
        """
        return given

    def keeps(self, main: ImageRef) -> bool | None:
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


# -- images -----------------------------------------------------------------------------------------------------------


class Convert(Edit):
    """Change the file type or the colours."""

    ways: ClassVar[tuple[tuple[str, ...], ...]] = (("format", "quality", "mode"),)

    format: Literal["png", "jpeg", "webp"] | None = Field(
        None,
        description="File type. By default the picture's own, or png where that is another or cannot hold the mode.",
    )
    quality: int | None = Field(None, ge=1, le=100, description="Of jpeg and webp; 95 by default.")
    mode: Literal["RGB", "RGBA", "L"] | None = Field(
        None, description="Colours, colours with alpha, or greys. Without alpha, what was transparent lies on white."
    )

    @classmethod
    def clashes(cls, given: Mapping[str, Any]) -> dict[str, str]:
        """PNG has no quality; JPEG holds no alpha, WebP no greys."""
        found = {}
        if "quality" in given and given.get("format", "png") == "png":
            found["quality"] = "is for jpeg and webp: write format: jpeg or format: webp, too, or leave it out"
        if (given.get("format"), given.get("mode")) in _CANNOT:
            found["mode"] = f"{given['format']} cannot hold {given['mode']}: write format: png, or another mode"
        return found

    def keeps(self, main: ImageRef) -> bool | None:
        """Whether it has the type and the mode already, and no quality is asked for."""
        header = images.inspect(main.read())
        own = header.media_type == f"image/{self._format(main)}" and self.quality is None
        return (
            own
            and self.mode in (None, header.mode)
            and (self.mode is None or header.has_alpha == (self.mode == "RGBA"))
        )

    def _format(self, main: ImageRef) -> str:
        own = main.media_type.removeprefix("image/")
        return self.format or (own if own in ("jpeg", "webp") and (own, self.mode) not in _CANNOT else "png")

    def encoding(self, image: Image.Image, main: ImageRef) -> tuple[Image.Image, str, dict[str, Any]]:
        """In the mode and the type that are asked for."""
        kind = self._format(main)
        mode = self.mode or (image.mode.removesuffix("A") if kind == "jpeg" else image.mode)
        if not mode.endswith("A"):
            image = _flat(image, (255, 255, 255))
        lossy = {"quality": self.quality or 95} | ({"subsampling": 0} if kind == "jpeg" else {})
        return image.convert(mode), kind.upper(), {} if kind == "png" else lossy


class Load(Edit):
    """Take another picture from a file, to work on it here or to give it to a tool."""

    def keeps(self, main: ImageRef) -> bool | None:
        """Its bytes stay as they are."""
        return True


class Cutout(Edit):
    """Make transparent what the mask leaves black, and keep what it paints white."""

    feather: float = Field(
        0.0, ge=0, le=500, description="Pixels over which the edge of the mask is softened, inwards only."
    )

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """RGBA, or LA of greys; what was transparent before stays so."""
        [mask] = others["mask"]
        if mask.size != image.size:
            raise InvalidImage(f"the mask is {px(mask.size)} but the image is {px(image.size)}: resize one first")
        weight = masks.softened(mask, self.feather)
        clear = image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
        clear.putalpha(ImageChops.darker(clear.getchannel("A"), weight))
        return clear


class Flatten(Edit):
    """Put the picture on a colour, so that nothing of it is transparent."""

    color: OpaqueColor = Field("white", description="An opaque name or '#rrggbb'.")

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """L or RGB; a grey picture on a grey stays grey."""
        return _flat(image, colour(self.color)[:3])


class Composite(Edit):
    """Put the picture on another one: where the mask is white, or else where the picture is not transparent.

    What is transparent in the picture shows the other one within the mask, too. Outside, the other one's pixels stay
    exactly as they are. The result has the colour profile of the one below.
    """

    profile_of: ClassVar[str] = "over"

    feather: float = Field(
        0.0, ge=0, le=500, description="Pixels over which the edge of the mask is softened, inwards only."
    )

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """RGB, or RGBA if the one below has alpha; greys if both are grey."""
        below, mask = others["over"][0], others["mask"][0] if "mask" in others else None
        for name, picture in (("the one below it", below), ("the mask", mask)):
            if picture is not None and picture.size != image.size:
                raise InvalidImage(
                    f"the picture is {px(image.size)} but {name} is {px(picture.size)}: resize one first"
                )
        clear = image.mode in ("LA", "RGBA")
        if mask is None and not clear:
            raise InvalidImage("the picture on top is opaque and would hide the other: give a mask of where it shows")
        grey = {image.mode, below.mode} <= {"L", "LA"}
        mode = "RGBA" if below.mode.endswith("A") else "RGB"
        top = Image.alpha_composite(below.convert("RGBA"), image.convert("RGBA")) if clear else image
        if mask is None and self.feather:
            mask = image.getchannel("A").point([0] + [255] * 255)
        made = top.convert(mode) if mask is None else masks.composite(below, top, mask, feather=self.feather)
        return made.convert(mode.replace("RGB", "L")) if grey else made


# -- masks ------------------------------------------------------------------------------------------------------------


class FromAlpha(Edit):
    """Make a mask of what is transparent."""

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """White where the picture is more than half transparent."""
        return masks.from_alpha(image)


class FromBoxes(Edit):
    """Make a mask of rectangles."""

    boxes: Annotated[tuple[Box, ...], Field(strict=False, min_length=1)] = Field(
        description="Rectangles: left, top, right, bottom in pixels; right and bottom excluded."
    )

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """White in the boxes."""
        return masks.from_boxes(image.size, self.boxes)


class FromColor(Edit):
    """Make a mask of what has a colour."""

    color: OpaqueColor = Field(description="An opaque name or '#rrggbb'.")
    tolerance: int = Field(0, ge=0, le=255, description="How far each of red, green and blue may be off.")

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """White where the colour is; what is more than half transparent has no colour."""
        mask = Image.new("L", image.size, 255)
        for band, wanted in zip(image.convert("RGB").split(), colour(self.color), strict=False):
            near = band.point([255 if abs(value - wanted) <= self.tolerance else 0 for value in range(256)])
            mask = ImageChops.darker(mask, near)
        if image.mode.endswith("A"):
            mask = ImageChops.darker(mask, masks.binarise(image.getchannel("A")))
        return mask


class Union(Edit):
    """Put masks together."""

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """White where any mask is white."""
        for mask in others["masks"]:
            if mask.size != image.size:
                raise InvalidImage(f"masks of {px(image.size)} and {px(mask.size)} have no union: resize one first")
            image = ImageChops.lighter(image, mask)
        return image


class Dilate(Edit):
    """Grow the white of a mask, or shrink it."""

    pixels: int = Field(ge=-500, le=500, description="To grow by in every direction; below 0, to shrink by.")

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """A square neighbourhood, as ``masks.dilate``."""
        return masks.dilate(image, self.pixels)


class Invert(Edit):
    """Swap black and white."""

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """The other way round."""
        return masks.invert(image)


# -- pixels -----------------------------------------------------------------------------------------------------------


def px(size: Size) -> str:
    """``640×480 px``."""
    return f"{size[0]}×{size[1]} px"


def _flat(image: Image.Image, colour: Sequence[int]) -> Image.Image:
    """``image`` without alpha, on ``colour``."""
    if not image.mode.endswith("A"):
        return image
    below = Image.new("RGBA", image.size, (*colour, 255))
    flat = Image.alpha_composite(below, image.convert("RGBA")).convert("RGB")
    return flat.convert("L") if image.mode == "LA" and len(set(colour)) == 1 else flat
