"""Names that mean something in every recipe: of items, of facts of pictures, and those that are reserved."""

from __future__ import annotations

__all__ = ["IMAGE_FACTS", "ITEM_NAMES", "MASK_FACTS", "RESERVED", "SOURCE"]

IMAGE_FACTS = ("width", "height", "aspect", "megapixels", "has_alpha", "sharpness", "brightness", "entropy")
"""What is known of a picture; see ``Facts.of``."""

MASK_FACTS = ("exists", "coverage")
"""What is known of a mask, in conditions ``mask_exists``, ``mask_coverage`` and so on for each column."""

ITEM_NAMES = ("stem", "name", "path", "index")
"""What every item has: file name without and with extension, location, and its number from 0."""

_SYNTAX = ("and", "or", "not", "in", "is", "if", "elif", "else", "endif", "self")
_CONSTANTS = ("true", "false", "none", "True", "False", "None")

RESERVED = frozenset(
    (*ITEM_NAMES, *IMAGE_FACTS, "row", "vars", "env", *_SYNTAX, *_CONSTANTS, "variant", "before", "source")
)
"""Names that nothing else in a recipe can have. A table's column that has one is reached as ``row["width"]``."""

SOURCE = "source"
"""What ``from`` calls the item's own picture."""
