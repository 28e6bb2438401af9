"""What a picture looks like, in 64 bits and a colour: of two that are nearly the same, both are nearly the same."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from flux_tasks.images.reference import ImageRef, decoding

__all__ = ["Look", "look_of"]

_SIDE = 32
_FLATTEST = 8
"""Levels of 256 between the darkest and the lightest part of a picture: with fewer, the bits are of its noise."""
_TINT = 24
"""Levels by which the mean colours of two pictures may differ: bits are of brightness, and know no colour."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a picture looks.

    Attributes:
        bits: its perceptual hash.
        colour: its mean red, green and blue, from 0 to 255.
    """

    bits: int
    colour: tuple[int, int, int]

    def distance(self, other: Look) -> int:
        """Return how many bits differ; 64 where the colours are others."""
        is_same_tint = all(abs(one - two) <= _TINT for one, two in zip(self.colour, other.colour, strict=True))
        return (self.bits ^ other.bits).bit_count() if is_same_tint else 64


def look_of(image: ImageRef) -> Look | None:
    """Return how a picture looks; None of one that is nearly of one brightness. Call it on a thread.

    The bits are ``imagehash.phash``: the signs of the lowest 8 x 8 frequencies of the picture at 32 x 32 pixels, so
    size, compression and brightness hardly change them. What is transparent counts as white.

    Raises:
        InvalidImage: it cannot be decoded.
    """
    import imagehash

    with decoding(image):
        picture = image.open()
        if picture.has_transparency_data:
            white = Image.new("RGBA", picture.size, "white")
            picture = Image.alpha_composite(white, picture.convert("RGBA"))
        picture = picture.convert("RGB")
        luma = picture.convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS).tobytes()
        if max(luma) - min(luma) < _FLATTEST:
            return None
        red, green, blue = picture.resize((1, 1), Image.Resampling.BOX).tobytes()
        return Look(int(str(imagehash.phash(picture)), 16), (red, green, blue))
