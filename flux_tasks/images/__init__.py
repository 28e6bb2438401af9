"""Images as values: references, encoding, masks, canvases, downloads."""

from __future__ import annotations

from flux_tasks.images.encoding import Header, decode, encode_png, inspect, is_complete
from flux_tasks.images.pixels import eight_bit
from flux_tasks.images.reference import ImageLike, ImageRef

__all__ = ["Header", "ImageLike", "ImageRef", "decode", "eight_bit", "encode_png", "inspect", "is_complete"]
