"""Where one picture lies on another: how coordinates move when a picture is scaled, cut, padded or turned."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self, TypeAlias

__all__ = ["Placement", "Point"]

Size: TypeAlias = tuple[int, int]
Point: TypeAlias = tuple[float, float]

_TURNS = {1: "xy", 2: "Xy", 3: "XY", 4: "xY", 5: "yx", 6: "Yx", 7: "YX", 8: "yX"}
"""By EXIF orientation, the stored coordinates that become x and y; a capital is measured from the far edge."""


@dataclass(frozen=True, slots=True)
class Placement:
    """An affine map of pixel coordinates: (x, y) moves to (ax + by + c, dx + ey + f), on a picture of ``size``.

    Pixels are squares: the left top corner of a picture is (0, 0), its right bottom corner is (width, height).
    """

    matrix: tuple[float, float, float, float, float, float]
    size: Size

    @classmethod
    def scaled(cls, given: Size, size: Size) -> Self:
        """Return the placement of a picture of the size ``given`` that is stretched to ``size``."""
        return cls((size[0] / given[0], 0.0, 0.0, 0.0, size[1] / given[1], 0.0), size)

    @classmethod
    def moved(cls, left: float, top: float, size: Size) -> Self:
        """Return the placement of a picture whose left top corner comes to (left, top) of one of ``size``."""
        return cls((1.0, 0.0, float(left), 0.0, 1.0, float(top)), size)

    @classmethod
    def upright(cls, orientation: int, stored: Size) -> Self:
        """Return the placement of a stored picture that is turned as its EXIF orientation, 1 to 8, says."""
        turns = _TURNS.get(orientation, "xy")
        rows = []
        for turn in turns:
            axis, is_far = "xy".index(turn.lower()), turn.isupper()
            sign = -1.0 if is_far else 1.0
            rows += [sign if axis == 0 else 0.0, sign if axis == 1 else 0.0, float(stored[axis]) if is_far else 0.0]
        a, b, c, d, e, f = rows
        return cls((a, b, c, d, e, f), stored if turns[0] in "xX" else (stored[1], stored[0]))

    @property
    def is_identity(self) -> bool:
        """Whether no coordinate changes; the picture may still be cut off or gain a border on the right or below."""
        return self.matrix == (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)

    @property
    def is_mirrored(self) -> bool:
        """Whether left and right change places."""
        a, b, _, d, e, _ = self.matrix
        return a * e < b * d

    @property
    def is_slanted(self) -> bool:
        """Whether sides of a rectangle do not stay upright and level."""
        a, b, _, d, e, _ = self.matrix
        return any((a, e)) and any((b, d))

    def of(self, point: Point) -> Point:
        """Return where a point comes to."""
        a, b, c, d, e, f = self.matrix
        x, y = point
        return a * x + b * y + c, d * x + e * y + f

    def then(self, other: Placement) -> Placement:
        """Return this placement followed by another one."""
        a, b, c, d, e, f = self.matrix
        k, m, n, p, q, r = other.matrix
        first = (k * a + m * d, k * b + m * e, k * c + m * f + n)
        return Placement((*first, p * a + q * d, p * b + q * e, p * c + q * f + r), other.size)

    def inverse(self, given: Size) -> Placement:
        """Return the placement that leads back to a picture of the size ``given``."""
        a, b, c, d, e, f = self.matrix
        area = a * e - b * d
        k, m, p, q = e / area, -b / area, -d / area, a / area
        return Placement((k, m, -(k * c + m * f), p, q, -(p * c + q * f)), given)
