"""Names with a meaning in every recipe: of items, of facts of pictures, and reserved names."""

from collections.abc import Collection

IMAGE_FACTS = ("width", "height", "aspect", "megapixels", "has_alpha", "sharpness", "brightness", "entropy")
"""Facts of a picture; see ``Facts.of``."""

MASK_FACTS = ("exists", "coverage")
"""Facts of a mask: conditions know ``mask_exists``, ``mask_coverage``, and the same for each column."""

ITEM_NAMES = ("stem", "name", "path", "index")
"""What every item has: file name without and with extension, location, and number from 0."""

LABEL_NAMES = ("labels", "count")
"""What an item has whose source has annotations: the class of each of its labels, and how many are of a class."""

_WORDS = "row vars env variant before source and or not in is if elif else endif self true false none True False None"
RESERVED = frozenset((*ITEM_NAMES, *IMAGE_FACTS, *_WORDS.split()))
"""Names that no variable, column or matrix can have. A column of a table that has one is ``row["width"]``."""

SOURCE = "source"
"""The id of the item's own picture."""


def numbered(name: str, taken: Collection[str]) -> str:
    """Return ``name``, or ``name_2``, ``name_3`` … if that is taken."""
    found, number = name, 2
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    return found
