"""Find a look that differs in few bits, without comparing all of them."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations

from pipelines.data.duplicates.look import Look

__all__ = ["Nearest"]

_BANDS = 4
_WIDTH = 64 // _BANDS


class Nearest:
    """Looks, of which the nearest one is found.

    Bits are cut into four bands of 16, and each band has a share of the n bits that may differ; all shares are n - 3.
    If looks differed in more than its share in every band, they would differ in n + 1 bits. So only those are compared
    that are within its share in some band: of 100,000 looks, about 30 where 4 bits may differ, and 300 for 8.

    Args:
        most: bits that may differ; few, such as up to 12.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._looks: list[Look] = []
        self._bits: list[int] = []
        self._bands: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in range(_BANDS)]
        left = max(0, most + 1 - _BANDS)
        shares = [left // _BANDS + (band < left % _BANDS) for band in range(_BANDS)]
        self._changes = [_changes(share) for share in shares]

    def add(self, look: Look) -> None:
        """Add a look; its number is how many there were before."""
        for bands, band in zip(self._bands, _bands_of(look.bits), strict=True):
            bands[band].append(len(self._looks))
        self._looks.append(look)
        self._bits.append(look.bits)

    def find(self, look: Look) -> int | None:
        """Return the number of the nearest look, the first of several; None if none is near enough."""
        bits, known, most = look.bits, self._bits, self._most
        near = {
            number
            for bands, band, changes in zip(self._bands, _bands_of(bits), self._changes, strict=True)
            for change in changes
            if band ^ change in bands
            for number in bands[band ^ change]
            if (bits ^ known[number]).bit_count() <= most
        }
        distance, nearest = min(((look.distance(self._looks[n]), n) for n in near), default=(64, -1))
        return nearest if distance <= most else None


def _changes(count: int) -> list[int]:
    """Return what changes up to so many bits of a band."""
    places = (chosen for bits in range(count + 1) for chosen in combinations(range(_WIDTH), bits))
    return [sum(1 << place for place in chosen) for chosen in places]


def _bands_of(bits: int) -> list[int]:
    return [bits >> _WIDTH * band & (1 << _WIDTH) - 1 for band in range(_BANDS)]
