"""Operations that change colours, file types and transparency, or put pictures together.

There is one class for each operation. Its fields are what a recipe can contain: their descriptions, ranges and defaults
are the schema and the documentation. Pictures are upright, and L, LA, RGB or RGBA; masks are L with 0 and 255 only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from PIL import Image, ImageChops
from pydantic import Field

from flux_tasks.errors import InvalidImage
from flux_tasks.images import masks
from flux_tasks.images.pixels import flattened
from flux_tasks.images.reference import ImageRef
from flux_tasks.units import px_size
from pipelines.operations.parameters import Edit, OpaqueColor, Others, parse_colour

__all__ = ["Composite", "Convert", "Cutout", "Flatten", "Load"]
_CANNOT = (("jpeg", "RGBA"), ("webp", "L"))


class Convert(Edit):
    """Change the file type or the colours."""

    exclusive_groups: ClassVar[tuple[tuple[str, ...], ...]] = (("format", "quality", "mode"),)

    format: Literal["png", "jpeg", "webp"] | None = Field(
        None,
        description="File type. By default the picture's own; png if that is none of these or cannot hold the mode.",
    )
    quality: int | None = Field(None, ge=1, le=100, description="Of jpeg and webp; 95 by default.")
    mode: Literal["RGB", "RGBA", "L"] | None = Field(
        None, description="L: greys; RGB: colours; RGBA: colours with alpha. L and RGB put transparent parts on white."
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> dict[str, str]:
        """Return what PNG, JPEG and WebP cannot hold: a quality, alpha, greys."""
        found = {}
        if "quality" in given and given.get("format", "png") == "png":
            found["quality"] = "is for jpeg and webp: write format: jpeg or format: webp, too, or leave it out"
        if (given.get("format"), given.get("mode")) in _CANNOT:
            found["mode"] = f"{given['format']} cannot hold {given['mode']}: write format: png, or another mode"
        return found

    def is_unchanged(self, main: ImageRef) -> bool | None:
        """Check whether it has the type and the mode already, and no quality is given."""
        header = main.header
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
        """Return the picture in the mode, and the type that the parameters ask for."""
        kind = self._format(main)
        mode = self.mode or (image.mode.removesuffix("A") if kind == "jpeg" else image.mode)
        if not mode.endswith("A"):
            image = flattened(image)
        return image.convert(mode), kind.upper(), {"quality": self.quality} if self.quality else {}


class Load(Edit):
    """Take another picture from a file."""

    def is_unchanged(self, main: ImageRef) -> bool | None:
        """Return True: the file stays as it is."""
        return True


class Cutout(Edit):
    """Make transparent what the mask leaves black, and keep what it paints white."""

    feather: float = Field(
        0.0, ge=0, le=500, description="Pixels over which the edge of the mask is softened, inwards only."
    )

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return RGBA, or LA for greys; what was transparent stays transparent."""
        weight = masks.softened(others["mask"][0], self.feather)
        clear = image.convert("LA" if image.mode in ("L", "LA") else "RGBA")
        clear.putalpha(ImageChops.darker(clear.getchannel("A"), weight))
        return clear


class Flatten(Edit):
    """Put the picture on a colour, so that nothing of it is transparent."""

    color: OpaqueColor = Field("white", description="An opaque name or '#rrggbb'.")

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return L or RGB; a grey picture on a grey stays grey."""
        return flattened(image, parse_colour(self.color)[:3])


class Composite(Edit):
    """Put the picture on another one: where the mask is white or, without a mask, where the picture is not transparent.

    Where the picture is transparent, the other one shows within the mask, too. Outside the mask, the pixels of the
    other one do not change. The result has the colour profile of the one below.
    """

    profile_of: ClassVar[str] = "over"

    feather: float = Field(
        0.0, ge=0, le=500, description="Pixels over which the edge of the mask is softened, inwards only."
    )

    def apply(self, image: Image.Image, others: Others) -> Image.Image:
        """Return RGB, or RGBA if the one below has alpha; greys if both are grey."""
        below, mask = others["over"][0], others["mask"][0] if "mask" in others else None
        if below.size != image.size:
            sizes = f"the picture is {px_size(image.size)} but the one below it is {px_size(below.size)}"
            raise InvalidImage(f"{sizes}: resize one first")
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
