"""Facts of pictures and masks, for conditions and expectations: measured when asked for, once for each content.

Sizes come from the reference, ``has_alpha`` from the file's header. What needs a decode is kept in the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any
from weakref import WeakValueDictionary

from PIL import Image, ImageFilter

from flux_tasks import files
from flux_tasks.errors import FluxError, InvalidImage, InvalidRequest, Problem, nearest
from flux_tasks.images import masks
from flux_tasks.images.encoding import inspect
from flux_tasks.images.mask_reading import mask_reference
from flux_tasks.images.masks import Mask
from flux_tasks.images.reference import ImageRef, decoding
from flux_tasks.store.records import Store
from pipelines.language.names import IMAGE_FACTS

_KIND = "facts"
_VERSION = 1  # of how the numbers are measured: records of another version are ignored
_IN_MEMORY = 10_000  # contents whose numbers are kept in memory, about 0.5 KB each
_STEEPEST = 4 * 255  # the largest value of the Laplacian of 8 bits
_BAND = 256  # rows filtered at a time: little memory, and other threads run in between

_PIXEL_FACTS = {"sharpness": _STEEPEST**2, "brightness": 255, "entropy": 8}  # and the most that each can be
_COVERAGE = {"coverage": 1}


class Facts:
    """Facts of pictures and masks. Any number of threads may use it; each content is decoded once.

    A record that is damaged, or cannot be read or written, is no error: the numbers are measured again.

    Args:
        store: where numbers are kept from run to run (``facts/<digest>.json``); None keeps them in memory only.
        write: False writes nothing into it, as a plan must.
    """

    def __init__(self, store: Store | None, *, write: bool = True) -> None:
        self._store = store
        self._write = write
        self._lock = threading.Lock()
        self._known: dict[str, Mapping[str, float]] = {}
        self._turns: WeakValueDictionary[str, threading.Lock] = WeakValueDictionary()

    def of(self, image: ImageRef, names: Iterable[str]) -> dict[str, float | bool]:
        """Return the facts called ``names`` of ``image``. It may read and decode: call it on a thread.

        ========== =====================================================================================
        width      px, as people see the picture (EXIF orientation applied)
        height     px, likewise
        aspect     width over height
        megapixels of 1,048,576 px
        has_alpha  whether it has transparency, as its header says
        sharpness  variance of the Laplacian of the luma (8 bits), the same figure as OpenCV's
                   ``cv2.Laplacian(gray, CV_64F).var()``. Noise raises it as detail does, and it falls when
                   a picture is scaled up: compare it only among pictures of one kind and size.
        brightness mean luma, 0–255
        entropy    Shannon entropy of the luma's histogram in bits, 0–8
        ========== =====================================================================================

        Pixels that are more than half transparent are left out of brightness and entropy, and with the pixels beside
        them of sharpness: nobody sees their colours, and a cut-out's edge is no detail. A picture with nothing visible
        has 0 for all three.

        Raises:
            InvalidImage: it cannot be read or decoded, and a fact needs that.
            InvalidRequest: there is no such fact.
            ServerUnavailable: the place where its bytes are kept fails, and has been tried several times.
        """
        wanted = tuple(names)
        unknown = [name for name in wanted if name not in IMAGE_FACTS]
        if unknown:
            known, what = f"; known: {', '.join(IMAGE_FACTS)}", "is no fact of a picture"
            raise InvalidRequest.of([Problem(n, what + (nearest(n, IMAGE_FACTS) or known)) for n in unknown])
        width, height = image.upright_size
        found: dict[str, float | bool] = {
            "width": width,
            "height": height,
            "aspect": width / height if height else 0.0,
            "megapixels": image.megapixels,
        }
        if "has_alpha" in wanted:
            found["has_alpha"] = _has_alpha(image)
        if not _PIXEL_FACTS.keys().isdisjoint(wanted):
            found |= self.numbers(image.digest, _PIXEL_FACTS, lambda: _pixel_facts(image))
        return {name: found[name] for name in wanted}

    def coverage(self, mask: Mask, image: ImageRef) -> float:
        """Return the white share of ``mask`` as rendered for ``image``, 0 to 1. Call it on a thread."""
        described = mask.model_dump(exclude={"file"}, exclude_defaults=True)
        described["size"] = image.upright_size
        if mask.file is not None:
            source = mask_reference(mask.file)
            mask = mask.model_copy(update={"file": source})
            described["file"] = source.digest
        elif mask.alpha:
            described["of"] = image.digest
        name = hashlib.sha256(f"mask read:{json.dumps(described, sort_keys=True)}".encode()).hexdigest()
        return self.numbers(name, _COVERAGE, lambda: _coverage(mask, image))["coverage"]

    def numbers(
        self, name: str, ranges: Mapping[str, float], measure: Callable[[], Mapping[str, float]]
    ) -> Mapping[str, float]:
        """Return the numbers of the content ``name``: from memory, from the store, or measured and kept.

        Args:
            name: a digest of all that decides the numbers.
            ranges: the numbers' names, and the most that each can be; the least is 0.
            measure: returns numbers of these names; what it raises is raised.
        """
        with self._lock:
            turn = self._turns.get(name) or self._turns.setdefault(name, threading.Lock())
        with turn:  # the second thread finds what the first has measured
            found = self._known.get(name) or self._recorded(name, ranges)
            if found is None:
                found = measure()
                self._record(name, found)
            with self._lock:
                self._known.pop(name, None)
                self._known[name] = found  # at the end: those not asked for in a long time are forgotten first
                if len(self._known) > _IN_MEMORY:
                    del self._known[next(iter(self._known))]
            return found

    def _recorded(self, name: str, ranges: Mapping[str, float]) -> Mapping[str, float] | None:
        if self._store is None:
            return None
        try:
            record = self._store.record(_KIND, name)
        except (OSError, ValueError, RecursionError):
            return None
        if record is None or record.get("version") != _VERSION:
            return None
        found: dict[str, Any] = {fact: record.get(fact) for fact in ranges}
        are_right = all(type(value) in (int, float) and 0 <= value <= ranges[fact] for fact, value in found.items())
        return {fact: float(value) for fact, value in found.items()} if are_right else None

    def _record(self, name: str, numbers: Mapping[str, float]) -> None:
        if self._store is not None and self._write:
            with contextlib.suppress(OSError):
                self._store.put_record(_KIND, name, {"version": _VERSION, **numbers})


def _has_alpha(image: ImageRef) -> bool:
    if image.media_type == "image/jpeg":
        return False
    with naming(image):
        return inspect(image.read()).has_alpha


def _coverage(mask: Mask, image: ImageRef) -> dict[str, float]:
    with naming(mask.file if isinstance(mask.file, ImageRef) else image):
        return {"coverage": masks.coverage(mask.render(image))}


def _pixel_facts(image: ImageRef) -> dict[str, float]:
    with naming(image), decoding(image):
        luma, visible = _luma(image.open())
        tally = luma.histogram(visible)
        inner = None if visible is None else masks.dilate(visible, -1)
        return {"sharpness": _sharpness(luma, inner), "brightness": _brightness(tally), "entropy": _entropy(tally)}


@contextlib.contextmanager
def naming(image: ImageRef) -> Iterator[None]:
    """Name ``image`` in any error; what Pillow raises, which converts few rare modes, becomes an InvalidImage."""
    where = files.quoted(image.uri or image.name)
    try:
        yield
    except InvalidImage as error:
        raise InvalidImage(f"{where}: {str(error).removeprefix(f'{where}: ')}") from None
    except FluxError:
        raise
    except (ValueError, OSError, MemoryError) as error:
        raise InvalidImage(f"{where}: its pixels cannot be judged: {error}") from None


def _luma(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the luma, 8 bits, and a picture that is white where it is visible; None if that is everywhere."""
    if not picture.has_transparency_data:
        return picture.convert("L"), None
    picture = picture.convert("RGBA")
    visible = masks.binarise(picture.getchannel("A"))
    return picture.convert("L"), visible if visible.getextrema() != (255, 255) else None


def _brightness(tally: list[int]) -> float:
    return sum(value * pixels for value, pixels in enumerate(tally)) / max(1, sum(tally))


def _entropy(tally: list[int]) -> float:
    whole = sum(tally)
    return sum(pixels / whole * math.log2(whole / pixels) for pixels in tally if pixels)


def _sharpness(luma: Image.Image, counted: Image.Image | None) -> float:
    """Return the variance of the Laplacian over the white pixels of ``counted``, exactly: all sums are integers."""
    width, height = luma.size
    padded = _mirrored(luma)
    pixels = total = squares = 0
    for top in range(0, height, _BAND):
        bottom = min(top + _BAND, height)
        band = padded.crop((0, top, width + 2, bottom + 2))
        part = None if counted is None else counted.crop((0, top, width, bottom))
        pixels += (bottom - top) * width if part is None else part.histogram()[255]
        for sign in (1, -1):
            for steepness, number in _slopes(band, sign, part):
                total += sign * steepness * number
                squares += steepness**2 * number
    return squares / pixels - (total / pixels) ** 2 if pixels else 0.0


def _slopes(band: Image.Image, sign: int, counted: Image.Image | None) -> Iterator[tuple[int, int]]:
    """Count how often each positive value of the Laplacian times ``sign`` occurs, the edges of ``band`` left out.

    A filtered picture has values from 0 to 255 and cuts off the rest, so each pass counts the next 254 values.
    """
    inside = (1, 1, band.width - 1, band.height - 1)
    weights = [sign * weight for weight in (0, 1, 0, 1, -4, 1, 0, 1, 0)]
    for below in range(0, _STEEPEST, 254):
        filtered = band.filter(ImageFilter.Kernel((3, 3), weights, scale=1, offset=-below))
        tally = filtered.crop(inside).histogram(counted)
        yield from ((below + value, number) for value, number in enumerate(tally[1:255], start=1) if number)
        if not tally[255]:
            return


def _mirrored(luma: Image.Image) -> Image.Image:
    """Return ``luma`` with one pixel more on each side, mirrored at the outermost ones, as OpenCV does by default."""
    width, height = luma.size
    padded = Image.new("L", (width + 2, height + 2))
    padded.paste(luma, (1, 1))
    for column, x in ((min(1, width - 1), 0), (max(0, width - 2), width + 1)):
        padded.paste(luma.crop((column, 0, column + 1, height)), (x, 1))
    for row, y in ((min(1, height - 1), 0), (max(0, height - 2), height + 1)):
        padded.paste(luma.crop((0, row, width, row + 1)), (1, y))
    return padded
