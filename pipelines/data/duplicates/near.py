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

    Looks that differ in n bits differ in at most n // 4 bits in one of their four bands of 16: only those are compared
    that have such a band. Of 100,000 looks, that is some hundred for 8 bits.

    Args:
        most: bits that may differ; few, such as up to 12.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._looks: list[Look] = []
        self._bands: list[defaultdict[int, list[int]]] = [defaultdict(list) for _ in range(_BANDS)]
        counts = range(most // _BANDS + 1)
        places = (chosen for count in counts for chosen in combinations(range(_WIDTH), count))
        self._changes = [sum(1 << place for place in chosen) for chosen in places]

    def add(self, look: Look) -> None:
        """Add a look; its number is how many there were before."""
        for bands, band in zip(self._bands, _bands_of(look.bits), strict=True):
            bands[band].append(len(self._looks))
        self._looks.append(look)

    def find(self, look: Look) -> int | None:
        """Return the number of the nearest look, the first of several; None if none is near enough."""
        numbers = {
            number
            for bands, band in zip(self._bands, _bands_of(look.bits), strict=True)
            for change in self._changes
            if band ^ change in bands
            for number in bands[band ^ change]
        }
        distance, nearest = min(((look.distance(self._looks[n]), n) for n in numbers), default=(64, -1))
        return nearest if distance <= self._most else None


def _bands_of(bits: int) -> list[int]:
    return [bits >> _WIDTH * band & (1 << _WIDTH) - 1 for band in range(_BANDS)]
